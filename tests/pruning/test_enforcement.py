"""An enforced mask: weights, gradients and optimizer state stay exactly zero in any loop."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn, optim

from sparseq.pruning import Mask, prune
from tests.pruning.training import OPTIMIZERS, assert_held, batch, loss_of, network, train


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_holds_in_every_optimizer_when_enforced_mid_training(name, set_to_none):
    model = network()
    optimizer = OPTIMIZERS[name](model.parameters())
    train(model, optimizer)  # makes every gradient and moment nonzero
    mask = prune(model, density=0.3)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    with mask.enforce(model, optimizer):
        assert_held(model, mask, optimizer)
        for step in range(4):
            train(model, optimizer, 1, set_to_none, first=step)
            assert_held(model, mask, optimizer)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    pairs = zip(model.parameters(), before, strict=True)
    assert all(not torch.equal(parameter, old) for parameter, old in pairs)


@pytest.mark.parametrize("name", ["sgd_nesterov", "adam_fused"])
def test_kept_weights_train_as_if_the_others_did_not_exist(name):
    """A layer with masked inputs trains like a layer without these inputs."""
    small, large = nn.Linear(5, 4, bias=False), nn.Linear(7, 4, bias=False)
    keep = torch.zeros(4, 7, dtype=torch.bool)
    keep[:, :5] = True
    with torch.no_grad():
        large.weight[:, :5] = small.weight
    optimizers = [OPTIMIZERS[name](layer.parameters()) for layer in (small, large)]
    Mask({"weight": keep}).enforce(large, optimizers[1])
    for step in range(5):
        x = torch.randn(9, 7, generator=torch.Generator().manual_seed(step))
        for layer, optimizer, width in zip((small, large), optimizers, (5, 7), strict=True):
            optimizer.zero_grad()
            layer(x[:, :width]).square().mean().backward()
            optimizer.step()
    torch.testing.assert_close(large.weight[:, :5], small.weight)


def test_lbfgs_with_closures():
    model = network()
    mask = prune(model, density=0.3)
    optimizer = optim.LBFGS(model.parameters(), max_iter=5, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = loss_of(model, 0)
        loss.backward()
        assert_held(model, mask)
        return loss

    with mask.enforce(model, optimizer):
        first = optimizer.step(closure)
        last = optimizer.step(closure)
        assert_held(model, mask, optimizer)
    assert last < first


def test_sgd_with_a_closure():
    model = network()
    mask = prune(model, density=0.3)
    optimizer = OPTIMIZERS["sgd_nesterov"](model.parameters())

    def closure():
        optimizer.zero_grad()
        loss = loss_of(model, 0)
        loss.backward()
        return loss

    with mask.enforce(model, optimizer):
        optimizer.step(closure)
        assert_held(model, mask, optimizer)


def test_gradient_accumulation_and_several_groups():
    model = network()
    mask = prune(model, density=0.3)
    groups = [
        {"params": model[0].parameters(), "weight_decay": 0.5},
        {"params": [model[2].weight], "lr": 1.0},
        {"params": [model[2].bias, *model[4].parameters()]},
    ]
    optimizer = optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=0.1)
    with mask.enforce(model, optimizer):
        for step in range(6):
            loss_of(model, step).backward()
            assert_held(model, mask, optimizer)
            if step % 3 == 2:
                optimizer.step()
                assert_held(model, mask, optimizer)
                optimizer.zero_grad()


def test_parameters_shared_by_two_optimizers():
    model = network()
    mask = prune(model, density=0.3)
    fast = optim.SGD(model.parameters(), 0.1, momentum=0.9)
    slow = optim.Adam(model[2].parameters(), 0.01)
    train(model, fast)
    train(model, slow)
    with mask.enforce(model, fast), mask.enforce(model, slow):
        for optimizer in (fast, slow, fast):
            train(model, optimizer)
            assert_held(model, mask, fast)
            assert_held(model, mask, slow)


@pytest.mark.parametrize("name", ["sgd_nesterov", "adam_fused", "rmsprop"])
def test_without_an_optimizer_argument_it_holds_in_any(name):
    model, other = network(), network(1)
    mask = prune(model, density=0.3)
    with mask.enforce(model):
        for _ in range(2):  # a new one each round, as in training loops that know nothing of masks
            optimizer = OPTIMIZERS[name](model.parameters())
            train(model, optimizer)
            assert_held(model, mask, optimizer)
        bystander = OPTIMIZERS[name](other.parameters())
        train(other, bystander)
        assert Mask.from_zeros(other).density == 1
    train(model, optimizer)
    assert Mask.from_zeros(model).density == 1


@pytest.mark.parametrize("poison", [1.0, float("nan"), float("inf")])
def test_writes_to_data_do_not_propagate(poison):
    model = network()
    mask = prune(model, density=0.3)
    optimizer = OPTIMIZERS["adam_fused"](model.parameters())
    with mask.enforce(model, optimizer):
        for weight, keep in zip(
            (model[0].weight, model[4].weight), (mask["0.weight"], mask["4.weight"]), strict=True
        ):
            weight.data[~keep] = poison
        assert loss_of(model, 0).isfinite()
        assert_held(model, mask)
        loss_of(model, 0).backward()
        model[0].weight.data[~mask["0.weight"]] = poison
        model[0].weight.grad[~mask["0.weight"]] = poison
        optimizer.step()
        assert_held(model, mask, optimizer)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


class PoisonedGradient(torch.autograd.Function):
    """The identity, whose gradient is NaN where `keep` is False."""

    @staticmethod
    def forward(ctx, weight, keep):
        ctx.keep = keep
        return weight.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient.masked_fill(~ctx.keep, float("nan")), None


def test_nan_gradients_of_dropped_weights_do_not_propagate():
    layer = nn.Linear(6, 5)
    mask = prune(layer, density=0.4)
    optimizer = optim.Adam(layer.parameters(), 0.01)
    with mask.enforce(layer, optimizer):
        for _ in range(3):
            weight = PoisonedGradient.apply(layer.weight, mask["weight"])
            F.linear(torch.randn(4, 6), weight, layer.bias).square().sum().backward()
            assert nn.utils.clip_grad_norm_(layer.parameters(), 1.0).isfinite()
            optimizer.step()
            assert_held(layer, mask, optimizer)
    assert layer.weight.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_conversion_of_the_model_mid_training(dtype):
    model = network()
    mask = prune(model, density=0.3)
    with mask.enforce(model):
        model.to(dtype)
        optimizer = optim.SGD(model.parameters(), 0.01, momentum=0.9)
        model(batch(0)[0].to(dtype)).float().square().sum().backward()
        optimizer.step()
        assert_held(model, mask, optimizer)


def test_complex_weights():
    layer = nn.Linear(3, 4, dtype=torch.complex128)
    mask = prune(layer, density=0.5)
    with mask.enforce(layer):
        optimizer = optim.SGD(layer.parameters(), 0.1, momentum=0.9, weight_decay=0.1)
        layer(torch.randn(5, 3, dtype=torch.complex128)).abs().sum().backward()
        optimizer.step()
        assert_held(layer, mask, optimizer)


def test_sparse_gradients():
    table = nn.Embedding(6, 3, sparse=True)
    keep = torch.arange(18).reshape(6, 3) % 3 != 0
    mask = Mask({"weight": keep})
    optimizer = optim.SparseAdam(table.parameters(), 0.1)
    with mask.enforce(table, optimizer):
        for _ in range(3):
            optimizer.zero_grad()
            table(torch.tensor([1, 4, 4])).square().sum().backward()
            optimizer.step()
            assert not table.weight.grad.to_dense()[~keep].any()
            assert not table.weight[~keep].any()


def test_two_forwards_before_a_backward():
    model = network()
    mask = prune(model, density=0.3)
    with mask.enforce(model):
        (loss_of(model, 0) * loss_of(model, 1)).backward()
        assert_held(model, mask)


def test_a_tied_weight_is_masked_in_both_layers():
    layer = nn.Linear(6, 6, bias=False)
    tied = nn.Linear(6, 6, bias=False)
    tied.weight = layer.weight
    model = nn.Sequential(layer, nn.Tanh(), tied)
    mask = prune(model, density=0.3)
    assert list(mask) == ["0.weight"]
    optimizer = OPTIMIZERS["adam_fused"](model.parameters())
    with mask.enforce(model, optimizer):
        model(torch.randn(4, 6)).sum().backward()
        optimizer.step()
    assert not tied.weight[~mask["0.weight"]].any()


def test_compiled_models_are_enforced():
    model = network()
    mask = prune(model, density=0.3)
    optimizer = OPTIMIZERS["adam_fused"](model.parameters())
    with mask.enforce(model, optimizer):
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        train(compiled, optimizer)
        assert_held(model, mask, optimizer)
        model[2].weight.data[~mask["2.weight"]] = float("nan")
        assert loss_of(compiled, 0).isfinite()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["sgd_nesterov", "adamw_foreach", "adamw_fused"])
def test_a_mask_made_before_the_model_moves_to_cuda(name):
    model = network()
    mask = prune(model, density=0.3)
    with mask.enforce(model):
        model.cuda()
        optimizer = OPTIMIZERS[name](model.parameters())
        model(batch(0)[0].cuda()).square().sum().backward()
        optimizer.step()
        assert_held(model.cpu(), mask)
