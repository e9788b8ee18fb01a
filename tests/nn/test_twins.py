from __future__ import annotations

import pytest
import torch
from torch import nn

from sparseq.nn import QLinear
from sparseq.nn.twins import linear_of, match_twin


@pytest.mark.parametrize("bias", [True, False])
def test_linear_of_has_the_weight_and_the_twins_bias(bias):
    twin = QLinear(8, 4, bias).eval()
    weight = torch.randn(4, 8)
    layer = linear_of(weight, twin)
    assert layer.weight.data_ptr() == weight.data_ptr()
    assert not layer.training
    assert (layer.in_features, layer.out_features) == (8, 4)
    assert (layer.bias is None) == (not bias)
    assert not any(parameter.is_meta for parameter in layer.parameters())


@pytest.mark.parametrize("flags", [(True, False), (False, True), (False, False)])
def test_gradient_flags_are_copied(flags):
    twin, layer = nn.Linear(3, 2), nn.Linear(3, 2)
    twin.weight.requires_grad_(flags[0])
    twin.bias.requires_grad_(flags[1])
    match_twin(layer, twin)
    assert (layer.weight.requires_grad, layer.bias.requires_grad) == flags
    assert torch.equal(layer.bias, twin.bias)
    assert layer.bias.data_ptr() != twin.bias.data_ptr()
