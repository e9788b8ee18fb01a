"""`profile`: correct counts, a row for each layer, no side effects on the model or torch."""

from __future__ import annotations

import copy

import pytest
import rich.console
import torch
from torch import nn

from sparseq.compression.sparsify import compress
from sparseq.nn import SparseSequential
from sparseq.nn.quaternion.linear import QLinear
from sparseq.reports.profiling import LayerRow, profile
from tests.compression.clocks import by_kind, half_pruned, install

X = torch.randn(6, 16)


def net(layer=nn.Linear):
    torch.manual_seed(0)
    return nn.Sequential(layer(16, 24), nn.BatchNorm1d(24), nn.ReLU(), layer(24, 8), nn.Dropout())


def small_net(layer=nn.Linear):
    model = net(layer)
    generator = torch.Generator().manual_seed(0)
    shape = model[0].weight.shape
    keep = torch.rand(shape, generator=generator) < 0.25
    return compress(model, {"0.weight": keep}, policy="sparse")


@pytest.mark.parametrize("layer", [nn.Linear, QLinear])
def test_rows_count_and_time_every_layer(layer):
    model = small_net(layer)
    result = profile(model, X, repeats=2)
    first, norm, last = result.rows
    weights = net(layer)[0].weight.numel()
    assert (first.name, first.kind) == ("0", type(model[0]).__name__)
    assert (first.nnz, first.weights) == (model[0].values.numel(), weights)
    assert first.density == first.nnz / weights
    tensors = [*model[0].parameters(), *model[0].pattern.tensors]
    assert first.bytes == sum(tensor.nbytes for tensor in tensors)
    assert first.dense_ms > 0
    assert first.sparse_ms > 0
    assert first.speedup == first.dense_ms / first.sparse_ms
    op = "spmm " if layer is nn.Linear else "sparse_hamilton "
    assert first.kernel.startswith(op)
    assert (norm.kind, norm.density, norm.sparse_ms, norm.kernel) == (
        "BatchNorm1d",
        1,
        None,
        "torch",
    )
    assert (last.density, last.sparse_ms, last.speedup) == (1, None, None)
    assert last.dense_ms > 0


def test_totals_are_those_of_the_complete_model():
    result = profile(small_net(), X, repeats=1)
    total = result.total
    for field in ("nnz", "weights", "bytes"):
        assert getattr(total, field) == sum(getattr(row, field) for row in result.rows)
    assert total.density == total.nnz / total.weights
    assert total.dense_ms > 0
    assert total.sparse_ms > 0
    assert (result.batch, result.device, result.repeats) == (6, "cpu", 1)
    assert result.threads == torch.get_num_threads()


def test_a_dense_layer_with_zeros_shows_the_time_of_its_sparse_twin():
    model = net()
    with torch.no_grad():
        model[0].weight[:12] = 0
    first, _, last = profile(model, X, repeats=1).rows
    assert (first.kind, first.density, first.kernel) == ("Linear", 0.5, "torch")
    assert first.sparse_ms > 0
    assert last.sparse_ms is None
    assert first.reason.startswith(("dense is faster here", "sparse is faster here; "))
    assert last.reason == ""


@pytest.mark.parametrize(("dense_ms", "sparse_ms"), [(1.0, 2.0), (2.0, 1.0)])
def test_a_reason_says_what_the_times_beside_it_say(monkeypatch, dense_ms, sparse_ms):
    def fake(works, device, repeats):
        return [dense_ms, sparse_ms][: len(works)]

    monkeypatch.setattr("sparseq.reports.profiling.median_ms", fake)
    model = nn.Sequential(nn.Linear(512, 512), nn.Linear(512, 512))
    with torch.no_grad():
        model[0].weight[:, 5:] = 0
    first, last = profile(model, torch.ones(64, 512)).rows
    assert (
        first.reason
        == {
            1.0: "dense is faster here",
            2.0: "sparse is faster here; compress(example=...) decides by such times",
        }[dense_ms]
    )
    assert (first.dense_ms, first.sparse_ms, last.reason) == (dense_ms, sparse_ms, "")


def test_it_shows_on_what_compress_decided(monkeypatch):
    clock = install(monkeypatch, by_kind(dense=1, sparse=2))
    model, x = half_pruned(nn.Sequential(nn.Linear(16, 16), nn.Tanh())), torch.ones(4, 16)
    dense = compress(model, example=x, remember=False)
    now = lambda works, *_: [2.0, 1.0][: len(works)]  # noqa: E731
    monkeypatch.setattr("sparseq.reports.profiling.median_ms", now)
    result = profile(dense, x)
    assert result.rows[0].reason == "dense by compress: 1 ms dense, 2 ms sparse"
    assert result.note == f"compress: {dense.compression.summary}"
    assert "1 ms dense, 2 ms sparse" in str(result)
    assert "0 of 1 layers converted, for float32 (4, 16)" in str(result)

    def as_a_run(module):
        return -9 if type(module) is SparseSequential else by_kind(dense=1, sparse=2)(module)

    clock.cost = as_a_run
    model = half_pruned(nn.Sequential(nn.Linear(16, 16), nn.ReLU()))
    row = profile(compress(model, example=x, remember=False), x).rows[0]
    assert row.kind == "SparseLinear"
    assert row.reason == (
        "sparse by compress: 1 ms dense, 2 ms sparse; in a row of 0, 1: 1 ms dense, -7 ms sparse"
    )
    model = nn.Linear(16, 16)
    with torch.no_grad():
        model.weight[0] = 0
    clock.cost = by_kind(dense=1, sparse=2)
    bare = compress(model, example=x, remember=False)
    assert profile(bare, x).rows[0].reason == "dense by compress: 1 ms dense, 2 ms sparse"


def test_a_layer_without_kept_weights_has_density_zero():
    model = compress(nn.Linear(16, 8), {"weight": torch.zeros(8, 16).bool()}, policy="sparse")
    result = profile(model, X, repeats=1)
    assert (result.rows[0].name, result.rows[0].density, result.total.density) == ("(model)", 0, 0)


def test_it_prints_as_a_table():
    result = profile(small_net(), X, repeats=1)
    console = rich.console.Console(width=120)
    with console.capture() as captured:
        console.print(result)
    for text in (str(result), captured.get()):
        for word in ("SparseLinear", "BatchNorm1d", "speed", "kernel", "total", "batch 6, cpu"):
            assert word in text


def test_the_model_and_the_random_state_do_not_change():
    model = small_net().train()
    model[3].eval()
    model[3].register_forward_hook(lambda module, args, output: None)
    hooks = [dict(module._forward_hooks) for module in model.modules()]
    state, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    modes = [module.training for module in model.modules()]
    profile(model, X, repeats=1)
    assert [module.training for module in model.modules()] == modes
    assert [dict(module._forward_hooks) for module in model.modules()] == hooks
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.is_grad_enabled()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_random_numbers_and_in_place_changes_have_no_side_effects():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(16, 4)

        def forward(self, x):
            return self.layer(x.mul_(2)) + torch.rand(())

    model, x, random_state = Noisy(), X.clone(), torch.get_rng_state()
    profile(model, x, repeats=1)
    assert torch.equal(x, X)
    assert torch.equal(torch.get_rng_state(), random_state)


def test_it_works_with_and_without_no_grad():
    model = small_net()
    with torch.no_grad():
        profile(model, X, repeats=1)
        assert not torch.is_grad_enabled()
    profile(model, X.requires_grad_(False), repeats=1)


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x, y):
        return self.used(self.used(x)) + y


def test_layers_called_twice_or_never_and_several_inputs():
    used, unused = profile(Branches(), (X, torch.ones(16)), repeats=1).rows
    assert used.dense_ms > 0
    assert (unused.dense_ms, unused.sparse_ms) == (None, None)
    used, _ = profile(compress(Branches(), policy="sparse"), [X, X[:, :1]], repeats=1).rows
    assert used.sparse_ms > 0


def test_keyword_inputs_are_those_of_compress():
    row, _ = profile(Branches(), {"x": X, "y": torch.ones(16)}, repeats=1).rows
    assert row.dense_ms > 0


def test_bad_arguments_are_rejected():
    with pytest.raises(ValueError, match="repeats must be at least 1, got 0"):
        profile(net(), X, repeats=0)
    for bad in (torch.tensor(1.0), (), [1]):
        with pytest.raises(ValueError, match="x must be a batch"):
            profile(net(), bad)


def test_a_row_without_times_has_no_speedup():
    assert LayerRow("a", "Linear", 1.0, 4, 4, 16, None, None, "torch").speedup is None
