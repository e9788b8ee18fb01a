"""The example of `compress`: accepted in every form that a model takes, without side effects."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from sparseq.compression.sparsify import compress
from sparseq.timing import quick_ms
from tests.compression.clocks import half_pruned


class Everything(nn.Module):
    """Normalizes, drops, draws, and changes its input in place."""

    def __init__(self):
        super().__init__()
        self.linear, self.norm, self.drop = nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout()

    def forward(self, x):
        return self.drop(self.norm(self.linear(x.mul_(2)))) + torch.rand(())


@pytest.mark.parametrize("training", [False, True])
def test_the_model_the_example_and_the_random_state_do_not_change(training, monkeypatch):
    monkeypatch.setattr(
        "sparseq.compression.measured.quick_ms", lambda works, device, _: quick_ms(works, device, 0)
    )
    model, x = half_pruned(Everything()).train(), torch.randn(4, 8)
    model.norm.eval()
    model.linear.register_forward_hook(lambda module, args, output: None)
    hooks = [dict(module._forward_hooks) for module in model.modules()]
    state, drawn, given = copy.deepcopy(model.state_dict()), torch.get_rng_state(), x.clone()
    small = compress(model, example=x, training=training, remember=False)
    assert torch.equal(x, given)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == [True, True, False, True]
    assert [small.training, small.norm.training, small.drop.training] == [True, False, True]
    assert [dict(module._forward_hooks) for module in model.modules()] == hooks
    for each in (model, small):
        assert all(parameter.grad is None for parameter in each.parameters())
    assert torch.equal(small.norm.running_mean, torch.zeros(8))
    assert torch.is_grad_enabled()


X = torch.randn(4, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"policy": "measured"}, 'example is required by policy "measured", got None'),
        ({"example": X, "batch": 4}, "batch must be left out beside an example, which has it"),
        ({"example": X, "in_shape": (8,), "policy": "measured"}, "in_shape must be left out"),
        ({"example": X[:, :3]}, r"example must be accepted by the model \(.*got float32 \(4, 3\)"),
        ({"example": (X, X)}, r"accepted by the model .* got float32 \(4, 8\), float32 \(4, 8\)"),
        ({"example": {"y": X}}, r"must be accepted by the model .* got y=float32 \(4, 8\)"),
        ({"example": 3}, "example must be a tensor, a tuple of inputs or a dict .* got int"),
        ({"example": (1, [])}, r"must be a tensor, a tuple .* got \(int, \(\)\)"),
    ],
)
def test_an_example_that_does_not_fit_is_an_error(arguments, message):
    with pytest.raises(ValueError, match=f"compress: .*{message}"):
        compress(half_pruned(nn.Sequential(nn.Linear(8, 8))), **arguments)


def test_training_needs_an_output_that_needs_a_gradient():
    model = half_pruned(nn.Sequential(nn.Linear(8, 8))).requires_grad_(False)
    with pytest.raises(ValueError, match="example must lead to an output that needs a gradient"):
        compress(model, example=X, training=True)


def test_a_model_on_another_device_says_so():
    with pytest.raises(ValueError, match="example must be accepted by the model"):
        compress(half_pruned(nn.Sequential(nn.Linear(8, 8))), example=X.to("meta"))
