"""Assertions about torch.compile and torch.export of a layer as one graph."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor


def assert_compiles_in_one_graph(layer: Any, x: Tensor) -> None:
    """The compiled layer has the same result and gradients, and updates its buffers equally."""
    torch.compiler.reset()
    results = []
    for compiled in (False, True):
        twin, leaf = copy.deepcopy(layer), x.clone().requires_grad_()
        run = torch.compile(twin, fullgraph=True, backend="aot_eager") if compiled else twin
        y = run(leaf)
        y.square().sum().backward()
        results.append([y, leaf.grad, *(p.grad for p in twin.parameters()), *twin.buffers()])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


def assert_exports_with_any_batch(layer: Any, x: Tensor) -> torch.export.ExportedProgram:
    """The exported program, whose results are the layer's for another batch size, too."""
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: batch},))
    torch.testing.assert_close(program.module()(x[:2]), layer(x[:2]))
    return program
