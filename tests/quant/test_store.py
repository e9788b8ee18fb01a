"""Value stores: with another store a layer does everything that it does with floats."""

from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import sparseq
from sparseq.errors import require
from sparseq.nn import ExpanderConv2d, ExpanderLinear, SparseConv2d, SparseLinear, SparseQLinear
from sparseq.ops.spmm import spmm
from sparseq.quant import FLOAT, STORES, ValueStore, store_from_json


@dataclass(frozen=True)
class StepStore(ValueStore):
    """Int8 multiples of a trained step: a minimal quantizer to test the interface."""

    name = "steps"
    tensors = ("step", "counts")
    largest: int = 100

    def encode(self, values):
        step = values.abs().max() / self.largest if values.numel() else values.new_ones(())
        step = step.clamp(min=1e-12)
        return {"step": nn.Parameter(step), "counts": (values / step).round().to(torch.int8)}

    def values(self, layer):
        return layer.counts * layer.step

    def check(self, op, stored, shape):
        counts = stored["counts"]
        fits = counts.shape == shape and counts.dtype == torch.int8
        require(fits, op, "counts", f"must be int8 of shape {shape}", tuple(counts.shape))


@dataclass(frozen=True)
class FusedStore(StepStore):
    """The same store with a fused kernel for one operator."""

    name = "fused"

    def product(self, layer, multiply, x, *settings):
        if multiply is not spmm:
            return super().product(layer, multiply, x, *settings)
        counts = layer.counts.to(x.dtype)
        y = spmm(x, counts, layer._pattern_tensors()) * layer.step
        return y if layer.bias is None else y + layer.bias


@pytest.fixture(autouse=True)
def stores(monkeypatch):
    monkeypatch.setattr(STORES, "_entries", dict(STORES._entries))
    for kind in (StepStore, FusedStore):
        STORES.register(kind.name)(kind)


def keep(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(3)) < 0.4


def sparse(kind, dense):
    return kind.from_dense(dense, keep(*dense.weight.shape))


LAYERS = {
    "linear": (lambda: sparse(SparseLinear, nn.Linear(12, 8)), (5, 12)),
    "quaternion": (lambda: sparse(SparseQLinear, sparseq.QLinear(12, 8)), (5, 12)),
    "conv": (lambda: sparse(SparseConv2d, nn.Conv2d(3, 4, 3, padding=1)), (2, 3, 6, 5)),
    "expander": (lambda: ExpanderLinear(12, 8, 3), (5, 12)),
    "blocks": (lambda: ExpanderLinear(12, 8, 4, "block(2)"), (5, 12)),
    "slices": (lambda: ExpanderConv2d(4, 6, 3, 2), (2, 4, 6, 5)),
}


@pytest.fixture(params=LAYERS)
def stored(request):
    """(layer in a StepStore, the same layer with its rounded entries as floats, an input)."""
    torch.manual_seed(0)
    make, shape = LAYERS[request.param]
    layer = make()
    layer.use_store(StepStore(50))
    rounded = copy.deepcopy(layer)
    rounded.use_store(FLOAT)
    return layer, rounded, torch.randn(shape)


class TestALayerWithAnotherStore:
    def test_computes_with_its_entries(self, stored):
        layer, rounded, x = stored
        assert [name for name, _ in layer.named_parameters()] == ["step", "bias"]
        assert (layer.nnz, layer.density) == (rounded.nnz, rounded.density)
        torch.testing.assert_close(layer(x), rounded(x))
        torch.testing.assert_close(layer.dense_weight(), rounded.dense_weight())

    def test_trains_what_its_store_trains(self, stored):
        layer, rounded, x = stored
        layer(x).square().sum().backward()
        rounded(x).square().sum().backward()
        expected = (rounded.values.grad * layer.counts).sum()
        torch.testing.assert_close(layer.step.grad, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(layer.bias.grad, rounded.bias.grad, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("make_copy", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
    def test_is_copied(self, stored, make_copy):
        layer, _, x = stored
        again = make_copy(layer)
        assert again.store == layer.store
        assert torch.equal(again(x), layer(x))

    def test_is_saved_with_its_store(self, stored, tmp_path):
        layer, _, x = stored
        sparseq.save(nn.Sequential(layer), tmp_path / "m.sparseq")
        again = sparseq.load(tmp_path / "m.sparseq")
        assert again[0].store == StepStore(50)
        assert torch.equal(again(x), layer(x))
        assert torch.equal(again[0].counts, layer.counts)

    def test_is_profiled_and_becomes_dense(self, stored):
        layer, rounded, x = stored
        (row,) = sparseq.profile(nn.Sequential(layer), x, 1).rows
        assert row.nnz == rounded.nnz
        dense = sparseq.to_dense(nn.Sequential(layer))[0]
        torch.testing.assert_close(dense.weight, rounded.to_dense().weight)

    def test_loads_a_state_of_another_pattern(self):
        small, large = (nn.Linear(12, 8) for _ in range(2))
        layer = SparseLinear.from_dense(small, keep(8, 12))
        other = SparseLinear.from_dense(large, ~keep(8, 12))
        layer.use_store(StepStore())
        other.use_store(StepStore())
        step = layer.step
        layer.load_state_dict(other.state_dict())
        assert layer.step is step
        x = torch.randn(3, 12)
        assert torch.equal(layer(x), other(x))

    def test_loads_a_dense_state_through_its_pattern(self):
        dense = nn.Linear(12, 8)
        layer = SparseLinear.from_dense(dense, keep(8, 12))
        layer.use_store(StepStore())
        with torch.no_grad():
            dense.weight.mul_(3)
        layer.load_state_dict(dense.state_dict())
        kept = layer.pattern.gather(dense.weight)
        torch.testing.assert_close(layer.kept_values(), kept, rtol=0, atol=layer.step.item())

    def test_refuses_the_tensors_of_another_store(self):
        layer = SparseLinear.from_dense(nn.Linear(12, 8), keep(8, 12))
        state = layer.state_dict()
        layer.use_store(StepStore())
        with pytest.raises(RuntimeError, match="must contain step, counts, row_ptr and col_idx"):
            layer.load_state_dict(state)

    def test_keeps_gradient_flags(self):
        layer = SparseLinear.from_dense(nn.Linear(12, 8).requires_grad_(False), keep(8, 12))
        layer.use_store(StepStore())
        assert not layer.step.requires_grad

    def test_a_normalization_is_folded_into_it(self):
        layer = SparseLinear.from_dense(nn.Linear(12, 8), keep(8, 12))
        layer.use_store(StepStore())
        norm = nn.BatchNorm1d(8)
        norm.running_var.uniform_(0.5, 2)
        model = nn.Sequential(layer, norm).eval()
        x = torch.randn(3, 12)
        folded = sparseq.fold_batchnorm(model)
        assert type(folded[1]) is nn.Identity
        torch.testing.assert_close(folded(x), model(x), rtol=0, atol=0.2)


def test_a_fused_operator_is_an_override_of_the_store():
    layer = SparseLinear.from_dense(nn.Linear(12, 8), keep(8, 12))
    layer.use_store(FusedStore())
    plain = copy.deepcopy(layer)
    plain.use_store(FLOAT)
    x = torch.randn(3, 12)
    torch.testing.assert_close(layer(x), plain(x))


class TestFiles:
    def test_stores_are_rebuilt_from_json(self):
        store = StepStore(7)
        assert store_from_json(store.to_json()) == store
        assert store_from_json(FLOAT.to_json()) == FLOAT

    @pytest.mark.parametrize("entry", [{"name": "nope"}, {}])
    def test_unknown_stores_are_refused(self, entry):
        with pytest.raises(ValueError, match=r"unknown value store .*choose one of: float"):
            store_from_json(entry)

    def test_unknown_settings_are_refused(self):
        with pytest.raises(ValueError, match="must have settings of 'steps': largest, got"):
            store_from_json({"name": "steps", "smallest": 1})

    def test_the_default_store_is_not_written(self):
        from sparseq.files.modules import module_spec

        layer = SparseLinear.from_dense(nn.Linear(12, 8), keep(8, 12))
        assert "store" not in module_spec(layer)["args"]
        assert set(layer.state_dict()) == {"values", "row_ptr", "col_idx", "bias"}
