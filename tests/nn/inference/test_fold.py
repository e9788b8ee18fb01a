"""`fold_batchnorm`: the same function to 1e-10 in float64; folds only what may be folded."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

from sparseq.nn import (
    ExpanderConv2d,
    ExpanderLinear,
    ExpanderQConv2d,
    ExpanderQLinear,
    QBatchNorm1d,
    QBatchNorm2d,
    QConv2d,
    QConvTranspose2d,
    QLinear,
    SparseConv2d,
    SparseLinear,
    SparseQConv2d,
    SparseQLinear,
    fold_batchnorm,
)
from sparseq.nn.inference.fold import is_normalization
from tests.nn.inference.fold_models import Residual, Untraceable
from tests.ops.cases import normal


def randomized(model: nn.Module) -> nn.Module:
    """The model in float64 and evaluation mode, with random parameters and running statistics."""
    model = model.double().eval()
    for seed, (name, tensor) in enumerate(model.state_dict().items()):
        if tensor.is_floating_point():
            tensor.copy_(normal(*tensor.shape, seed=seed))
        if "running_var" in name:
            tensor.abs_().add_(0.5)
        if "running_cov" in name:
            tensor.copy_((tensor[:, :, None] * tensor.transpose(0, 1)).sum(1))
    return model


def norms_of(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if is_normalization(module)]


def assert_folds(model: nn.Module, x: torch.Tensor, kept: int = 0) -> nn.Module:
    before = {key: value.clone() for key, value in model.state_dict().items()}
    folded = fold_batchnorm(model)
    assert len(norms_of(folded)) == kept, norms_of(folded)
    torch.testing.assert_close(folded(x), model(x), rtol=1e-10, atol=1e-10)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    return folded


def sparse_linear(bias=True):
    dense = nn.Linear(8, 12, bias)
    return SparseLinear.from_dense(dense, normal(12, 8) > 0.3)


def sparse_qlinear(whole=True):
    mask = (normal(1, 3, 2) > -0.3).expand(4, 3, 2) if whole else normal(4, 3, 2) > 0
    return SparseQLinear.from_dense(QLinear(8, 12), mask)


def sparse_qconv(whole=True):
    layer = QConv2d(8, 16, 3, padding=1, groups=2)
    shape = layer.weight.shape
    keep = normal(*shape) > 0 if not whole else (normal(1, *shape[1:]) > -0.3).expand(shape)
    return SparseQConv2d.from_dense(layer, keep)


REAL = {
    "linear": lambda: nn.Linear(8, 12),
    "linear without bias": lambda: nn.Linear(8, 12, bias=False),
    "sparse": sparse_linear,
    "sparse without bias": lambda: sparse_linear(False),
    "expander": lambda: ExpanderLinear(8, 12, 3, seed=1),
    "expander of blocks": lambda: ExpanderLinear(8, 12, 4, "block(4)", seed=1, bias=False),
}


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm1d,
        lambda n: QBatchNorm1d(n, mode="split"),
        lambda n: nn.BatchNorm1d(n, affine=False),
    ],
)
@pytest.mark.parametrize("name", REAL)
def test_scales_are_folded_into_linear_layers(name, norm):
    folded = assert_folds(randomized(nn.Sequential(REAL[name](), norm(12))), normal(5, 8))
    assert folded[0].bias is not None
    assert isinstance(folded[1], nn.Identity)


CONVOLUTIONS = {
    "plain": lambda: nn.Conv2d(4, 12, 3, padding=1),
    "groups": lambda: nn.Conv2d(4, 12, 3, stride=2, groups=2, bias=False),
    "reflecting": lambda: nn.Conv2d(4, 12, 3, padding=1, padding_mode="reflect"),
    "transposed": lambda: nn.ConvTranspose2d(4, 12, 3, stride=2),
    "sparse": lambda: SparseConv2d.from_dense(
        nn.Conv2d(4, 12, 3, groups=2, padding=1), normal(12, 2, 3, 3) > 0.3
    ),
    "expander": lambda: ExpanderConv2d(4, 12, 3, 2, "xnet", seed=1, bias=False),
    "transposed with groups": lambda: nn.ConvTranspose2d(4, 12, 3, groups=2, bias=False),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_scales_are_folded_into_convolutions(name):
    assert_folds(
        randomized(nn.Sequential(CONVOLUTIONS[name](), nn.BatchNorm2d(12))), normal(2, 4, 6, 5)
    )


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_whitening_is_folded_into_dense_real_convolutions_without_groups(name):
    model = randomized(nn.Sequential(CONVOLUTIONS[name](), QBatchNorm2d(12)))
    refused = {"groups", "transposed with groups", "sparse", "expander"}
    assert_folds(model, normal(2, 4, 6, 5), kept=int(name in refused))


@pytest.mark.parametrize(
    ("kind", "nd"),
    [(nn.Conv1d, 1), (nn.Conv3d, 3), (nn.ConvTranspose1d, 1), (nn.ConvTranspose3d, 3)],
)
def test_other_dimensions(kind, nd):
    norm = {1: nn.BatchNorm1d, 3: nn.BatchNorm3d}[nd]
    assert_folds(randomized(nn.Sequential(kind(4, 8, 2), norm(8))), normal(2, 4, *[4] * nd))


QUATERNION = {
    "linear": (lambda: QLinear(8, 12), (5, 8)),
    "sparse by component": (lambda: sparse_qlinear(False), (5, 8)),
    "sparse by quaternion": (sparse_qlinear, (5, 8)),
    "expander": (lambda: ExpanderQLinear(8, 12, 2, seed=1, bias=False), (5, 8)),
    "convolution": (lambda: QConv2d(8, 12, 3, padding=1), (2, 8, 5, 4)),
    "groups": (lambda: QConv2d(8, 16, 3, groups=2, bias=False), (2, 8, 5, 4)),
    "sparse convolution by component": (lambda: sparse_qconv(False), (2, 8, 5, 4)),
    "sparse convolution by quaternion": (sparse_qconv, (2, 8, 5, 4)),
    "expander convolution": (
        lambda: ExpanderQConv2d(8, 12, 3, 2, "xnet", seed=1, bias=False),
        (2, 8, 5, 4),
    ),
    "transposed": (lambda: QConvTranspose2d(8, 16, 3, groups=2), (2, 8, 5, 4)),
}


def quaternion_model(name, mode):
    make, shape = QUATERNION[name]
    layer = make()
    size = layer.out_features if len(shape) == 2 else layer.out_channels
    norm = QBatchNorm1d if len(shape) == 2 else QBatchNorm2d
    return randomized(nn.Sequential(layer, norm(size, mode=mode))), normal(*shape)


@pytest.mark.parametrize("name", QUATERNION)
def test_one_scale_for_the_four_components_is_folded_into_quaternion_weights(name):
    model, x = quaternion_model(name, "split")
    norm = model[1]
    for tensor in (norm.weight.data, norm.running_var):
        tensor.copy_(tensor.view(4, -1)[:1].expand(4, -1).flatten())
    assert_folds(model, x)


@pytest.mark.parametrize("name", QUATERNION)
def test_a_quaternion_factor_is_folded_into_quaternion_weights(name):
    model, x = quaternion_model(name, "whiten")
    a, b, c, d = normal(4, model[1].num_features // 4, seed=3)
    model[1].running_cov.copy_(torch.eye(4)[:, :, None].expand(4, 4, len(a)))
    left = [[a, -b, -c, -d], [b, a, -d, c], [c, d, a, -b], [d, -c, b, a]]
    model[1].weight.data = torch.stack([torch.stack(row) for row in left])
    assert_folds(model, x, kept=int("component" in name))


@pytest.mark.parametrize("mode", ["split", "whiten"])
@pytest.mark.parametrize("name", QUATERNION)
def test_other_scales_are_not_folded_into_quaternion_weights(name, mode, caplog):
    model, x = quaternion_model(name, mode)
    with caplog.at_level(logging.INFO, "sparseq"):
        assert_folds(model, x, kept=1)
    assert f"kept 1: the weight of a {type(model[0]).__name__} cannot represent" in caplog.text


def test_whitening_is_not_folded_into_sparse_layers():
    model = randomized(nn.Sequential(sparse_linear(), QBatchNorm1d(12)))
    assert_folds(model, normal(5, 8), kept=1)
    model[1].weight.data = torch.diag_embed(normal(3, 4)).movedim(0, -1)
    model[1].running_cov.copy_(torch.eye(4)[:, :, None].expand(4, 4, 3))
    assert_folds(model, normal(5, 8))


def test_finds_pairs_in_graphs_and_keeps_what_is_used_twice():
    folded = assert_folds(randomized(Residual()), normal(2, 8, 5, 5), kept=4)
    assert norms_of(folded) == ["before", "after_two", "tied_norm", "shared.1"]


def test_finds_pairs_inside_untraceable_modules():
    folded = assert_folds(randomized(Untraceable()), normal(2, 8, 5, 5), kept=4)
    assert isinstance(folded.list[0][1], nn.Identity)
    assert isinstance(folded.block.bn2, nn.Identity)


def test_sequential_order_where_a_module_cannot_be_traced():
    class Odd(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    model = nn.Sequential(
        nn.Linear(4, 8),
        nn.BatchNorm1d(8),
        Odd(),
        nn.Linear(8, 4),
        nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)),
    )
    assert_folds(randomized(model), normal(3, 4))


def test_shared_modules_and_parameters_are_kept():
    norm, layer = nn.BatchNorm1d(4), nn.Linear(4, 4)
    assert_folds(
        randomized(nn.Sequential(nn.Linear(4, 4), norm, nn.ReLU(), nn.Linear(4, 4), norm)),
        normal(3, 4),
        kept=1,
    )
    model = nn.Sequential(layer, nn.BatchNorm1d(4), layer, nn.ReLU())
    assert_folds(randomized(model), normal(3, 4), kept=1)
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.ReLU())
    model[2].weight = model[0].weight
    assert_folds(randomized(model), normal(3, 4), kept=1)
    hooked = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    hooked[0].register_forward_hook(lambda module, args, y: 2 * y)
    assert_folds(randomized(hooked), normal(3, 4), kept=1)


def test_only_evaluation_by_running_statistics_is_folded(caplog):
    model = randomized(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)))
    with caplog.at_level(logging.INFO, "sparseq"):
        assert norms_of(fold_batchnorm(model.train())) == ["1"]
        untracked = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, track_running_stats=False))
        assert norms_of(fold_batchnorm(untracked.eval())) == ["1"]
        assert norms_of(fold_batchnorm(nn.BatchNorm1d(4).eval())) == [""]
    assert "kept 1: it is in training mode" in caplog.text
    assert "kept 1: it has no running statistics" in caplog.text
    assert "kept the model: no layer precedes it" in caplog.text
    folded = fold_batchnorm(model.eval())
    assert "folded 1 into 0" not in caplog.text
    assert not any(module.training for module in folded.modules())


def test_keeps_dtype_gradient_flags_and_state():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.BatchNorm1d(4)).bfloat16().eval()
    model[0].weight.requires_grad_(False)
    folded = fold_batchnorm(model)
    assert {p.dtype for p in folded.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad for p in folded.parameters())
    assert list(folded.state_dict()) == ["0.weight", "0.bias"]


def test_a_network():
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 3), QBatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)),
        *(nn.ReLU(), nn.Flatten(), nn.Linear(8 * 9, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)),
    )
    assert_folds(randomized(model), normal(2, 3, 7, 7))
