"""`adjacent_pairs`: modules whose output is the input of one other module only."""

from __future__ import annotations

from torch import nn

from sparseq.nn.inference.adjacent import adjacent_pairs
from sparseq.nn.inference.chain import SparseSequential


def pairs(model, first=nn.Linear, second=nn.ReLU):
    return adjacent_pairs(model, lambda a, b: type(a) is first and type(b) is second)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.ReLU()
        self.unused = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.c, self.d = nn.Linear(4, 4), nn.ReLU()

    def forward(self, x):
        x = self.b(self.a(x.flatten(1)))
        return self.d(x + self.c(x))


def test_pairs_are_read_from_the_graph():
    assert pairs(Net()) == [("a", "b")]
    assert pairs(nn.Sequential(Net(), nn.Linear(4, 4), nn.ReLU())) == [("0.a", "0.b"), ("1", "2")]


def test_the_model_is_not_modified():
    class Counting(Net):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return super().forward(x)

    model = Counting()
    assert pairs(model) == [("a", "b")]
    assert model.calls == 0


def test_a_sparse_sequential_is_traced_into():
    model = nn.Sequential(SparseSequential(nn.Linear(4, 4), nn.ReLU()))
    assert pairs(model) == [("0.0", "0.1")]
    assert type(model[0]) is SparseSequential


def test_without_modules():
    assert pairs(nn.Linear(2, 2)) == []
    assert pairs(nn.ModuleList([nn.Linear(2, 2), nn.ReLU()])) == []
