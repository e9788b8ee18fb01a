from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

from sparseq.nn import QLinear, SparseLinear, SparseQLinear, replace_modules, swap, to_dense


def net() -> nn.Sequential:
    inner = nn.Sequential(nn.Linear(16, 16, bias=False), nn.ReLU())
    return nn.Sequential(nn.Linear(12, 16), nn.ReLU(), inner, nn.Linear(16, 10))


def quaternion_net() -> nn.Sequential:
    return nn.Sequential(QLinear(12, 16), nn.Tanh(), QLinear(16, 8), nn.Tanh(), nn.Linear(8, 10))


def sparse_net() -> nn.Sequential:
    dense = quaternion_net()
    generator = torch.Generator().manual_seed(0)

    def keep(shape: torch.Size) -> torch.Tensor:
        return torch.rand(shape, generator=generator) < 0.5

    first = SparseQLinear.from_dense(dense[0], keep(dense[0].weight.shape))
    whole = keep(dense[2].weight.shape[1:]).expand_as(dense[2].weight)
    last = SparseLinear.from_dense(dense[4], keep(dense[4].weight.shape))
    return nn.Sequential(first, dense[1], SparseQLinear.from_dense(dense[2], whole), dense[3], last)


def kinds(model: nn.Module) -> list[str]:
    return [type(module).__name__ for module in model.modules() if not list(module.children())]


def twice(name: str, module: nn.Module) -> nn.Module | None:
    """A rule that replaces nn.Linear by one with doubled weights."""
    if type(module) is not nn.Linear:
        return None
    layer = nn.Linear(module.in_features, module.out_features, module.bias is not None)
    layer.weight.data = module.weight.detach() * 2
    return layer


def test_the_walker_copies_and_replaces_at_every_depth():
    model = net()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    new = replace_modules(model, twice)
    assert new is not model
    assert new.state_dict().keys() == before.keys()
    assert torch.equal(new[2][0].weight, 2 * before["2.0.weight"])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    pointers = {parameter.data_ptr() for parameter in model.parameters()}
    assert pointers.isdisjoint(parameter.data_ptr() for parameter in new.parameters())


def test_the_walker_calls_the_rule_once_per_module_with_its_name():
    calls: list[str] = []
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU()))
    model.append(model[0])
    replace_modules(model, lambda name, module: calls.append(name))
    assert calls == ["", "0", "1", "1.0"]


def test_shared_modules_stay_shared_replaced_or_not():
    shared, relu = nn.Linear(4, 4), nn.ReLU()
    new = replace_modules(nn.Sequential(shared, relu, nn.Sequential(shared, relu)), twice)
    assert new[0] is new[2][0]
    assert new[1] is new[2][1]
    assert new[0] is not shared


def test_tied_parameters_of_kept_modules_stay_tied():
    model = nn.Sequential(nn.Linear(4, 4), nn.Bilinear(4, 4, 4), nn.Bilinear(4, 4, 4))
    model[2].weight = model[1].weight
    new = replace_modules(model, twice)
    assert new[2].weight is new[1].weight
    assert new[2].weight is not model[1].weight


def test_modules_held_outside_the_tree_are_replaced_too():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)
            self.order = [self.layer]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.order[0](x)

    new = replace_modules(Net(), twice)
    assert new.order[0] is new.layer


def test_the_root_itself_may_be_replaced():
    layer = nn.Linear(3, 2)
    assert torch.equal(replace_modules(layer, twice).weight, 2 * layer.weight)


def test_new_modules_get_the_mode_of_the_old():
    model = net().eval()
    model[3].train()
    new = replace_modules(model, twice)
    assert [new[0].training, new[2].training, new[3].training] == [False, False, True]


def test_to_dense_converts_one_step_each_time():
    model, x = sparse_net(), torch.randn(7, 12, generator=torch.Generator().manual_seed(0))
    assert kinds(model)[::2] == ["SparseQLinear", "SparseQLinear", "SparseLinear"]
    dense = to_dense(model)
    assert kinds(dense)[::2] == ["QLinear", "QLinear", "Linear"]
    real = to_dense(dense)
    assert kinds(real)[::2] == ["Linear", "Linear", "Linear"]
    for other in (dense, real, to_dense(real)):
        torch.testing.assert_close(other(x), model(x), rtol=1e-5, atol=1e-5)
    assert kinds(model)[::2] == ["SparseQLinear", "SparseQLinear", "SparseLinear"]


def test_to_dense_keeps_shared_layers_shared():
    layer = SparseLinear.from_dense(nn.Linear(4, 4))
    dense = to_dense(nn.Sequential(layer, nn.ReLU(), layer))
    assert dense[0] is dense[2]


def test_to_dense_of_a_lone_layer_and_of_a_plain_model():
    assert type(to_dense(QLinear(4, 4))) is nn.Linear
    plain = net()
    copied = to_dense(plain)
    assert copied is not plain
    assert torch.equal(copied[0].weight, plain[0].weight)


def test_swap_makes_fresh_layers_of_the_same_sizes():
    model = net().double().eval()
    new = swap(model, {nn.Linear: QLinear}, generator=torch.Generator().manual_seed(0))
    assert kinds(new) == ["QLinear", "ReLU", "QLinear", "ReLU", "Linear"]
    first, inner = new[0], new[2][0]
    assert (first.in_features, first.out_features, inner.bias) == (12, 16, None)
    assert first.weight.dtype == first.bias.dtype == torch.float64
    assert not first.training
    assert torch.equal(new[3].weight, model[3].weight)
    assert kinds(model) == ["Linear", "ReLU", "Linear", "ReLU", "Linear"]
    assert new(torch.randn(2, 12, dtype=torch.float64)).shape == (2, 10)


def test_swap_is_seeded():
    weights = [
        swap(net(), {nn.Linear: QLinear}, generator=torch.Generator().manual_seed(seed))[0].weight
        for seed in (1, 1, 2)
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_swap_logs_replaced_and_kept_layers(caplog):
    with caplog.at_level(logging.INFO, "sparseq"):
        swap(net(), {nn.Linear: QLinear})
    assert "swap replaced 0 by QLinear" in caplog.messages
    assert "swap replaced 2.0 by QLinear" in caplog.messages
    assert any(
        text.startswith("swap kept 3: QLinear: out_features must be divisible by 4")
        for text in caplog.messages
    )


def test_swap_filters_by_name_and_layer():
    names = swap(net(), {nn.Linear: QLinear}, filter=lambda name, _: name != "0")
    assert kinds(names) == ["Linear", "ReLU", "QLinear", "ReLU", "Linear"]
    layers = swap(net(), {nn.Linear: QLinear}, lambda _, layer: layer.bias is not None)
    assert kinds(layers) == ["QLinear", "ReLU", "Linear", "ReLU", "Linear"]


def test_swap_keeps_subclasses_whose_weight_other_modules_read():
    model = nn.MultiheadAttention(8, 2)
    new = swap(model, {nn.Linear: QLinear})
    x = torch.randn(3, 8)
    torch.testing.assert_close(new(x, x, x)[0], model(x, x, x)[0])


def test_swap_accepts_subclasses_of_the_twin():
    class Mine(QLinear):
        pass

    assert type(swap(nn.Linear(8, 4), {nn.Linear: Mine})) is Mine


def test_swap_refuses_unknown_pairs():
    with pytest.raises(ValueError, match="layer type to swap 'ReLU'; choose one of: Linear"):
        swap(net(), {nn.ReLU: QLinear})
    with pytest.raises(
        ValueError, match=r"swap: table\[Linear\] must be QLinear or a subclass of it, got"
    ):
        swap(net(), {nn.Linear: nn.Bilinear})
