"""What every layer must survive: copies, moves, compilation, export, wrappers."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.distributed as dist
from torch import nn

from tests.nn.conftest import assert_same


def test_deepcopy_and_pickle(layer, x):
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert_same(layer, twin)
        assert torch.equal(layer(x), twin(x))
        with torch.no_grad():
            next(twin.parameters()).zero_()
        assert next(layer.parameters()).abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_a_change_of_dtype_leaves_the_indices(layer, x, dtype):
    moved = copy.deepcopy(layer).to(dtype)
    assert all(buffer.dtype == torch.int32 for buffer in moved.buffers())
    assert all(parameter.dtype == dtype for parameter in moved.parameters())
    y = moved(x.to(dtype))
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), layer(x), rtol=5e-2, atol=5e-2)


def test_meta_layers_are_filled_by_loading(layer, x):
    for assign in (False, True):
        empty = copy.deepcopy(layer).to("meta")
        assert empty(x.to("meta")).shape == (5, 8)
        if not assign:
            empty.to_empty(device="cpu")
        empty.load_state_dict(layer.state_dict(), assign=assign)
        assert_same(empty, layer)
        assert torch.equal(empty(x), layer(x))


def test_compiled_whole_forward_and_backward(layer, x):
    torch.compiler.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    results = []
    for run in (layer, compiled):
        layer.zero_grad()
        own = x.clone().requires_grad_()
        y = run(own)
        y.square().sum().backward()
        results.append([y, own.grad, *(p.grad.clone() for p in layer.parameters())])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_export(layer, x):
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: batch},))
    torch.testing.assert_close(program.module()(x[:3]), layer(x[:3]))
    kept = set(layer.state_dict())
    assert kept <= set(program.state_dict) | set(program.constants)


def test_functional_call(layer, x):
    doubled = {name: 2 * p.detach() for name, p in layer.named_parameters()}
    y = torch.func.functional_call(layer, doubled, (x,))
    torch.testing.assert_close(y, 2 * layer(x))


def test_distributed_data_parallel(case, x, tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        layer = case.layer()
        parallel = nn.parallel.DistributedDataParallel(layer)
        parallel(x).sum().backward()
        assert layer.values.grad.shape == layer.values.shape
    finally:
        dist.destroy_process_group()
