"""Loading of sparse layers: the same pattern, another one, a dense state, a corrupt state."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn

from sparseq.formats import CSRPattern
from sparseq.nn import QLinear, SparseLinear, SparseQLinear
from tests.nn.conftest import PATTERN, assert_same, snapshot


def test_the_state_dict_is_values_and_pattern(case):
    layer = case.layer()
    assert sorted(layer.state_dict()) == ["bias", "col_idx", "row_ptr", "values"]
    assert list(layer.buffers()) == []
    assert all(getattr(layer, name).dtype == torch.int32 for name in PATTERN)
    assert "bias" not in case.layer(bias=False).state_dict()


def test_round_trip_with_the_same_pattern_keeps_the_tensors(case, x):
    a, b = case.layer(), case.from_dense(case.twin(seed=1), case.mask())
    pattern, values = b.pattern, b.values
    b.load_state_dict(a.state_dict())
    assert_same(a, b)
    assert b.pattern is pattern
    assert b.values is values
    assert torch.equal(a(x), b(x))


@pytest.mark.parametrize("assign", [False, True])
def test_another_pattern_is_adopted(case, x, assign):
    a, b = case.layer(seed=0), case.layer(seed=1)
    assert a.nnz != b.nnz
    b(x).sum().backward()
    b.load_state_dict(a.state_dict(), assign=assign)
    assert_same(a, b)
    assert torch.equal(a(x), b(x))
    b.zero_grad()
    b(x).sum().backward()
    assert b.values.grad.shape == b.values.shape


def test_an_adopted_pattern_shares_no_memory(case):
    a, b = case.layer(seed=0), case.layer(seed=1)
    before = snapshot(b)
    c = copy.deepcopy(b)
    c.load_state_dict(a.state_dict())
    c.values.data.zero_()
    assert snapshot(b).keys() == before.keys()
    assert all(torch.equal(snapshot(b)[name], before[name]) for name in before)
    assert a.row_ptr[-1] > 0
    assert a.values.abs().max() > 0


def test_layers_that_share_a_pattern_do_not_load_into_each_other():
    pattern = CSRPattern.from_mask(torch.eye(4, dtype=torch.bool))
    a, b = SparseLinear(4, 4, pattern), SparseLinear(4, 4, pattern)
    other = CSRPattern.from_mask(torch.eye(4).flip(0) > 0)
    a.load_state_dict(SparseLinear(4, 4, other).state_dict())
    assert torch.equal(b.col_idx, torch.arange(4, dtype=torch.int32))
    assert torch.equal(pattern.col_idx, torch.arange(4, dtype=torch.int32))


def test_an_optimizer_continues_with_the_adopted_values(case, x):
    a, b = case.layer(seed=0), case.layer(seed=1)
    optimizer = torch.optim.SGD(b.parameters(), lr=0.1)
    b.load_state_dict(a.state_dict())
    b(x).sum().backward()
    optimizer.step()
    assert not torch.equal(a.values, b.values)


@pytest.mark.parametrize("assign", [False, True])
def test_the_kept_entries_of_a_dense_state_dict_are_loaded(case, assign):
    layer, twin = case.layer(seed=0), case.twin(seed=3)
    pattern = layer.pattern
    state = twin.state_dict()
    layer.load_state_dict(state, assign=assign)
    assert sorted(state) == ["bias", "weight"]
    expected = torch.where(case.mask(), twin.weight, 0)
    assert torch.equal(layer.to_dense().weight, expected)
    assert torch.equal(layer.bias, twin.bias)
    assert layer.pattern is pattern


def test_models_load_sparse_and_dense_entries_side_by_side(case):
    a = nn.Sequential(case.layer(seed=0), nn.Linear(8, 3))
    b = nn.Sequential(case.layer(seed=1), nn.Linear(8, 3))
    b.load_state_dict(a.state_dict())
    assert_same(a, b)
    dense = nn.Sequential(case.twin(seed=5), nn.Linear(8, 3))
    a.load_state_dict(dense.state_dict())
    assert torch.equal(a[0].to_dense().weight, torch.where(case.mask(), dense[0].weight, 0))
    assert torch.equal(a[1].weight, dense[1].weight)


def corruptions(state: dict[str, torch.Tensor]) -> dict[str, tuple[dict, str]]:
    """Name -> (changed entries, a part of the message)."""
    row_ptr, col_idx, values = (state[k].clone() for k in ("row_ptr", "col_idx", "values"))
    high, low, decreasing, start = (
        col_idx.clone(),
        col_idx.clone(),
        row_ptr.clone(),
        row_ptr.clone(),
    )
    high[0], low[0], start[0] = 1000, -1, 1
    decreasing[1] = row_ptr[-1] + 1
    twice = col_idx.clone()
    twice[1] = twice[0]
    return {
        "column too high": ({"col_idx": high}, "col_idx must lie in"),
        "column negative": ({"col_idx": low}, "col_idx must lie in"),
        "columns that do not increase": ({"col_idx": twice}, "col_idx must increase"),
        "rows that decrease": ({"row_ptr": decreasing}, "row_ptr must not decrease"),
        "rows that do not start at 0": ({"row_ptr": start}, "row_ptr must go from 0"),
        "rows missing": ({"row_ptr": row_ptr[1:]}, "row_ptr must have shape"),
        "values missing": ({"values": values[1:]}, "values must be floating point of shape"),
        "values of integers": ({"values": values.int()}, "values must be floating point"),
        "values of another rank": ({"values": values[..., None]}, "values must be"),
        "float columns": ({"col_idx": col_idx.float()}, "col_idx must be a vector of integers"),
        "columns in two dimensions": (
            {"col_idx": col_idx[None], "values": values[None]},
            "col_idx must be a vector of integers",
        ),
        "meta rows": ({"row_ptr": row_ptr.to("meta")}, "must contain data"),
    }


@pytest.mark.parametrize(
    "kind", sorted(corruptions({k: torch.arange(4) for k in ("row_ptr", "col_idx", "values")}))
)
def test_a_corrupt_state_dict_is_refused_with_nothing_changed(case, kind):
    layer, state = case.layer(seed=0), dict(case.layer(seed=1).state_dict())
    changed, message = corruptions(state)[kind]
    before = snapshot(layer)
    with pytest.raises(RuntimeError, match=message):
        layer.load_state_dict({**state, **changed})
    assert all(torch.equal(before[name], tensor) for name, tensor in snapshot(layer).items())


@pytest.mark.parametrize("missing", ["values", "row_ptr", "col_idx"])
@pytest.mark.parametrize("strict", [True, False])
def test_an_incomplete_state_is_refused_with_nothing_changed(case, missing, strict):
    layer, state = case.layer(seed=0), dict(case.layer(seed=1).state_dict())
    before = snapshot(layer)
    del state[missing]
    with pytest.raises(RuntimeError, match="must contain values, row_ptr and col_idx together"):
        layer.load_state_dict(state, strict=strict)
    assert all(torch.equal(before[name], tensor) for name, tensor in snapshot(layer).items())


def test_a_weight_that_does_not_fit_is_refused_and_named(case):
    model = nn.Sequential(case.layer())
    before = snapshot(model)
    with pytest.raises(RuntimeError, match=r"0: Sparse\w+: weight must have shape"):
        model.load_state_dict({"0.weight": torch.zeros(3, 3), "0.bias": torch.zeros(8)})
    assert all(torch.equal(before[name], tensor) for name, tensor in snapshot(model).items())


def test_missing_and_unexpected_keys_are_reported_as_usual(case):
    layer = case.layer()
    result = layer.load_state_dict({}, strict=False)
    assert sorted(result.missing_keys) == ["bias", "col_idx", "row_ptr", "values"]
    state = {**layer.state_dict(), "weight": case.twin().weight}
    with pytest.raises(RuntimeError, match=r"Unexpected key\(s\) in state_dict: \"weight\""):
        layer.load_state_dict(state)


def test_the_other_granularity_is_refused():
    dense = QLinear(12, 8)
    component = SparseQLinear.from_dense(dense, granularity="component")
    quaternion = SparseQLinear.from_dense(dense, granularity="quaternion")
    with pytest.raises(RuntimeError, match="row_ptr must have shape"):
        component.load_state_dict(quaternion.state_dict())


def test_wide_indices_load_as_int32(case):
    a, b = case.layer(seed=0), case.layer(seed=1)
    state = {k: v.long() if k in PATTERN else v for k, v in a.state_dict().items()}
    b.load_state_dict(state)
    assert_same(a, b)
    c = case.layer(seed=1)
    c.load_state_dict(state, assign=True)
    assert all(getattr(c, name).dtype == torch.int32 for name in PATTERN)


def test_loading_converts_the_dtype(case):
    layer = case.layer(dtype=torch.float64)
    layer.load_state_dict(case.layer(seed=1).state_dict())
    assert layer.values.dtype == torch.float64


def test_torch_save(case, x):
    layer, file = case.layer(), io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other = case.layer(seed=1)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(layer(x), other(x))


def test_a_meta_layer_is_built_without_memory(case):
    real = case.layer()
    options = {} if case.name == "linear" else {"granularity": real.granularity}
    layer = type(real)(12, 8, real.pattern, device="meta", **options)
    assert all(tensor.is_meta for tensor in [*layer.parameters(), *layer.pattern.tensors])
    assert case.from_dense(case.twin().to("meta"), case.mask()).values.is_meta
    with pytest.raises(RuntimeError, match="only if the layer's pattern contains data"):
        layer.load_state_dict(case.twin().state_dict(), assign=True)
    with pytest.raises(ValueError, match="mask must be passed on the meta device"):
        case.from_dense(case.twin().to("meta"))


def test_a_compiled_layer_follows_a_new_pattern(case, x):
    torch.compiler.reset()
    layer = case.layer(seed=0)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    compiled(x)
    layer.load_state_dict(case.layer(seed=1).state_dict())
    torch.testing.assert_close(compiled(x), case.layer(seed=1)(x))
