from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from sparseq.formats import CSRPattern
from sparseq.nn import QLinear, SparseLinear, SparseQLinear


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().view(torch.int32)


def full_pattern(rows: int, columns: int) -> CSRPattern:
    return CSRPattern.from_mask(torch.ones(rows, columns, dtype=torch.bool))


def random_pattern(rows: int, columns: int, density: float) -> CSRPattern:
    drawn = torch.rand(rows, columns, generator=torch.Generator().manual_seed(0))
    return CSRPattern.from_mask(drawn < density)


def masked(case, dtype=torch.float32) -> nn.Module:
    """The dense twin with its dropped weights set to zero."""
    twin = case.twin(dtype=dtype)
    twin.weight.data[~case.mask()] = 0
    return twin


def test_forward_and_gradients_are_those_of_the_masked_twin(case, x):
    sparse, dense = case.layer(dtype=torch.float64), masked(case, torch.float64)
    results = []
    for layer in (sparse, dense):
        leaf = x.double().requires_grad_()
        y = layer(leaf)
        y.square().sum().backward()
        results.append((y, leaf.grad, layer.bias.grad))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)
    twin = case.from_dense(dense, case.mask())
    twin.load_state_dict({"weight": dense.weight.grad, "bias": dense.bias})
    torch.testing.assert_close(sparse.values.grad, twin.values.detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_to_dense_is_the_exact_inverse(case, dtype, bias):
    twin = case.twin(dtype=dtype, bias=bias)
    twin.weight.data[~case.mask()] = 0
    for sparse in (case.from_dense(twin), case.from_dense(twin, case.mask())):
        dense = sparse.to_dense()
        assert type(dense) is type(twin)
        assert dense.weight.dtype == dtype
        assert dense.state_dict().keys() == twin.state_dict().keys()
        assert all(torch.equal(dense.state_dict()[k], v) for k, v in twin.state_dict().items())
        again = case.from_dense(dense, case.mask())
        assert torch.equal(again.values, sparse.values)
        assert torch.equal(again.col_idx, sparse.col_idx)


def test_kept_special_values_survive_and_dropped_ones_do_not_leak(case, x):
    twin, mask = case.twin(), case.mask()
    twin.weight.data[~mask] = math.nan
    kept = mask.nonzero()[:4].t().split(1)
    special = torch.tensor([-0.0, math.nan, math.inf, 0.0])
    twin.weight.data[tuple(index[0] for index in kept)] = special
    sparse = case.from_dense(twin, mask)
    dense = sparse.to_dense().weight
    assert torch.equal(bits(dense)[mask], bits(twin.weight)[mask])
    assert torch.equal(bits(dense)[~mask], torch.zeros_like(bits(dense)[~mask]))
    twin.weight.data.nan_to_num_(0, 0, 0)
    assert not case.from_dense(twin, mask)(x).isnan().any()


def test_without_a_mask_exact_zeros_are_dropped_and_nan_is_kept(case):
    twin = masked(case)
    twin.weight.data[case.mask()] = math.nan
    assert case.from_dense(twin).nnz == case.mask().sum()
    twin.weight.data.zero_()
    assert case.from_dense(twin).nnz == 0


def test_flags_are_copied_and_memory_is_not_shared(case):
    twin = case.twin().eval()
    twin.weight.requires_grad_(False)
    sparse = case.from_dense(twin, case.mask())
    dense = sparse.to_dense()
    for layer, parameter in ((sparse, sparse.values), (dense, dense.weight)):
        assert not layer.training
        assert (parameter.requires_grad, layer.bias.requires_grad) == (False, True)
    sparse.values.data.zero_()
    sparse.bias.data.zero_()
    assert twin.weight.abs().min() > 0
    assert dense.bias.abs().min() > 0


@pytest.mark.parametrize("shape", [(12,), (5, 12), (2, 3, 12), (0, 12), (2, 0, 12)])
def test_any_leading_dimensions(case, shape):
    layer = case.layer()
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1), requires_grad=True)
    y = layer(x)
    assert y.shape == (*shape[:-1], 8)
    torch.testing.assert_close(y, layer.to_dense()(x), rtol=1e-5, atol=1e-5)
    y.sum().backward()
    assert x.grad.shape == shape
    assert layer.values.grad.shape == layer.values.shape


def test_non_contiguous_input(case, x):
    layer = case.layer()
    for other in (x.repeat_interleave(2, dim=1)[:, ::2], x.t().contiguous().t()):
        assert not other.is_contiguous()
        torch.testing.assert_close(layer(other), layer(x))


def test_nothing_kept(case, x):
    layer = case.from_dense(case.twin(), torch.zeros_like(case.mask()))
    x = x.requires_grad_()
    y = layer(x)
    assert (layer.nnz, layer.density) == (0, 0)
    torch.testing.assert_close(y, layer.bias.expand_as(y))
    y.sum().backward()
    assert torch.equal(x.grad, torch.zeros_like(x))
    assert layer.values.grad.numel() == 0
    assert layer.to_dense().weight.count_nonzero() == 0


def test_everything_kept(case, x):
    layer = case.from_dense(case.twin(), torch.ones_like(case.mask()))
    assert layer.density == 1
    torch.testing.assert_close(layer(x), case.twin()(x))


def test_density_counts_the_weights_of_the_twin(case):
    assert case.layer().density == pytest.approx(case.mask().float().mean().item())
    assert case.layer().nnz == case.mask().sum()


@pytest.mark.parametrize("kind", ["shape", "dtype", "rank"])
def test_masks_that_do_not_fit_are_refused(case, kind):
    mask = case.mask()
    wrong = {"shape": mask[:, 1:], "dtype": mask.float(), "rank": mask.flatten()}[kind]
    with pytest.raises(ValueError, match=r"from_dense: mask must be a bool tensor of shape"):
        case.from_dense(case.twin(), wrong)


def test_only_the_twin_is_converted(case):
    with pytest.raises(ValueError, match=r"from_dense: module must be \w+, got Conv2d"):
        case.from_dense(nn.Conv2d(4, 4, 3))


def test_wrong_input_width(case):
    with pytest.raises(ValueError, match=r"x must have 12 features"):
        case.layer()(torch.zeros(3, 8))


def test_a_pattern_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"SparseLinear: pattern must have shape \(8, 12\)"):
        SparseLinear(12, 8, full_pattern(12, 8))
    with pytest.raises(ValueError, match=r"pattern must have shape \(2, 3\) for quaternion"):
        SparseQLinear(12, 8, full_pattern(8, 3), granularity="quaternion")
    with pytest.raises(ValueError, match=r"pattern must have shape \(8, 3\) for component"):
        SparseQLinear(12, 8, full_pattern(2, 3))


@pytest.mark.parametrize(
    "values", [torch.zeros(5), torch.zeros(6, 4), torch.zeros(6, dtype=torch.int64)]
)
def test_values_that_do_not_fit_are_refused(values):
    with pytest.raises(ValueError, match=r"SparseLinear: values must be floating point of shape"):
        SparseLinear(3, 2, full_pattern(2, 3), values)


def test_values_are_copied():
    values = torch.ones(6)
    layer = SparseLinear(3, 2, full_pattern(2, 3), values, dtype=torch.float64)
    values.zero_()
    assert torch.equal(layer.values, torch.ones(6, dtype=torch.float64))
    assert torch.equal(layer.bias, torch.zeros(2, dtype=torch.float64))
    assert SparseLinear(3, 2, full_pattern(2, 3), values, bias=False).bias is None


def test_granularity_is_determined_by_the_mask():
    layer = QLinear(12, 8)
    whole = torch.tensor([True, False, True]).expand(4, 2, 3)
    split = whole.clone()
    split[2, 0, 0] = False
    assert SparseQLinear.from_dense(layer, whole).granularity == "quaternion"
    assert SparseQLinear.from_dense(layer, split).granularity == "component"
    asked = SparseQLinear.from_dense(layer, whole, "component")
    assert (asked.granularity, asked.values.shape) == ("component", (16,))
    assert SparseQLinear.from_dense(layer, whole).values.shape == (4, 4)
    with pytest.raises(ValueError, match="must keep or drop whole quaternions"):
        SparseQLinear.from_dense(layer, split, "quaternion")


def test_a_quaternion_with_one_zero_component_is_kept_whole_when_asked():
    layer = QLinear(8, 4)
    layer.weight.data[1, 0, 0] = 0
    layer.weight.data[:, 0, 1] = 0
    assert SparseQLinear.from_dense(layer).granularity == "component"
    whole = SparseQLinear.from_dense(layer, granularity="quaternion")
    assert whole.values.shape == (1, 4)
    assert torch.equal(whole.to_dense().weight, layer.weight)


def test_an_unknown_granularity_lists_the_available_ones():
    with pytest.raises(ValueError, match=r"granularity 'row'.*component, quaternion"):
        SparseQLinear(12, 8, full_pattern(8, 3), granularity="row")
    with pytest.raises(ValueError, match=r"granularity 'row'.*component, quaternion"):
        SparseQLinear.from_dense(QLinear(12, 8), granularity="row")


def test_linear_init_scales_by_the_kept_inputs():
    layer = SparseLinear(1000, 500, random_pattern(500, 1000, 0.2))
    counts = layer.row_ptr.diff()
    bound = counts.float().rsqrt()
    assert (layer.bias.abs() <= bound).all()
    assert (layer.values.abs() <= bound[layer.pattern.rows()]).all()
    assert layer.values.var().item() == pytest.approx(1 / (3 * 200), rel=0.05)


@pytest.mark.parametrize("granularity", ["component", "quaternion"])
def test_quaternion_init_gives_variance_two(granularity):
    rows = 1024 if granularity == "component" else 256
    layer = SparseQLinear(2048, 1024, random_pattern(rows, 512, 0.2), granularity=granularity)
    x = torch.randn(256, 2048, generator=torch.Generator().manual_seed(0))
    assert layer(x).var().item() == pytest.approx(2, rel=0.05)
    variances = layer.dense_weight().detach().square().flatten(1).sum(1)
    ratio = variances[1:] / variances[0]
    torch.testing.assert_close(ratio, torch.full((3,), 1 / 3), rtol=0.1, atol=0)


def test_seeds(case):
    layer = case.layer()
    drawn = []
    for seed in (1, 1, 2):
        layer.reset_parameters(torch.Generator().manual_seed(seed))
        drawn.append(layer.values.detach().clone())
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_optimizer_state_is_as_small_as_the_kept_values(case, x):
    layer = case.layer()
    optimizer = torch.optim.Adam(layer.parameters())
    layer(x).sum().backward()
    optimizer.step()
    state = optimizer.state[layer.values]
    assert layer.values.grad.numel() == layer.nnz
    assert state["exp_avg"].numel() == state["exp_avg_sq"].numel() == layer.nnz
    assert {name for name, _ in layer.named_parameters()} == {"values", "bias"}


def test_training_keeps_the_pattern_and_lowers_the_loss(case, x):
    layer, target = case.layer(), torch.zeros(5, 8)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-3)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(layer(x), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    assert layer.to_dense().weight[~case.mask()].count_nonzero() == 0


def test_dense_weight_is_differentiable(case):
    layer = case.layer()
    layer.dense_weight().square().sum().backward()
    torch.testing.assert_close(layer.values.grad, 2 * layer.values.detach())


def test_repr(case):
    text = repr(case.layer())
    assert "in_features=12, out_features=8, bias=True, density=0." in text
    assert ("granularity=" in text) == (case.name != "linear")


def test_sizes_of_zero():
    empty = SparseLinear(0, 3, full_pattern(3, 0), torch.zeros(0))
    assert torch.equal(empty(torch.zeros(2, 0)), torch.zeros(2, 3))
    assert empty.density == 0
    assert SparseLinear(3, 0, full_pattern(0, 3))(torch.zeros(2, 3)).shape == (2, 0)
    for granularity in ("component", "quaternion"):
        layer = SparseQLinear(4, 0, full_pattern(0, 1), granularity=granularity)
        assert layer(torch.zeros(2, 4)).shape == (2, 0)
