"""Training under a mask, and a check of the entries that must be zero."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn, optim

from sparseq.nn.quaternion.linear import QLinear

OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, 0.1),
    "sgd_decay": lambda p: optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1, foreach=False),
    "sgd_nesterov": lambda p: optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "sgd_fused": lambda p: optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1, fused=True),
    "adam": lambda p: optim.Adam(p, 0.01, foreach=False),
    "adam_foreach": lambda p: optim.Adam(p, 0.01, weight_decay=0.1, amsgrad=True, foreach=True),
    "adam_fused": lambda p: optim.Adam(p, 0.01, weight_decay=0.1, fused=True),
    "adamw_foreach": lambda p: optim.AdamW(p, 0.01, foreach=True),
    "adamw_fused": lambda p: optim.AdamW(p, 0.01, fused=True),
    "nadam": lambda p: optim.NAdam(p, 0.01, weight_decay=0.1),
    "radam": lambda p: optim.RAdam(p, 0.01),
    "adamax": lambda p: optim.Adamax(p, 0.01),
    "rmsprop": lambda p: optim.RMSprop(p, 0.01, momentum=0.9, centered=True, weight_decay=0.1),
    "adagrad": lambda p: optim.Adagrad(p, 0.01, initial_accumulator_value=0.5, weight_decay=0.1),
    "adagrad_without_eps": lambda p: optim.Adagrad(p, 0.01, eps=0.0),
    "adadelta": lambda p: optim.Adadelta(p, weight_decay=0.1),
    "asgd": lambda p: optim.ASGD(p, 0.01),
    "rprop": lambda p: optim.Rprop(p, 0.01),
    "adafactor": lambda p: optim.Adafactor(p, 0.01),
}


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(QLinear(8, 12), nn.Tanh(), nn.Linear(12, 10), nn.Tanh(), nn.Linear(10, 3))


def batch(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(16, 8, generator=generator), torch.arange(16) % 3


def loss_of(model, seed):
    x, target = batch(seed)
    return F.cross_entropy(model(x), target)


def train(model, optimizer, steps=4, set_to_none=True, first=0):
    for step in range(first, first + steps):
        optimizer.zero_grad(set_to_none=set_to_none)
        loss_of(model, step).backward()
        optimizer.step()


def dropped_entries(model, mask, optimizer=None):
    """Name and dropped entries of weights, gradients and optimizer state; all must be zero."""
    parameters = dict(model.named_parameters())
    for name, keep in mask.items():
        weight = parameters[name]
        states = {} if optimizer is None else optimizer.state.get(weight, {})
        tensors = {"weight": weight.detach(), "gradient": weight.grad, **states}
        for kind, value in tensors.items():
            if isinstance(value, torch.Tensor) and value.shape == weight.shape:
                yield f"{kind} of {name}", value[~keep]


def assert_held(model, mask, optimizer=None):
    for name, entries in dropped_entries(model, mask, optimizer):
        assert torch.equal(entries, torch.zeros_like(entries)), name
