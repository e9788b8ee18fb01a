"""What the layers' tests ask of torch.compile and torch.export, which see a layer whole."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor


def assert_compiles_whole(layer: Any, x: Tensor) -> None:
    """In one graph: the result, every gradient and what becomes of the buffers are the same."""
    torch.compiler.reset()
    results = []
    for compiled in (False, True):
        own, leaf = copy.deepcopy(layer), x.clone().requires_grad_()
        run = torch.compile(own, fullgraph=True, backend="aot_eager") if compiled else own
        y = run(leaf)
        y.square().sum().backward()
        results.append([y, leaf.grad, *(p.grad for p in own.parameters()), *own.buffers()])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


def assert_exports_with_any_batch(layer: Any, x: Tensor) -> torch.export.ExportedProgram:
    """The program of the layer, whose results are the same on a smaller batch, too."""
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: batch},))
    torch.testing.assert_close(program.module()(x[:2]), layer(x[:2]))
    return program
