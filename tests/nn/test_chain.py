import copy
import pickle

import pytest
import torch
from torch import nn

import sparseq
from sparseq.nn import SparseSequential
from sparseq.nn.chain import ROWS, runs
from sparseq.ops import spmm_chain


def compressed(seed=0):
    torch.manual_seed(seed)
    dense = nn.Sequential(
        *(nn.Flatten(), nn.Linear(20, 33), nn.ReLU(), nn.Dropout(0.5), nn.Linear(33, 17)),
        *(nn.Linear(17, 16, bias=False), nn.ReLU(), nn.Sigmoid(), nn.Linear(16, 3)),
    )
    mask = sparseq.prune(dense, density=0.3)
    return sparseq.compress(dense, mask, "sparse").eval()


@pytest.fixture
def calls(monkeypatch):
    """How many maps each call of the kernel took."""
    taken = []

    def count(x, values, *rest):
        taken.append(len(values))
        return spmm_chain.spmm_chain(x, values, *rest)

    monkeypatch.setattr("sparseq.nn.chain.spmm_chain", count)
    return taken


@pytest.mark.parametrize("batch", [0, 1, 5, 70])
def test_runs_of_sparse_layers_are_one_call_at_inference(batch, calls):
    model, x = compressed(), torch.randn(batch, 4, 5)
    want = nn.Sequential(*model)(x)
    assert calls == []
    with torch.no_grad():
        torch.testing.assert_close(model(x), want)
    assert calls == [3]  # the last layer stands alone behind a sigmoid


def test_only_what_pays_goes_through_one_kernel(calls, monkeypatch):
    model = compressed()
    with torch.no_grad():
        monkeypatch.setattr("sparseq.nn.chain.FEW", 0)
        model(torch.randn(5, 20))
        assert calls == []
        model(torch.randn(ROWS * torch.get_num_threads(), 20))
        assert calls == [3]
        monkeypatch.setattr("sparseq.nn.chain.MANY", 0)
        model(torch.randn(ROWS * torch.get_num_threads(), 20))
        assert calls == [3]


def test_training_runs_module_by_module(calls):
    model = compressed().train()
    model(torch.randn(5, 20)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert calls == []


def test_dropout_in_training_ends_a_run(calls):
    model = compressed().train()
    with torch.no_grad():
        model(torch.randn(5, 20))
    assert calls == [1, 2]


def test_hooks_are_called(calls):
    model, seen = compressed(), []
    model[4].register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        model(torch.randn(5, 20))
    assert len(seen) == 1
    assert calls == [1, 1]


def test_autocast_goes_module_by_module(calls):
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert compressed()(torch.randn(5, 20)).dtype == torch.bfloat16
    assert calls == []


def test_compiles_exports_copies_and_pickles():
    model, x = compressed(), torch.randn(5, 20)
    with torch.no_grad():
        want = model(x)
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        exported = torch.export.export(model, (x,)).module()
        for twin in (compiled, exported, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            torch.testing.assert_close(twin(x), want)


def test_a_file_keeps_it(tmp_path):
    model, x = compressed(), torch.randn(5, 20)
    sparseq.save(model, tmp_path / "m.sparseq")
    again = sparseq.load(tmp_path / "m.sparseq").eval()
    assert type(again) is SparseSequential
    with torch.no_grad():
        assert torch.equal(again(x), model(x))


def test_to_dense_makes_it_plain_again():
    model, x = compressed(), torch.randn(5, 20)
    dense = sparseq.to_dense(model)
    assert type(dense) is nn.Sequential
    torch.testing.assert_close(dense(x), model(x))
    assert type(model) is SparseSequential


def test_only_sequentials_with_a_run_change():
    dense = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Sequential(nn.Linear(8, 8), nn.ReLU()))
    sparse = sparseq.compress(dense, sparseq.prune(dense, density=0.5), "sparse")
    assert type(sparse) is nn.Sequential
    assert type(sparse[2]) is SparseSequential
    assert [len(run) for run in runs(list(sparse[2]))] == [2]
