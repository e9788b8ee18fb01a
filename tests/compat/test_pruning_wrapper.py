"""PruningWrapper: the training loop of the earlier system, with enforced masks."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn, optim

from sparseq.compat.pruning_wrapper import INITIAL_WEIGHTS, PruningWrapper
from sparseq.files.container import read_container
from sparseq.nn.quaternion.linear import QLinear
from sparseq.pruning import Mask


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 4))


def train(net, optimizer, steps=3):
    generator = torch.Generator().manual_seed(7)
    for _ in range(steps):
        x, target = torch.randn(8, 10, generator=generator), torch.arange(8) % 4
        optimizer.zero_grad()
        F.cross_entropy(net(x), target).backward()
        optimizer.step()


def sgd(net):
    return optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)


def dropped(net):
    parameters = dict(net.net.named_parameters())
    return torch.cat([parameters[name][~keep].detach() for name, keep in net.mask.items()])


def test_the_original_loop_runs_unchanged(tmp_path):
    model = network()
    name_filter = lambda x: "weight" in x and "2." not in x  # noqa: E731
    net = PruningWrapper(
        model,
        0.2,
        "cpu",
        str(tmp_path / "run"),
        random_initialization=False,
        random_prune=False,
        filter_function=name_filter,
    )
    initial, counts = None, []
    for round_number in range(4):
        optimizer = sgd(net)
        for epoch in range(2):
            if round_number == 0 and epoch == 1:  # late resetting
                net.set_initial_weights()
                initial = copy.deepcopy(model.state_dict())
            net.train()
            train(net, optimizer)
            assert not dropped(net).any()
            torch.save(net.state_dict(), tmp_path / "current_best_model.pth")
        net.load_state_dict(torch.load(tmp_path / "current_best_model.pth"))
        counts.append(net.calculate_percent_pruned())
        net.prune_weights()
        net.reinitialize()
        keep = net.mask["0.weight"]
        assert torch.equal(model[0].weight[keep], initial["0.weight"][keep])
        assert torch.equal(model[2].weight, initial["2.weight"])
        assert not dropped(net).any()
    assert [kept for kept, _, _ in counts] == [200, 160, 128, 103]
    assert {total for _, total, _ in counts} == {200}
    assert counts[-1][2] == pytest.approx(97 / 200)


def test_keyword_arguments_and_defaults():
    net = PruningWrapper(network(), prune_rate=0.5, device="cpu", dir_name=None)
    assert list(net.mask) == ["0.weight", "2.weight"]
    net.prune_weights()
    assert net.calculate_percent_pruned() == (140, 280, 0.5)
    assert PruningWrapper(network()).prune_rate == 0.2


def test_magnitude_pruning_drops_the_smallest_remaining_weights():
    model = network()
    net = PruningWrapper(model, 0.25)
    for kept in (210, 158, 119):
        before = net.mask
        net.prune_weights()
        assert net.mask.kept == kept
        assert (net.mask & before) == net.mask
        weights = torch.cat([model[0].weight.flatten(), model[2].weight.flatten()]).detach().abs()
        assert int((weights > 0).sum()) == kept


def test_random_pruning_depends_on_the_seed():
    masks = []
    for seed in (0, 0, 1):
        net = PruningWrapper(network(), 0.2, random_prune=True)
        net.seed = seed
        net.prune_weights()
        net.prune_weights()
        masks.append(net.mask)
    magnitude = PruningWrapper(network(), 0.2)
    magnitude.prune_weights()
    magnitude.prune_weights()
    assert masks[0] == masks[1]
    assert masks[0] != masks[2]
    assert masks[0] != magnitude.mask
    assert masks[0].kept == magnitude.mask.kept


def test_random_initialization_draws_new_weights_and_keeps_the_mask():
    model = network()
    net = PruningWrapper(model, 0.5, random_initialization=True)
    net.set_initial_weights()
    net.prune_weights()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    net.reinitialize()
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(model[0].weight, before["0.weight"])
    assert not torch.equal(model[0].bias, before["0.bias"])
    assert Mask.from_zeros(model) == net.mask
    first = model[0].weight.clone()
    net.reinitialize()
    assert not torch.equal(model[0].weight, first)


def test_one_optimizer_kept_over_all_rounds_does_not_revive_weights():
    net = PruningWrapper(network(), 0.5)
    net.set_initial_weights()
    optimizer = sgd(net)
    for _ in range(3):
        train(net, optimizer)
        net.prune_weights()
        net.reinitialize()
        train(net, optimizer)
        assert not dropped(net).any()
        for name, keep in net.mask.items():
            assert not optimizer.state[net.net.get_parameter(name)]["momentum_buffer"][~keep].any()


def test_quaternion_layers():
    model = nn.Sequential(QLinear(8, 8), nn.Linear(8, 2))
    net = PruningWrapper(model, 0.5)
    net.set_initial_weights()
    net.prune_weights()
    net.reinitialize()
    assert net.calculate_percent_pruned()[:2] == (16, 32)


class TestFilter:
    def test_is_called_with_the_name_of_every_parameter(self):
        names = []
        net = PruningWrapper(network(), filter_function=lambda name: names.append(name) or True)
        assert names == ["0.weight", "0.bias", "2.weight", "2.bias"]
        assert net.calculate_percent_pruned()[1] == 200 + 20 + 80 + 4

    def test_may_use_the_parameter(self):
        net = PruningWrapper(
            network(), filter_function=lambda name, parameter: parameter.dim() == 1
        )
        assert list(net.mask) == ["0.bias", "2.bias"]

    def test_may_be_a_builtin(self):
        assert PruningWrapper(network(), filter_function=str.isascii).mask.total == 304

    def test_must_select_a_parameter(self):
        with pytest.raises(ValueError, match="must have prunable parameters"):
            PruningWrapper(network(), filter_function=lambda name: False)


class TestFolder:
    @pytest.mark.parametrize("argument", ["dir_name", "save_dir"])
    def test_initial_weights_are_saved(self, tmp_path, argument):
        model = network()
        net = PruningWrapper(model, **{argument: tmp_path / "deep" / "run"})
        net.set_initial_weights()
        tensors, _ = read_container(tmp_path / "deep" / "run" / INITIAL_WEIGHTS, "weights")
        assert all(torch.equal(value, tensors[key]) for key, value in model.state_dict().items())

    def test_the_same_run_may_set_them_again(self, tmp_path):
        net = PruningWrapper(network(), dir_name=tmp_path)
        net.set_initial_weights()
        train(net, sgd(net))
        net.set_initial_weights()
        tensors, _ = read_container(tmp_path / INITIAL_WEIGHTS, "weights")
        assert torch.equal(tensors["0.weight"], net.net[0].weight)

    def test_another_run_is_not_overwritten(self, tmp_path):
        PruningWrapper(network(), dir_name=tmp_path).set_initial_weights()
        saved = (tmp_path / INITIAL_WEIGHTS).read_bytes()
        net = PruningWrapper(network(1), dir_name=tmp_path)
        with pytest.raises(FileExistsError, match="another run"):
            net.set_initial_weights()
        assert (tmp_path / INITIAL_WEIGHTS).read_bytes() == saved

    def test_random_initialization_writes_nothing(self, tmp_path):
        net = PruningWrapper(network(), dir_name=tmp_path / "run", random_initialization=True)
        net.set_initial_weights()
        assert not (tmp_path / "run").exists()


class TestStateDict:
    def test_transfers_the_mask_to_a_new_wrapper(self):
        net = PruningWrapper(network(), 0.5)
        net.prune_weights()
        other = PruningWrapper(network(1), 0.5)
        other.load_state_dict(net.state_dict())
        assert other.mask == net.mask
        train(other, sgd(other))
        assert not dropped(other).any()

    def test_consists_of_tensors_under_the_models_names(self):
        state = PruningWrapper(network()).state_dict()
        assert all(isinstance(value, torch.Tensor) for value in state.values())
        assert {f"net.{name}" for name in network().state_dict()} < set(state)

    def test_an_earlier_mask_does_not_revive_weights(self):
        net = PruningWrapper(network(), 0.5)
        state = copy.deepcopy(net.state_dict())
        net.prune_weights()
        net.load_state_dict(state)
        assert net.mask.kept == 140
        assert not dropped(net).any()

    def test_one_without_a_mask_loads(self):
        state = {f"net.{name}": value for name, value in network(1).state_dict().items()}
        net = PruningWrapper(network(), 0.5)
        net.prune_weights()
        net.load_state_dict(state)
        assert net.mask.kept == 140
        assert not dropped(net).any()

    def test_that_of_another_model_is_rejected(self):
        other = PruningWrapper(nn.Linear(3, 3))
        with pytest.raises(ValueError, match="must be a mask of 280 weights"):
            PruningWrapper(network()).load_state_dict(other.state_dict())


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_enforce_their_own_mask(duplicate):
    net = PruningWrapper(network(), 0.5)
    net.set_initial_weights()
    net.prune_weights()
    other = duplicate(net)
    other.prune_weights()
    train(other, sgd(other))
    assert other.mask.kept == 70
    assert not dropped(other).any()
    train(net, sgd(net))
    assert net.mask.kept == 140
    assert not dropped(net).any()
    other.reinitialize()


def test_bad_arguments_and_order_of_calls(capsys):
    for rate in (-0.1, 1.0, 20):
        with pytest.raises(ValueError, match=r"prune_rate must lie in \[0, 1\)"):
            PruningWrapper(network(), rate)
    with pytest.raises(ValueError, match="save_dir must be None if dir_name is set"):
        PruningWrapper(network(), dir_name="a", save_dir="b")
    net = PruningWrapper(network(), 0.5)
    with pytest.raises(RuntimeError, match="set_initial_weights"):
        net.reinitialize()
    assert net.calculate_percent_pruned(verbose=True) == (280, 280, 0.0)
    assert "0.00% of 280" in capsys.readouterr().out


def test_the_last_weight_is_kept():
    net = PruningWrapper(nn.Linear(2, 2), 0.9)
    for _ in range(5):
        net.prune_weights()
    assert net.mask.kept == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("random", [True, False])
def test_on_cuda(random):
    net = PruningWrapper(network(), 0.5, "cuda", None, random, random)
    net.set_initial_weights()
    for _ in range(2):
        optimizer = sgd(net)
        net(torch.randn(8, 10, device="cuda")).sum().backward()
        optimizer.step()
        net.prune_weights()
        net.reinitialize()
    assert net.mask.kept == 70
    assert not dropped(net.cpu()).any()
