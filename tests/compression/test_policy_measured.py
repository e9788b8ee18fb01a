"""Policy "measured" of `compress`: what is timed, and what follows from the times.

No test reads a real clock: `FakeClock` says how long each module takes.
"""

from __future__ import annotations

import logging
from functools import partial

import pytest
import torch
from torch import nn

import sparseq
from sparseq.compression.candidates import CANDIDATES
from sparseq.compression.measured import GAIN
from sparseq.nn import SparseLinear, SparseSequential
from sparseq.nn.sparse.conv import SparseConv2d
from sparseq.nn.sparse.patterned import PatternedLayer
from tests.compression.clocks import by_kind, half_pruned, install
from tests.compression.networks import masked, random_mask, small_net

# nothing is kept between tests, nor beside the kernels
compress = partial(sparseq.compress, remember=False)
X = torch.randn(5, 4, 4)


def kinds(model):
    return [type(module) for module in model if any(True for _ in module.parameters())]


def test_each_layer_gets_the_form_that_is_faster_and_the_two_times_are_reported(
    monkeypatch, caplog
):
    model = small_net()

    def cost(module):  # sparse, the first layer is the faster and the second the slower one
        at = getattr(module, "in_features", None)
        return {16: (4, 1), 24: (2, 3)}.get(at, (0, 0))[isinstance(module, PatternedLayer)]

    monkeypatch.setattr("sparseq.compression.measured.find_chains", lambda *_: [])
    install(monkeypatch, cost)
    mask = random_mask(model, 0.5)
    with caplog.at_level(logging.INFO, "sparseq"):
        small = compress(model, mask, example=X)
    assert kinds(small) == [SparseLinear, nn.Linear, nn.Linear]
    assert "1 (Linear, 50 % kept) becomes sparse: 4 ms dense, 1 ms sparse" in caplog.text
    assert "3 (Linear, 51 % kept) stays dense: 2 ms dense, 3 ms sparse" in caplog.text
    assert "1 of 2 layers converted, for float32 (5, 4, 4), forward, cpu" in caplog.text
    assert "6 ms dense, 3 ms now (2.00x)" in caplog.text
    assert small.compression.taken == {"1": "sparse"}
    assert str(small.compression).splitlines() == [
        record.getMessage().removeprefix("compress: ") for record in caplog.records
    ]
    torch.testing.assert_close(small(X), masked(model, mask)(X))


def test_layers_that_the_tables_call_too_small_are_converted_where_they_are_faster(monkeypatch):
    install(monkeypatch, by_kind(dense=1.0, sparse=0.5))
    model = half_pruned(
        nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 4, 1), nn.Flatten())
    )
    x = torch.randn(4, 8, 5, 5)
    assert kinds(compress(model, batch=4, in_shape=(8, 5, 5))) == [nn.Conv2d, nn.Conv2d]
    assert kinds(compress(model, example=x)) == [SparseConv2d, SparseConv2d]


def test_layers_that_the_tables_convert_stay_dense_where_they_are_slower(monkeypatch):
    install(monkeypatch, by_kind(dense=1.0, sparse=2.0))
    model = nn.Sequential(nn.Linear(512, 512), nn.Linear(512, 512))
    mask = sparseq.prune(model, density=0.02)
    assert kinds(compress(model, mask)) == [SparseLinear, SparseLinear]
    small = compress(model, mask, example=torch.randn(64, 512))
    assert kinds(small) == [nn.Linear, nn.Linear]
    assert small.compression.dense_ms is None
    assert "0 of 2 layers converted" in small.compression.summary


def test_a_run_that_one_kernel_computes_is_judged_as_a_whole(monkeypatch):
    def cost(module):  # alone, sparse convolutions are slower; as a chain they are faster
        if isinstance(module, SparseSequential):
            return -30
        return by_kind(dense=10, sparse=12)(module)

    install(monkeypatch, cost)
    convs = [nn.Conv2d(2, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 2, 3), nn.ReLU()]
    model = half_pruned(nn.Sequential(nn.Sequential(*convs), nn.Flatten())).eval()
    x = torch.randn(2, 2, 10, 10)
    small = compress(model, example=x)
    assert type(small[0]) is SparseSequential
    assert kinds(small[0]) == [SparseConv2d, SparseConv2d]
    reason = small.compression.verdicts["0.3"].reason
    assert reason == (
        "10 ms dense, 12 ms sparse; in a row of 0.0, 0.1, 0.2, 0.3, 0.4: 20 ms dense, -6 ms sparse"
    )
    with torch.no_grad():
        torch.testing.assert_close(small(x), model(x))


def test_a_run_may_be_dense_though_its_layers_alone_are_faster_sparse(monkeypatch):
    def cost(module):
        return 100 if type(module) is SparseSequential else by_kind(dense=3, sparse=1)(module)

    install(monkeypatch, cost)
    model = half_pruned(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)))
    assert kinds(compress(model, example=torch.randn(2, 4))) == [nn.Linear, nn.Linear]


def test_modules_called_one_by_one_are_no_run(monkeypatch):
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))

        def forward(self, x):
            for part in self.parts:
                x = part(x)
            return x

    install(monkeypatch, by_kind(dense=2, sparse=1))
    small = compress(half_pruned(Loop()), example=torch.randn(2, 4))
    assert [verdict.why for verdict in small.compression.verdicts.values()] == ["", ""]
    assert kinds(small.parts) == [SparseLinear, SparseLinear]


class Branches(nn.Module):
    """Four layers that no nn.Sequential holds, so that each is decided by itself."""

    def __init__(self, width=8):
        super().__init__()
        self.a, self.b = nn.Linear(width, width), nn.Linear(width, width + 1)
        self.c, self.d = nn.Linear(width, width + 2), nn.Linear(width, width + 3)

    def forward(self, x):
        return torch.cat([self.a(x), self.b(x), self.c(x), self.d(x)], -1)


@pytest.mark.parametrize(("penalty", "left"), [(0, "abcd"), (25, "cd"), (50, "d"), (70, "")])
def test_it_returns_no_network_that_is_not_clearly_faster_than_dense(monkeypatch, penalty, left):
    def cost(module):  # each sparse layer saves 1 to 4 ms alone, and costs more in the network
        width = getattr(module, "out_features", None)
        if isinstance(module, PatternedLayer):
            return 30 - (width - 7)
        if isinstance(module, Branches):
            sparse = [each for each in module.children() if isinstance(each, PatternedLayer)]
            return {0: 0, 1: 1, 2: 6, 4: 99}[len(sparse)] * penalty / 40
        return 30 if width else 0

    install(monkeypatch, cost)
    model = half_pruned(Branches())
    choice = compress(model, example=torch.randn(2, 8)).compression
    assert "".join(choice.taken) == left
    if left:
        assert choice.chosen_ms <= GAIN * choice.dense_ms
    for path in set("abcd") - set(left):
        assert "the whole network took " in choice.verdicts[path].reason
        assert " ms with it, 120 ms dense" in choice.verdicts[path].reason


def test_rows_of_a_transformer_are_tokens_not_images(monkeypatch):
    clock = install(monkeypatch, by_kind(dense=2, sparse=1))
    block = half_pruned(nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 16), nn.GELU()))
    compress(block, example=torch.randn(3, 50, 8))
    (works,) = clock.layers_timed()
    assert [work.call.args[0].shape for work in works] == [(3, 50, 8)] * 2


class Reader(nn.Module):
    """Embeds integers, calls one layer on inputs of two sizes, and another never."""

    def __init__(self):
        super().__init__()
        self.embed, self.shared = nn.Embedding(10, 8), nn.Linear(8, 8)
        self.unused, self.full = nn.Linear(8, 8), nn.Linear(8, 2)
        half_pruned(self)
        nn.init.ones_(self.full.weight)

    def forward(self, ids, scale=None, *, offset=0.0):
        x = self.shared(self.embed(ids)) + offset
        for _ in range(3):
            x = self.shared(x)
        return {"logits": self.full(self.shared(x[:, 0])) * scale}


@pytest.mark.parametrize(
    "example",
    [
        (torch.zeros(2, 5, dtype=torch.long), torch.ones(2)),
        [torch.zeros(2, 5, dtype=torch.long), torch.ones(2)],
        {"ids": torch.zeros(2, 5, dtype=torch.long), "scale": torch.ones(2), "offset": 1.0},
    ],
    ids=["tuple", "list", "dict"],
)
def test_several_inputs_and_layers_called_often_or_never(monkeypatch, example):
    clock = install(monkeypatch, by_kind(dense=2, sparse=1))
    choice = compress(Reader(), example=example).compression
    assert choice.taken == {"shared": "sparse"}
    assert choice.verdicts["shared"].times == {"dense": 10, "sparse": 5}  # of five calls
    assert choice.verdicts["unused"].why == "the example does not call it"
    assert choice.verdicts["full"].why == "all its weights are kept"
    shapes = [works[0].call.args[0].shape for works in clock.layers_timed()]
    assert shapes == [(2, 5, 8), (2, 8)]


def test_layers_alike_are_timed_once(monkeypatch):
    monkeypatch.setattr("sparseq.compression.measured.find_chains", lambda *_: [])
    clock = install(monkeypatch, by_kind(dense=2, sparse=1))
    same = [half_pruned(nn.Linear(8, 8)) for _ in range(5)]
    different = half_pruned(nn.Linear(8, 8, bias=False))
    small = compress(nn.Sequential(*same, different), example=torch.randn(2, 8))
    assert len(small.compression.taken) == 6
    assert len(clock.layers_timed()) == 2


def test_training_times_forward_and_backward(monkeypatch):
    clock = install(monkeypatch, by_kind(dense=2, sparse=1))
    model = half_pruned(Branches())
    choice = compress(model, example=torch.randn(2, 8), training=True).compression
    assert "forward and backward" in choice.conditions
    assert clock.grad_modes == {True}
    for work in [work for works in clock.works for work in works]:
        assert work.module.training
        work()
        assert all(parameter.grad is not None for parameter in work.module.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())
    compress(model, example=torch.randn(2, 8))
    assert clock.grad_modes == {True, False}


def test_a_form_that_cannot_run_on_the_inputs_is_not_taken(monkeypatch):
    install(monkeypatch, by_kind(dense=2, sparse=1))
    monkeypatch.setattr(SparseLinear, "forward", None)
    model = half_pruned(Branches())
    choice = compress(model, example=torch.randn(2, 8)).compression
    assert choice.taken == {}
    assert choice.verdicts["a"].reason == "2 ms dense, cannot run sparse"


def test_another_form_is_one_registered_function(monkeypatch):
    class Empty(nn.Linear):
        pass

    def empty(layer, keep):
        made = Empty(layer.in_features, layer.out_features)
        made.load_state_dict(layer.state_dict())
        return made

    monkeypatch.setitem(CANDIDATES._entries, "empty", empty)
    install(monkeypatch, lambda m: 0.5 if type(m) is Empty else by_kind(2, 1)(m))
    small = compress(half_pruned(Branches()), example=torch.randn(2, 8))
    assert type(small.a) is Empty
    assert small.compression.verdicts["a"].times == {"dense": 2, "empty": 0.5, "sparse": 1}


def test_policy_sparse_measures_nothing(monkeypatch):
    monkeypatch.setattr("sparseq.compression.sparsify.choose", None)
    small = compress(half_pruned(Branches()), policy="sparse", example=torch.randn(2, 8))
    assert type(small.a) is SparseLinear
    assert not hasattr(small, "compression")
