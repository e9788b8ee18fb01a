"""What every layer must support: copies, moves, compilation, export, wrappers."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.distributed as dist
from torch import nn

from sparseq.compression.candidates import convert
from sparseq.nn import ExpanderConv1d, QConv1d
from tests.nn.conftest import CASES, assert_same
from tests.nn.full_graph import assert_compiles_in_one_graph, assert_exports_with_any_batch


def test_deepcopy_and_pickle(layer, x):
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert_same(layer, twin)
        assert torch.equal(layer(x), twin(x))
        with torch.no_grad():
            next(twin.parameters()).zero_()
        assert next(layer.parameters()).abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_a_change_of_dtype_keeps_the_indices_int32(layer, x, dtype):
    moved = copy.deepcopy(layer).to(dtype)
    assert getattr(moved, "pattern", None) is getattr(layer, "pattern", None)
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


def test_compiled_in_one_graph_forward_and_backward(layer, x):
    assert_compiles_in_one_graph(layer, x)


def test_export(layer, x):
    program = assert_exports_with_any_batch(layer, x)
    assert set(dict(layer.named_parameters())) <= set(program.state_dict)
    constants = list(program.constants.values())
    for ids in layer.pattern.tensors[:2] if hasattr(layer, "pattern") else []:
        assert any(torch.equal(constant, ids) for constant in constants)


def test_functional_call(layer, x):
    doubled = {name: 2 * p.detach() for name, p in layer.named_parameters()}
    y = torch.func.functional_call(layer, doubled, (x,))
    torch.testing.assert_close(y, 2 * layer(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_as_in_a_linear_layer(layer, x, dtype):
    with torch.autocast("cpu", dtype):
        y = layer(x)
    assert y.dtype == dtype
    y.float().sum().backward()
    assert {parameter.grad.dtype for parameter in layer.parameters()} == {torch.float32}
    torch.testing.assert_close(y.float(), layer(x), rtol=5e-2, atol=5e-2)


def test_model_wide_initialization_keeps_the_pattern(case):
    layer = case.layer()
    before = layer.dense_weight().detach()
    nn.Sequential(layer).apply(lambda module: getattr(module, "reset_parameters", int)())
    after = layer.dense_weight().detach()
    assert not torch.equal(after, before)
    assert torch.equal(after != 0, before != 0)


def train_in_parallel(rank: int, store: str, model: nn.Module) -> None:
    """One of two processes: a step on its half of the batch."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    parallel = nn.parallel.DistributedDataParallel(model)
    x = torch.randn(4, 12, generator=torch.Generator().manual_seed(rank))
    for _ in range(2):  # the second forward broadcasts the buffers
        parallel(x).square().sum().backward()
    gradients = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    gathered = [torch.empty_like(gradients) for _ in range(2)]
    dist.all_gather(gathered, gradients)
    assert torch.equal(*gathered)
    dist.barrier()  # neither leaves while the other still uses the connection
    dist.destroy_process_group()


def halved(layer: nn.Module) -> nn.Module:
    """The sparse twin of a layer, with about half of its weights."""
    keep = torch.rand(layer.weight.shape, generator=torch.Generator().manual_seed(3)) < 0.5
    return convert(layer, keep)


def test_distributed_data_parallel(tmp_path):
    model = nn.Sequential(
        CASES[0].layer(),
        nn.Linear(8, 12),
        CASES[1].layer(),
        nn.Unflatten(1, (8, 1)),
        QConv1d(8, 4, 1),
        halved(nn.Conv1d(4, 8, 1)),
        halved(QConv1d(8, 4, 1)),
        ExpanderConv1d(4, 4, 3, padding=1, degree=2, seed=1),
    )
    args = (str(tmp_path / "store"), model)
    torch.multiprocessing.spawn(train_in_parallel, args, nprocs=2)
