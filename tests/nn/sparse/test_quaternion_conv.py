"""Sparse quaternion convolutions: the masked dense layer's function, gradients and state."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from sparseq.compression.sparsify import compress
from sparseq.files.model_file import load, save
from sparseq.formats import CSRPattern
from sparseq.nn import QConv2d, SparseConv2d, SparseQConv1d, SparseQConv2d, SparseQConv3d
from sparseq.nn.convert import to_dense
from sparseq.reports.profiling import profile
from tests.nn.conftest import assert_same
from tests.nn.full_graph import assert_compiles_in_one_graph, assert_exports_with_any_batch

KINDS = (SparseQConv1d, SparseQConv2d, SparseQConv3d)
over_kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
over_granularities = pytest.mark.parametrize("granularity", ["component", "quaternion"])
SETTINGS = (
    {"kernel_size": 3},
    {"kernel_size": 3, "stride": 2, "padding": 1, "dilation": 2, "groups": 2, "bias": False},
    {"kernel_size": 3, "padding": 1, "padding_mode": "circular"},
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def image(kind, batch: int = 3, dtype=torch.float32):
    return torch.randn(batch, 16, *[7] * kind.dense.dims, generator=seeded(7), dtype=dtype)


def masked(kind, granularity, dtype=torch.float32, seed: int = 0, **settings):
    """A dense layer with zeros at random positions, and the mask of its other weights."""
    settings = {"kernel_size": 3, "padding": 1, **settings}
    dense = kind.dense(16, 8, **settings, dtype=dtype, generator=seeded(seed))
    if dense.bias is not None:
        nn.init.normal_(dense.bias, generator=seeded(seed + 1))
    drawn = torch.rand(dense.weight.shape, generator=seeded(100 + seed))
    keep = (drawn[:1].expand_as(drawn) if granularity == "quaternion" else drawn) < 0.4
    dense.weight.data[~keep] = 0
    return dense, keep


def sparse_layer(kind, granularity="component", seed: int = 0, **settings):
    return kind.from_dense(*masked(kind, granularity, seed=seed, **settings))


@over_kinds
@over_granularities
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_computes_what_the_masked_dense_layer_does(kind, granularity, settings):
    dense, keep = masked(kind, granularity, torch.float64, **{"padding": 0, **settings})
    sparse = kind.from_dense(dense, keep)
    assert sparse.granularity == granularity
    results = []
    for layer in (sparse, dense):
        x = image(kind, dtype=torch.float64).requires_grad_()
        y = layer(x)
        y.square().sum().backward()
        results.append((y, x.grad, *([] if layer.bias is None else [layer.bias.grad])))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)
    twin = copy.deepcopy(sparse)
    state = {name: p.grad for name, p in dense.named_parameters()}
    twin.load_state_dict(state)
    torch.testing.assert_close(sparse.values.grad, twin.values.detach())


@over_kinds
@over_granularities
def test_to_dense_is_the_exact_inverse(kind, granularity):
    for settings in SETTINGS:
        dense, keep = masked(kind, granularity, **{"padding": 0, **settings})
        sparse = kind.from_dense(dense, keep)
        again = sparse.to_dense()
        assert type(again) is kind.dense
        assert repr(again) == repr(dense)
        assert all(torch.equal(again.state_dict()[k], v) for k, v in dense.state_dict().items())
        assert sparse.density == pytest.approx(keep.float().mean().item())


@over_kinds
@over_granularities
def test_copies_and_states(kind, granularity, tmp_path):
    one, other, x = (
        sparse_layer(kind, granularity),
        sparse_layer(kind, granularity, seed=5),
        image(kind),
    )
    for twin in (copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        assert_same(one, twin)
        assert torch.equal(one(x), twin(x))
    assert sorted(one.state_dict()) == ["bias", "col_idx", "row_ptr", "values"]
    assert copy.deepcopy(one).to(torch.float64).pattern is one.pattern
    other.load_state_dict(one.state_dict())
    assert_same(other, one)
    for assign in (False, True):
        empty = copy.deepcopy(one).to("meta")
        assert empty(x.to("meta")).shape == one(x).shape
        empty = empty if assign else empty.to_empty(device="cpu")
        empty.load_state_dict(one.state_dict(), assign=assign)
        assert torch.equal(empty(x), one(x))
    save(nn.Sequential(one), tmp_path / "m.sparseq")
    again = load(tmp_path / "m.sparseq")
    assert repr(again[0]) == repr(one)
    assert torch.equal(again(x), one(x))


@over_granularities
def test_compile_and_export(granularity):
    layer, x = sparse_layer(SparseQConv2d, granularity), image(SparseQConv2d)
    assert_compiles_in_one_graph(layer, x)
    assert_exports_with_any_batch(layer, x)


@over_granularities
def test_initial_output_variance_is_two(granularity):
    rows = 256 if granularity == "component" else 64
    drawn = torch.rand(rows, 64 * 9, generator=seeded())
    layer = SparseQConv2d(256, 256, 3, CSRPattern.from_mask(drawn < 0.2), granularity=granularity)
    x = torch.randn(8, 256, 8, 8, generator=seeded(1))
    assert layer(x).var().item() == pytest.approx(2, rel=0.1)


def test_networks_are_compressed_and_profiled():
    model = nn.Sequential(QConv2d(16, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten())
    mask = {f"{i}.weight": torch.rand_like(model[i].weight) < 0.2 for i in (0, 2)}
    small = compress(model, mask, policy="sparse")
    assert [type(small[i]) for i in (0, 2)] == [SparseQConv2d, SparseConv2d]
    with torch.no_grad():
        for i in (0, 2):
            model[i].weight.mul_(mask[f"{i}.weight"])
    x = torch.randn(2, 16, 6, 6)
    torch.testing.assert_close(small(x), model(x), rtol=1e-4, atol=1e-5)
    rows = profile(small, x, repeats=1).rows
    assert [row.kernel.split()[0] for row in rows] == ["sparse_conv", "sparse_conv"]
    assert [row.nnz for row in rows] == [int(keep.sum()) for keep in mask.values()]
    assert profile(model, x, repeats=1).rows[0].sparse_ms is not None
    real = to_dense(to_dense(small))
    torch.testing.assert_close(real(x), model(x), rtol=1e-4, atol=1e-5)


def test_errors():
    pattern = CSRPattern.from_mask(torch.ones(8, 18, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"pattern must have shape \(8, 36\) for component"):
        SparseQConv2d(16, 8, 3, pattern)
    with pytest.raises(ValueError, match="granularity 'row'"):
        SparseQConv2d(8, 8, 3, pattern, granularity="row")
    with pytest.raises(ValueError, match="in_channels must be divisible by 4"):
        SparseQConv2d(6, 8, 3, pattern)
    dense, keep = masked(SparseQConv2d, "component")
    with pytest.raises(ValueError, match="must keep or drop whole quaternions"):
        SparseQConv2d.from_dense(dense, keep, "quaternion")
