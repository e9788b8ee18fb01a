"""The registry of layers: a layer added by one file works with every part of sparseq."""

from __future__ import annotations

import importlib.util
import sys
import textwrap

import pytest
import torch
from torch import nn

import sparseq
from sparseq.nn import LAYER_TYPES, SparseLinear
from sparseq.nn.layer_types import nearest_type, sparse_type, type_of, weight_parameters
from sparseq.ops._backend import OPERATORS

SOURCE = '''
    """Layers that scale each feature: a dense one, one for `swap`, and a sparse twin."""

    import torch
    from torch import nn

    from sparseq.formats import CSRPattern
    from sparseq.nn import layer_type
    from sparseq.nn.sparse.patterned import (
        PatternedLayer, build_with_store, empty_pattern, stored_weights, with_store,
    )
    from sparseq.nn.twins import match_twin


    def fold(layer, affine):
        return affine.linear(layer.weight.double())


    @layer_type(weights=("weight",), fold=fold)
    class Scale(nn.Module):
        def __init__(self, features, bias=True, device=None, dtype=None):
            super().__init__()
            self.features = self.out_features = features
            self.weight = nn.Parameter(torch.ones(features, 1, device=device, dtype=dtype))
            self.bias = nn.Parameter(torch.zeros(features)) if bias else None

        def forward(self, x):
            y = x * self.weight[:, 0]
            return y if self.bias is None else y + self.bias


    @layer_type(twin=Scale, weights=("weight",))
    class DoubledScale(Scale):
        """Replaces a Scale in swap, with initial weights of 2."""

        @classmethod
        def like(cls, module, generator=None):
            layer = cls(module.features, module.bias is not None)
            nn.init.constant_(layer.weight, 2.0)
            return layer

        def to_dense(self):
            layer = Scale(self.features, self.bias is not None)
            layer.load_state_dict(self.state_dict())
            return layer


    def build(features, bias=True):
        return SparseScale(features, empty_pattern(features, 1), bias=bias)


    def arguments(layer):
        return with_store({"features": layer.features, "bias": layer.bias is not None}, layer)


    @layer_type(twin=Scale, weights=stored_weights, arguments=arguments,
                build=build_with_store(build), break_even=("Linear", "Linear"))
    class SparseScale(PatternedLayer):
        def __init__(self, features, pattern, values=None, bias=True):
            super().__init__()
            self.features = self.in_features = self.out_features = features
            self._register(pattern, values, bias, None, None)

        @classmethod
        def from_dense(cls, module, keep):
            pattern = CSRPattern.from_mask(keep)
            values = pattern.gather(module.weight.detach())
            layer = cls(module.features, pattern, values, module.bias is not None)
            match_twin(layer, module)
            return layer

        def to_dense(self):
            layer = Scale(self.features, self.bias is not None)
            layer.weight = nn.Parameter(self.dense_weight().detach())
            match_twin(layer, self)
            return layer

        def dense_weight(self):
            weight = torch.zeros(self.features, 1)
            return weight.index_put((self.pattern.rows(), self.col_idx.long()), self.kept_values())

        def _matrix(self, weight):
            return weight

        def forward(self, x):
            y = x * self.dense_weight()[:, 0]
            return y if self.bias is None else y + self.bias
'''


@pytest.fixture
def scales(tmp_path, monkeypatch):
    """The module of SOURCE; its layers are unregistered afterwards."""
    monkeypatch.setattr(LAYER_TYPES, "_entries", dict(LAYER_TYPES._entries))
    file = tmp_path / "scales.py"
    file.write_text(textwrap.dedent(SOURCE))
    spec = importlib.util.spec_from_file_location("scales", file)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "scales", module)
    spec.loader.exec_module(module)
    return module


def net(scales):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), scales.Scale(8), nn.BatchNorm1d(8)).eval()
    nn.init.normal_(model[2].weight)
    model[3].running_mean.uniform_(-1, 1)
    model[3].running_var.uniform_(0.5, 2)
    return model


class TestALayerInOneFile:
    X = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))

    def test_is_pruned_and_compressed(self, scales):
        model = net(scales)
        mask = sparseq.prune(model, density=0.5, scope="layerwise")
        assert set(mask) == {"0.weight", "2.weight"}
        small = sparseq.compress(model, mask, policy="sparse")
        assert type(small[2]) is scales.SparseScale
        assert small[2].nnz == 4
        mask.apply_(model)
        torch.testing.assert_close(small(self.X), model(self.X))

    def test_policy_auto_decides_by_its_size(self, scales):
        model = net(scales)
        assert type(sparseq.compress(model, sparseq.prune(model, density=0.5))[2]) is scales.Scale

    def test_is_profiled(self, scales):
        model = net(scales)
        small = sparseq.compress(model, sparseq.prune(model, density=0.5), policy="sparse")
        row = next(row for row in sparseq.profile(small, self.X, 1).rows if row.name == "2")
        assert (row.kind, row.kernel) == ("SparseScale", "torch")
        assert row.dense_ms > 0
        assert row.sparse_ms > 0

    def test_is_saved_and_loaded(self, scales, tmp_path):
        model = net(scales)
        mask = sparseq.prune(model, density=0.5)
        for each in (model, sparseq.compress(model, mask, policy="sparse")):
            sparseq.save(each, tmp_path / "m.sparseq", overwrite=True)
            again = sparseq.load(tmp_path / "m.sparseq")
            assert type(again[2]) is type(each[2])
            assert torch.equal(again(self.X), each(self.X))

    def test_becomes_dense_again(self, scales):
        model = net(scales)
        mask = sparseq.prune(model, density=0.5)
        dense = sparseq.to_dense(sparseq.compress(model, mask, policy="sparse"))
        mask.apply_(model)
        assert type(dense[2]) is scales.Scale
        assert torch.equal(dense[2].weight, model[2].weight)

    def test_is_swapped_in_and_becomes_dense(self, scales):
        model = net(scales)
        other = sparseq.swap(model, {scales.Scale: scales.DoubledScale})
        assert (other[2].weight == 2).all()
        dense = sparseq.to_dense(other)
        assert type(dense[2]) is scales.Scale
        assert torch.equal(dense(self.X), other(self.X))

    def test_a_normalization_is_folded_into_it(self, scales):
        model = net(scales)
        folded = sparseq.fold_batchnorm(model)
        assert type(folded[3]) is nn.Identity
        torch.testing.assert_close(folded(self.X), model(self.X))

    def test_is_unregistered_afterwards(self):
        assert "Scale" not in LAYER_TYPES.names()


class TestTheRegistry:
    def test_a_subclass_is_not_registered_but_its_base_is_found(self):
        class Mine(nn.Linear):
            pass

        assert type_of(Mine) is None
        assert nearest_type(Mine) is type_of(nn.Linear)
        assert sparse_type(Mine) is None
        assert sparse_type(nn.Linear).layer is SparseLinear

    def test_another_class_with_a_registered_name_is_unknown(self):
        other = type("Linear", (nn.Module,), {})
        assert type_of(other) is None
        assert nearest_type(other) is None

    @pytest.mark.parametrize("order", [("weight", "bias"), ("bias", "weight")])
    def test_weights_are_determined_by_name_not_by_order(self, order):
        layer = nn.Linear(3, 4)
        parameters = dict(layer._parameters)
        layer._parameters.clear()
        layer._parameters.update({name: parameters[name] for name in order})
        assert weight_parameters(layer) == [layer.weight]
        sparse = sparseq.compress(nn.Sequential(layer), policy="sparse")[0]
        assert weight_parameters(sparse) == [sparse.values]

    @pytest.mark.parametrize("name", LAYER_TYPES.names())
    def test_every_entry_is_consistent(self, name):
        entry = LAYER_TYPES.get(name)
        assert entry.layer.__name__ == name
        if entry.converts or hasattr(entry.layer, "like"):
            assert type_of(entry.twin), "the twin of a convertible layer must be registered too"
        if entry.op is not None and not callable(entry.op):
            assert entry.op in OPERATORS
        assert entry.twin is None or hasattr(entry.layer, "to_dense")
