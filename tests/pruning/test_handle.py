"""The life of an enforced mask: loading, replaced parameters, copies, removal."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import weakref

import pytest
import torch
from torch import optim

from sparseq.pruning import Mask, prune
from tests.pruning.training import OPTIMIZERS, assert_held, network, train


def test_loading_states_of_model_and_optimizer():
    model = network()
    optimizer = OPTIMIZERS["adam_foreach"](model.parameters())
    train(model, optimizer)
    state, moments = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    mask = prune(model, density=0.3)
    with mask.enforce(model, optimizer):
        model.load_state_dict(state)
        optimizer.load_state_dict(moments)
        assert_held(model, mask, optimizer)
        train(model, optimizer)
        assert_held(model, mask, optimizer)
        assert list(model.state_dict()) == list(state)


def test_replaced_parameters_are_followed():
    model = network()
    state = copy.deepcopy(model.state_dict())
    mask = prune(model, density=0.3)
    with mask.enforce(model):
        model.load_state_dict(state, assign=True)
        assert_held(model, mask)
        optimizer = OPTIMIZERS["adam_fused"](model.parameters())
        train(model, optimizer)
        assert_held(model, mask, optimizer)


def test_frozen_layers_are_enforced_once_they_train_again():
    model = network()
    model[2].requires_grad_(False)
    mask = prune(model, density=0.3)
    optimizer = OPTIMIZERS["sgd_nesterov"](model.parameters())
    with mask.enforce(model, optimizer):
        train(model, optimizer)
        model[2].requires_grad_(True)
        train(model, optimizer)
        assert_held(model, mask, optimizer)


class TestRemoval:
    def test_weights_train_again_afterwards(self):
        model = network()
        mask = prune(model, density=0.3)
        optimizer = OPTIMIZERS["sgd_decay"](model.parameters())
        handle = mask.enforce(model, optimizer)
        train(model, optimizer)
        handle.remove()
        handle.remove()
        assert_held(model, mask, optimizer)
        train(model, optimizer)
        assert Mask.from_zeros(model).density == 1

    def test_removes_every_hook(self):
        model = network()
        optimizer = optim.SGD(model.parameters(), 0.1)
        before = self.hooks(model, optimizer)
        handle = prune(model, density=0.3).enforce(model, optimizer)
        assert self.hooks(model, optimizer) != before
        handle.remove()
        assert self.hooks(model, optimizer) == before

    def test_an_error_in_the_block_removes_it_too(self):
        model = network()
        with pytest.raises(KeyboardInterrupt), prune(model, density=0.3).enforce(model):
            raise KeyboardInterrupt
        assert not model._forward_pre_hooks

    @staticmethod
    def hooks(model, optimizer):
        return [
            len(model._forward_pre_hooks),
            len(model._load_state_dict_post_hooks),
            len(optimizer._optimizer_step_pre_hooks),
            len(optimizer._optimizer_step_post_hooks),
            len(optimizer._optimizer_load_state_dict_post_hooks),
            *(len(p._post_accumulate_grad_hooks or ()) for p in model.parameters()),
        ]


def by_deepcopy(model):
    return copy.deepcopy(model)


def by_pickle(model):
    return pickle.loads(pickle.dumps(model))


def by_torch_save(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("duplicate", [by_deepcopy, by_pickle, by_torch_save])
def test_copies_of_the_model_are_not_enforced_and_the_model_is(duplicate):
    model = network()
    mask = prune(model, density=0.3)
    optimizer = OPTIMIZERS["sgd_nesterov"](model.parameters())
    with mask.enforce(model, optimizer):
        other = duplicate(model)
        assert_held(other, mask)
        train(other, OPTIMIZERS["sgd_nesterov"](other.parameters()))
        assert Mask.from_zeros(other).density == 1
        train(model, optimizer)
        assert_held(model, mask, optimizer)


def test_a_deleted_model_is_not_kept_alive_by_its_enforcement():
    model = network()
    reference = weakref.ref(model)
    prune(model, density=0.3).enforce(model)
    del model
    gc.collect()
    assert reference() is None


def test_an_optimizer_of_other_parameters_is_rejected():
    model = network()
    mask = prune(model, density=0.3)
    stranger = optim.SGD(copy.deepcopy(model).parameters(), 0.1)
    with pytest.raises(ValueError, match=r"at least one masked parameter.*SGD of other"):
        mask.enforce(model, stranger)
    with pytest.raises(ValueError, match=r"must be a torch.optim.Optimizer"):
        mask.enforce(model, model)
    assert not model._forward_pre_hooks
