"""What the public functions say of things that are no module, no pattern or no dense weight."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sparseq
from sparseq.nn import SparseConv2d, SparseLinear, SparseQConv2d, SparseQLinear

FUNCTIONS = {
    "compress": sparseq.compress,
    "fold_batchnorm": sparseq.fold_batchnorm,
    "profile": lambda model: sparseq.profile(model, torch.ones(1, 2)),
    "prune": sparseq.prune,
    "save": lambda model: sparseq.save(model, "never-written.sparseq"),
    "swap": lambda model: sparseq.swap(model, {nn.Linear: sparseq.QLinear}),
    "to_dense": sparseq.to_dense,
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("model", [None, torch.ones(2, 2), nn.Linear, {"weight": torch.ones(2)}])
def test_what_is_no_module_is_named(name, model):
    got = type(model).__name__
    with pytest.raises(ValueError, match=rf"{name}: model must be a .*odule.*, got {got}"):
        FUNCTIONS[name](model)


LAYERS = {
    SparseLinear: (8, 8),
    SparseQLinear: (8, 8),
    SparseConv2d: (8, 8, 3),
    SparseQConv2d: (8, 8, 3),
}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("pattern", [None, torch.ones(8, 8, dtype=torch.bool)])
def test_what_is_no_pattern_is_named(layer, pattern):
    message = rf"{layer.__name__}: pattern must be a CSRPattern, such as CSRPattern.from_mask\(mask"
    with pytest.raises(ValueError, match=message):
        layer(*LAYERS[layer], pattern=pattern)


@pytest.mark.parametrize("function", [sparseq.prune, sparseq.compress])
def test_weights_in_a_sparse_layout_are_named(function):
    model = nn.Sequential(nn.Linear(4, 4))
    model[0].weight = nn.Parameter(model[0].weight.detach().to_sparse())
    message = r"weight must be a dense tensor, such as .*weight\.to_dense\(\), got torch.sparse_coo"
    with pytest.raises(ValueError, match=message):
        function(model)
