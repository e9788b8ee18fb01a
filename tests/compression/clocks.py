"""Clocks for the tests of policy "measured": times are computed from the modules, not measured."""

from __future__ import annotations

import torch
from torch import nn

from sparseq.nn.sparse.patterned import PatternedLayer
from sparseq.ops.build import BuildError


class FakeClock:
    """Stands in for `quick_ms`; a module takes what its layers cost, by the rule of the test.

    Attributes:
        cost: module -> milliseconds, asked for each module below and including the one called.
        works: the pieces of work that were timed, in one list per comparison.
    """

    def __init__(self, cost):
        self.cost = cost
        self.works = []
        self.grad_modes = set()

    def __call__(self, works, device, seconds):
        self.works.append(list(works))
        self.grad_modes.add(torch.is_grad_enabled())
        return [float(sum(map(self.cost, work.module.modules()))) for work in works]

    def layers_timed(self):
        """Comparisons of single layers, without those of chains and whole networks."""
        return [works for works in self.works if not any(works[0].module.children())]


def install(monkeypatch, cost, cache=None):
    """Make `compress` measure by this rule, and remember times in the folder `cache` or nowhere."""
    clock = FakeClock(cost)
    monkeypatch.setattr("sparseq.compression.measured.quick_ms", clock)
    monkeypatch.setattr("sparseq.compression.remembered.cache_root", lambda: cache or nowhere())
    return clock


def nowhere():
    """As where no cache folder can be written."""
    raise BuildError("no folder")


def by_kind(dense=1.0, sparse=1.0):
    """A rule by which each dense layer costs so much, and each sparse one so much."""

    def cost(module):
        if isinstance(module, PatternedLayer):
            return sparse
        return dense if isinstance(module, nn.Linear | nn.Conv2d) else 0.0

    return cost


def half_pruned(model):
    """The model with every second row of each linear or convolution weight set to 0."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.weight[::2] = 0
    return model
