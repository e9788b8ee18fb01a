"""Policy "measured" on layers that are more than a weight: computed, tied, hooked."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import sparseq
from sparseq.nn import SparseLinear
from tests.compression.clocks import by_kind, half_pruned, install

compress = partial(sparseq.compress, remember=False)
X = torch.randn(3, 8)


def computed(how):
    """A linear layer with a weight that is computed before each forward."""
    layer = nn.Linear(8, 8)
    if how == "prune":
        prune.l1_unstructured(layer, "weight", 0.5)
    else:
        layer.weight.data[:, ::2] = 0
        parametrizations.weight_norm(layer)
    return layer


@pytest.mark.parametrize("how", ["prune", "weight_norm"])
@pytest.mark.parametrize(("sparse_ms", "kind"), [(1, SparseLinear), (3, None)])
def test_layers_with_computed_weights_are_measured_like_others(monkeypatch, how, sparse_ms, kind):
    install(monkeypatch, by_kind(dense=2, sparse=sparse_ms))
    model = nn.Sequential(computed(how), nn.Tanh()).eval()
    small = compress(model, example=X)
    verdict = small.compression.verdicts["0"]
    assert (verdict.kind, verdict.density) == ("Linear", 0.5)
    assert verdict.times == {"dense": 2, "sparse": sparse_ms}
    assert type(small[0]) is (kind or type(model[0]))
    with torch.no_grad():
        torch.testing.assert_close(small(X), model(X))


class Tied(nn.Module):
    """A head that shares the weight of an embedding, and a layer beside."""

    def __init__(self):
        super().__init__()
        self.embed, self.mix, self.head = nn.Embedding(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        half_pruned(self)
        self.embed.weight = self.head.weight

    def forward(self, ids):
        return self.head(self.mix(self.embed(ids)))


def test_a_layer_that_cannot_be_replaced_stays_dense_in_words_too(monkeypatch):
    install(monkeypatch, by_kind(dense=2, sparse=1))
    with pytest.warns(UserWarning, match="head is kept, as it shares its weight") as warnings:
        small = compress(Tied(), example=torch.zeros(2, 3, dtype=torch.long))
    assert len(warnings) == 1
    assert [type(small.mix), type(small.head)] == [SparseLinear, nn.Linear]
    assert small.compression.taken == {"mix": "sparse"}
    assert "it cannot be replaced, see warning" in small.compression.verdicts["head"].reason


def test_layers_with_hooks_are_no_run(monkeypatch):
    install(monkeypatch, by_kind(dense=2, sparse=1))
    model = half_pruned(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)))
    model[2].register_forward_hook(lambda module, args, output: output * 1)
    verdicts = compress(model, example=X).compression.verdicts
    assert "in a row of 0, 1:" in verdicts["0"].why
    assert verdicts["2"].why == ""
