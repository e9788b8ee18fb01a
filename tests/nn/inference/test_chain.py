import copy
import pickle
from dataclasses import replace

import pytest
import torch
from torch import nn

import sparseq
from sparseq.nn import SparseSequential
from sparseq.nn.inference.runs import find_runs
from sparseq.ops import sparse_conv_chain, spmm_chain
from sparseq.ops.choice import ConvChain, LinearChain, measured


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
    """The number of layers in each call of the kernel."""
    lengths = []

    def record(x, values, *rest):
        lengths.append(len(values))
        return spmm_chain.spmm_chain(x, values, *rest)

    monkeypatch.setattr("sparseq.nn.inference.runs.spmm_chain", record)
    return lengths


@pytest.mark.parametrize("batch", [0, 1, 5, 70])
def test_runs_of_sparse_layers_are_one_call_at_inference(batch, calls):
    model, x = compressed(), torch.randn(batch, 4, 5)
    want = nn.Sequential(*model)(x)
    assert calls == []
    with torch.no_grad():
        torch.testing.assert_close(model(x), want)
    assert calls == [3]  # the last layer follows a sigmoid and runs alone


def test_only_runs_that_are_faster_use_one_kernel(calls, monkeypatch):
    model = compressed()
    with torch.no_grad():
        table = replace(measured(), linear_chain=LinearChain(0, 10_000, 6))
        monkeypatch.setattr("sparseq.nn.inference.runs.measured", lambda: table)
        model(torch.randn(5, 20))
        assert calls == []
        model(torch.randn(6 * torch.get_num_threads(), 20))
        assert calls == [3]
        table = replace(measured(), linear_chain=LinearChain(0, 0, 6))
        model(torch.randn(6 * torch.get_num_threads(), 20))
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
    assert [len(run.modules) for run in find_runs(list(sparse[2]))] == [2]


def convolutional(seed=0):
    """Two runs of convolutions with a Tanh between them, then a linear layer."""
    torch.manual_seed(seed)
    dense = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 7, 1)),
        *(nn.MaxPool2d(2), nn.ReLU(), nn.Dropout2d(0.5), nn.Conv2d(7, 6, 3), nn.Tanh()),
        *(nn.Conv2d(6, 5, 3, padding=1, padding_mode="circular"), nn.Conv2d(5, 4, 3), nn.ReLU()),
        *(nn.MaxPool2d(3, 2), nn.Flatten(), nn.Linear(4 * 2 * 2, 3)),
    )
    mask = sparseq.prune(dense, density=0.4)
    return sparseq.fold_batchnorm(sparseq.compress(dense, mask, "sparse").eval())


@pytest.fixture
def convolved(monkeypatch):
    """The poolings of each call of the kernel for convolutions."""
    pools = []

    def record(x, *rest):
        pools.append(rest[-1])
        return sparse_conv_chain.chain_checked(x, *rest)

    monkeypatch.setattr("sparseq.nn.inference.runs.chain_checked", record)
    return pools


@pytest.mark.parametrize("batch", [1, 5, 20])
def test_runs_of_convolutions_are_one_call_at_inference(batch, convolved):
    model, x = convolutional(), torch.randn(batch, 3, 18, 18)
    want = nn.Sequential(*model)(x)
    assert convolved == []
    with torch.no_grad():
        torch.testing.assert_close(model(x), want)
    assert convolved == [[1, 2, 1], [1]]  # circular padding and overlapping pooling end a run


def test_a_graph_of_convolutions_is_a_run(convolved):
    layers = [sparseq.ExpanderConv2d(4, 8, 3, padding=1, degree=2), nn.ReLU()]
    model = SparseSequential(*layers, sparseq.ExpanderConv2d(8, 4, 1, degree=2)).eval()
    x = torch.randn(3, 4, 6, 6)
    with torch.no_grad():
        torch.testing.assert_close(model(x), nn.Sequential(*model)(x))
    assert convolved == [[1, 1]]


@pytest.mark.parametrize("side", [2, (2, 2), [2, 2], (2, 3), (3, 2), (1, 1)], ids=str)
def test_pooling_over_other_windows_ends_a_run(side, convolved):
    layers = [sparseq.ExpanderConv2d(4, 8, 3, padding=1, degree=2), nn.ReLU(), nn.MaxPool2d(side)]
    model, x = SparseSequential(*layers).eval(), torch.randn(3, 4, 6, 6)
    with torch.no_grad():
        torch.testing.assert_close(model(x), nn.Sequential(*model)(x))
    assert convolved == [[2 if side in (2, (2, 2), [2, 2]) else 1]]


def test_input_that_does_not_fit_raises_the_error_of_its_layer(convolved):
    model = convolutional()
    with torch.no_grad(), pytest.raises(ValueError, match=r"x must be \(N, 3\) with 2 spatial"):
        model(torch.randn(2, 4, 18, 18))
    with torch.no_grad(), pytest.raises(ValueError, match="must be large enough for the kernel"):
        model(torch.randn(2, 3, 5, 5))
    with torch.no_grad():
        assert model[:3](torch.randn(3, 18, 18)).shape == (8, 18, 18)  # without a batch
    assert convolved == []


def test_large_maps_go_layer_by_layer(convolved, monkeypatch):
    table = replace(measured(), conv_chain=ConvChain(5, 64, 8 * 18 * 18))
    monkeypatch.setattr("sparseq.nn.inference.runs.measured", lambda: table)
    model, x = convolutional(), torch.randn(2, 3, 18, 18)
    with torch.no_grad():
        torch.testing.assert_close(model(x), nn.Sequential(*model)(x))
    assert convolved == [[1]]


def test_a_run_follows_changes_of_the_model(convolved):
    model, x = convolutional(), torch.randn(2, 3, 18, 18)
    with torch.no_grad():
        model(x)
        model[6].train()  # a Dropout2d that drops
        model(x)
        model[6].eval()
        model[3] = nn.Conv2d(8, 7, 1)
        torch.testing.assert_close(model(x), nn.Sequential(*model)(x))
        model[0].values.mul_(2)
        torch.testing.assert_close(model(x), nn.Sequential(*model)(x))
    assert convolved[2:4] == [[1, 2], [1]]
    assert convolved[4:6] == [[1], [1]]


def test_another_pattern_is_sorted_again():
    model, other, x = convolutional(), convolutional(seed=1), torch.randn(2, 3, 18, 18)
    with torch.no_grad():
        model(x)
        model.load_state_dict(other.state_dict())
        torch.testing.assert_close(model(x), other(x))


def test_convolutions_copy_pickle_and_save(tmp_path):
    model, x = convolutional(), torch.randn(2, 3, 18, 18)
    with torch.no_grad():
        want = model(x)
        sparseq.save(model, tmp_path / "m.sparseq")
        again = sparseq.load(tmp_path / "m.sparseq").eval()
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), again):
            assert type(twin) is SparseSequential
            assert torch.equal(twin(x), want)
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(x), want)
        assert type(sparseq.to_dense(model)) is nn.Sequential
    assert "_cached_runs" not in pickle.dumps(model).decode("latin1")
