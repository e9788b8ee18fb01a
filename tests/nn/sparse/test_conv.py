"""Sparse convolutions: the masked dense layer's function, gradients and state."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from sparseq.files.model_file import load, save
from sparseq.formats import CSRPattern
from sparseq.nn import SparseConv1d, SparseConv2d, SparseConv3d, to_dense
from sparseq.ops.sparse_conv_chain import chain_checked
from tests.nn.conftest import assert_same
from tests.nn.full_graph import assert_compiles_in_one_graph, assert_exports_with_any_batch

KINDS = (SparseConv1d, SparseConv2d, SparseConv3d)
over_kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
pytestmark = pytest.mark.filterwarnings("ignore:Using padding=.same. with even kernel")
SETTINGS = (
    {"kernel_size": 3},
    {"kernel_size": 3, "stride": 2, "padding": 1, "dilation": 2, "groups": 2, "bias": False},
    {"kernel_size": 1, "stride": 2},
    {"kernel_size": 4, "padding": "same"},
    {"kernel_size": 3, "padding": "same", "dilation": 2},
    {"kernel_size": 2, "padding": "valid"},
)
MODES = ("zeros", "reflect", "replicate", "circular")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def image(kind, channels: int = 4, batch: int = 3, size: int = 7, dtype=torch.float32):
    dims = len(kind.dense(1, 1, 1).kernel_size)
    return torch.randn(batch, channels, *[size] * dims, generator=seeded(7), dtype=dtype)


def masked(kind, dtype=torch.float32, seed: int = 0, **settings):
    """A dense layer with zeros at random positions, and the mask of its other weights."""
    dense = kind.dense(4, 6, **{"kernel_size": 3, "padding": 1, **settings}, dtype=dtype)
    for number, parameter in enumerate(dense.parameters()):
        parameter.data = torch.randn(parameter.shape, generator=seeded(seed + number), dtype=dtype)
    keep = torch.rand(dense.weight.shape, generator=seeded(100 + seed)) < 0.4
    dense.weight.data[~keep] = 0
    return dense, keep


def sparse_layer(kind, seed: int = 0, **settings):
    """A sparse layer with a random pattern."""
    return kind.from_dense(*masked(kind, seed=seed, **settings))


@over_kinds
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_computes_what_the_masked_dense_layer_does(kind, settings):
    dense, keep = masked(kind, torch.float64, **{"padding": 0, **settings})
    sparse = kind.from_dense(dense, keep)
    results = []
    for layer in (sparse, dense):
        x = image(kind, dtype=torch.float64).requires_grad_()
        y = layer(x)
        y.square().sum().backward()
        results.append((y, x.grad, *([] if layer.bias is None else [layer.bias.grad])))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)
    want = sparse.pattern.gather(dense.weight.grad.flatten(1))
    torch.testing.assert_close(sparse.values.grad, want)


@over_kinds
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("padding", [2, "same"])
def test_padding_modes(kind, mode, padding):
    dense, keep = masked(kind, kernel_size=4, padding=padding, padding_mode=mode)
    sparse = kind.from_dense(dense, keep)
    torch.testing.assert_close(sparse(image(kind)), dense(image(kind)), rtol=1e-4, atol=1e-5)
    assert sparse.to_dense().extra_repr() == dense.extra_repr()


@over_kinds
def test_accepts_one_image_without_a_batch(kind):
    layer, x = sparse_layer(kind), image(kind)
    assert torch.equal(layer(x[0]), layer(x[:1])[0])


@over_kinds
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_to_dense_is_the_exact_inverse(kind, dtype, settings):
    dense, keep = masked(kind, dtype, **{"padding": 0, **settings})
    for sparse in (kind.from_dense(dense), kind.from_dense(dense, keep)):
        again = sparse.to_dense()
        assert type(again) is kind.dense
        assert again.extra_repr() == dense.extra_repr()
        assert again.weight.dtype == dtype
        assert again.state_dict().keys() == dense.state_dict().keys()
        assert all(torch.equal(again.state_dict()[k], v) for k, v in dense.state_dict().items())
    assert torch.equal(to_dense(nn.Sequential(sparse))[0].weight, dense.weight)


@over_kinds
def test_deepcopy_pickle_and_another_dtype(kind):
    layer, x = sparse_layer(kind), image(kind)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert_same(layer, twin)
        assert torch.equal(layer(x), twin(x))
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        moved = copy.deepcopy(layer).to(dtype)
        assert moved.pattern is layer.pattern
        torch.testing.assert_close(moved(x.to(dtype)).float(), layer(x), rtol=5e-2, atol=5e-2)
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16


@over_kinds
def test_loads_another_pattern_a_dense_state_and_on_meta(kind):
    one, other, x = sparse_layer(kind), sparse_layer(kind, seed=5), image(kind)
    assert sorted(one.state_dict()) == ["bias", "col_idx", "row_ptr", "values"]
    adopted = copy.deepcopy(other)
    adopted.load_state_dict(one.state_dict())
    assert_same(adopted, one)
    assert torch.equal(adopted(x), one(x))
    for assign in (False, True):
        empty = copy.deepcopy(one).to("meta")
        assert empty(x.to("meta")).shape == one(x).shape
        empty = empty if assign else empty.to_empty(device="cpu")
        empty.load_state_dict(one.state_dict(), assign=assign)
        assert torch.equal(empty(x), one(x))
    dense = masked(kind, seed=9)[0]
    dense.weight.data.normal_(generator=seeded())
    one.load_state_dict(dense.state_dict())
    keep = one.dense_weight() != 0
    assert torch.equal(one.to_dense().weight, torch.where(keep, dense.weight, 0))
    with pytest.raises(RuntimeError, match="weight must have shape"):
        one.load_state_dict({"weight": dense.weight[1:], "bias": dense.bias})


@over_kinds
def test_compiled_in_one_graph_forward_and_backward(kind):
    assert_compiles_in_one_graph(sparse_layer(kind, stride=2), image(kind))


@over_kinds
def test_export_with_any_batch(kind):
    assert_exports_with_any_batch(sparse_layer(kind), image(kind))


@over_kinds
def test_files(kind, tmp_path):
    model = nn.Sequential(sparse_layer(kind, stride=2, padding_mode="reflect"), nn.ReLU())
    save(model, tmp_path / "m.sparseq")
    again = load(tmp_path / "m.sparseq")
    assert_same(model, again)
    assert repr(again) == repr(model)
    assert torch.equal(again(image(kind)), model(image(kind)))


def test_initial_values_depend_on_the_kept_inputs():
    pattern = CSRPattern.from_mask(torch.rand(64, 32 * 9, generator=seeded()) < 0.2)
    layer = SparseConv2d(32, 64, 3, pattern)
    bound = layer.row_ptr.diff().float().rsqrt()
    assert (layer.values.abs() <= bound[pattern.rows()]).all()
    assert (layer.bias.abs() <= bound).all()
    assert layer.density == pytest.approx(pattern.nnz / (64 * 32 * 9))
    before = layer.values.detach().clone()
    layer.reset_parameters(seeded(3))
    assert not torch.equal(layer.values, before)


def test_errors():
    pattern = CSRPattern.from_mask(torch.ones(4, 18, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"SparseConv2d: pattern must have shape \(4, 27\)"):
        SparseConv2d(3, 4, 3, pattern)
    with pytest.raises(ValueError, match="padding_mode must be one of"):
        SparseConv2d(2, 4, 3, pattern, padding_mode="nope")
    with pytest.raises(ValueError, match=r"from_dense: module must be Conv2d, got Conv1d"):
        SparseConv2d.from_dense(nn.Conv1d(2, 4, 3))
    with pytest.raises(ValueError, match=r"sparse_conv: x must be \(N, 2\) with 2 spatial"):
        SparseConv2d(2, 4, 3, pattern)(torch.zeros(1, 3, 5, 5))
    with pytest.raises(ValueError, match=r"mask must be a bool tensor of shape \(4, 2, 3, 3\)"):
        SparseConv2d.from_dense(nn.Conv2d(2, 4, 3), torch.ones(4, 2, 3, 3))


def test_nothing_kept_gives_the_bias():
    layer = SparseConv2d.from_dense(nn.Conv2d(2, 4, 3), torch.zeros(4, 2, 3, 3, dtype=torch.bool))
    y = layer(torch.randn(2, 2, 5, 5))
    assert torch.equal(y, layer.bias[:, None, None].expand_as(y))


@pytest.mark.parametrize("size", [(3, 3), (8, 7), (9, 9)], ids=str)
@pytest.mark.parametrize("batch", [1, 5, 6, 17])
def test_inference_agrees_with_training(batch, size, monkeypatch):
    layer, chained = sparse_layer(SparseConv2d), []
    x = torch.randn(batch, 4, *size, generator=seeded(7))

    def count(*arguments):
        chained.append(True)
        return chain_checked(*arguments)

    monkeypatch.setattr("sparseq.nn.sparse.conv.chain_checked", count)
    want = layer(x)
    assert not chained
    with torch.no_grad():
        torch.testing.assert_close(layer(x), want)
        torch.testing.assert_close(layer(x[0]), want[0])
    assert len(chained) == (batch <= 5 or size != (9, 9))
