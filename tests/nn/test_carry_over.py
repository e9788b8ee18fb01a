"""What users attach to layers survives their replacement: hooks, attributes, ties, flags."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils import prune as torch_prune

from sparseq import QLinear, SparseLinear, compress, swap, to_dense
from sparseq.nn.computed import copy_model, plain_layer


def sparse(model):
    return compress(model, policy="sparse")


CONVERSIONS = {
    "compress": (lambda: nn.Linear(8, 8), sparse),
    "compress a convolution": (lambda: nn.Conv2d(4, 4, 3, padding=1), sparse),
    "swap": (lambda: nn.Linear(8, 8), lambda model: swap(model, {nn.Linear: QLinear})),
    "to_dense": (lambda: SparseLinear.from_dense(nn.Linear(8, 8)), to_dense),
    "to_dense of a quaternion layer": (lambda: QLinear(8, 8), to_dense),
}


@pytest.fixture(params=CONVERSIONS)
def converted(request):
    """A layer in a network, and the function that converts the network."""
    make, convert = CONVERSIONS[request.param]
    layer = make()
    example = torch.randn(2, 4, 6, 6) if isinstance(layer, nn.Conv2d) else torch.randn(2, 8)
    return nn.Sequential(layer, nn.ReLU()), convert, example


def test_hooks_are_carried_over(converted):
    model, convert, x = converted
    calls = []
    model[0].register_forward_pre_hook(lambda module, args: calls.append("pre"))
    model[0].register_forward_hook(
        lambda module, args, kwargs, y: calls.append("post"), with_kwargs=True
    )
    model[0].register_full_backward_hook(lambda module, gx, gy: calls.append("backward"))
    new = convert(model)
    assert type(new[0]) is not type(model[0])
    new(x.requires_grad_()).sum().backward()
    assert calls == ["pre", "post", "backward"]


def test_a_hook_that_changes_the_output_changes_it_once(converted):
    model, convert, x = converted
    plain = convert(model)
    torch.manual_seed(0)
    model[0].register_forward_hook(lambda module, args, y: y * 2)
    torch.manual_seed(0)
    new = convert(model)
    new[0].load_state_dict(plain[0].state_dict())
    torch.testing.assert_close(new(x), 2 * plain(x))


def test_attributes_tensors_and_modules_of_the_user_are_carried_over(converted):
    model, convert, _ = converted
    layer = model[0]
    layer.tag, layer._mark = {"lr": 0.1}, [1]
    layer.register_buffer("scale", torch.ones(3), persistent=False)
    layer.register_parameter("gate", nn.Parameter(torch.ones(2)))
    layer.probe = nn.Identity()
    new = convert(model)[0]
    assert (new.tag, new._mark) == ({"lr": 0.1}, [1])
    assert new.tag is not layer.tag
    assert new.gate is not layer.gate
    assert torch.equal(new.gate, layer.gate)
    assert isinstance(new.probe, nn.Identity)
    assert "scale" in dict(new.named_buffers())
    assert "scale" not in new.state_dict()


def test_nothing_of_the_old_class_is_carried_over(converted):
    model, convert, _ = converted
    new = convert(model)[0]
    fresh = copy.deepcopy(new)
    extra = vars(new).keys() - vars(fresh).keys()
    assert not extra
    assert not {"values", "row_ptr", "weight"} <= vars(new).keys() | new._parameters.keys()


def test_hooks_on_the_state_dict_are_named(converted):
    model, convert, _ = converted
    model[0].register_state_dict_post_hook(lambda *args: None)
    with pytest.warns(UserWarning, match="0 was replaced without its state_dict_hooks"):
        convert(model)


def test_a_layer_with_a_forward_of_its_own_is_kept_and_named(converted):
    model, convert, _ = converted
    model[0].forward = lambda x: x + 1
    with pytest.warns(UserWarning, match="0 is kept, as it has a forward of its own"):
        new = convert(model)
    assert type(new[0]) is type(model[0])


class Tied(nn.Module):
    """A language model whose head has the weight of its embedding."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(24, 16)
        self.body = nn.Linear(16, 16)
        self.head = nn.Linear(16, 24, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x):
        return self.head(self.body(self.embedding(x)))


@pytest.mark.parametrize("convert", [sparse, lambda m: swap(m, {nn.Linear: QLinear})])
def test_a_head_tied_to_an_embedding_stays_tied_and_is_named(convert):
    with pytest.warns(UserWarning, match="head is kept, as it shares its weight with embedding"):
        new = convert(Tied())
    assert new.head.weight is new.embedding.weight
    assert type(new.body) is not nn.Linear


def test_dropped_entries_of_a_tied_weight_are_zero():
    mask = {"embedding.weight": torch.rand(24, 16) < 0.3, "body.weight": torch.rand(16, 16) < 0.3}
    with pytest.warns(UserWarning, match="head is kept, as it shares its weight"):
        new = compress(Tied(), mask, policy="sparse")
    assert not new.head.weight[~mask["embedding.weight"]].any()
    assert new.head.weight is new.embedding.weight


@pytest.mark.parametrize("convert", [sparse, lambda m: swap(m, {nn.Linear: QLinear})])
def test_layers_that_share_weight_and_bias_share_those_of_the_new_layers(convert):
    first, second = nn.Linear(8, 8), nn.Linear(8, 8)
    second.weight, second.bias = first.weight, first.bias
    norm = nn.LayerNorm(8)
    norm.bias = first.bias
    new = convert(nn.Sequential(first, nn.ReLU(), second, norm))
    kind = next(iter(new[0].named_parameters()))[0]
    assert getattr(new[0], kind) is getattr(new[2], kind)
    assert new[0].bias is new[2].bias is new[3].bias
    back = to_dense(new)
    assert back[0].weight is back[2].weight
    assert back[0].bias is back[3].bias


def test_gradient_flags_are_carried_over_whatever_the_order_of_parameters():
    layer = nn.Linear(8, 8)
    torch_prune.l1_unstructured(layer, "weight", amount=0.5)
    torch_prune.remove(layer, "weight")  # now the bias comes first
    layer.weight.requires_grad_(False)
    new = sparse(nn.Sequential(layer))[0]
    assert not new.values.requires_grad
    assert new.bias.requires_grad


OLD_HOOKS = {
    "weight_norm": torch.nn.utils.weight_norm,
    "spectral_norm": torch.nn.utils.spectral_norm,
}
COMPUTED = {
    **OLD_HOOKS,
    "prune": lambda layer: torch_prune.l1_unstructured(layer, "weight", amount=0.5),
    "prune twice": lambda layer: torch_prune.random_unstructured(
        torch_prune.ln_structured(layer, "weight", amount=2, n=2, dim=0), "weight", amount=0.3
    ),
    "new weight_norm": parametrizations.weight_norm,
    "new spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
}


def computed(name, layer):
    """A layer whose weight is computed, after its sources have changed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the older forms are deprecated
        layer = COMPUTED[name](layer)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return layer


@pytest.mark.parametrize("name", COMPUTED)
@pytest.mark.parametrize("trained", [True, False])
def test_a_computed_weight_is_the_one_that_forward_uses(name, trained):
    layer = computed(name, nn.Linear(8, 8)).requires_grad_(trained)
    x = torch.randn(3, 8)
    model = nn.Sequential(layer).train()
    state = copy.deepcopy(model.state_dict())
    new = sparse(model)
    assert isinstance(new[0], SparseLinear)
    torch.testing.assert_close(new(x), copy_model(model).eval()(x))
    assert all(torch.equal(model.state_dict()[key], value) for key, value in state.items())
    assert {p.requires_grad for p in new.parameters()} == {trained}
    assert list(new.state_dict()) == ["0.values", "0.bias", "0.row_ptr", "0.col_idx"]
    model(x)  # the original still works


def test_the_mask_of_torch_prune_is_taken_over():
    layer = nn.Linear(2, 1, bias=False)
    torch_prune.custom_from_mask(layer, "weight", torch.tensor([[1, 0]]))
    layer.weight_orig.data = torch.zeros(1, 2)
    new = sparse(nn.Sequential(layer))[0]
    assert new.pattern.mask().tolist() == [[True, False]]
    layer.weight_orig.data.fill_(5)  # the attribute `weight` is stale until the next forward
    assert sparse(nn.Sequential(layer))[0].values.tolist() == [5]


def test_a_model_pruned_by_torch_can_be_copied_and_stays_pruned_where_dense():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    torch_prune.global_unstructured(
        [(layer, "weight") for layer in model], torch_prune.L1Unstructured, amount=0.8
    )
    x = torch.randn(3, 8)
    kept = compress(model)  # policy "auto" keeps layers as small as these dense
    assert torch_prune.is_pruned(kept[0])
    torch.testing.assert_close(kept(x), model(x))
    kept(x).sum().backward()
    assert kept[0].weight_orig.grad is not None


def test_plain_layers_are_not_copied():
    layer = nn.Linear(2, 2)
    assert plain_layer(layer) is layer
