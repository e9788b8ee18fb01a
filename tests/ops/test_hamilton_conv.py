import math

import pytest
import torch

from sparseq.ops.hamilton import ALGORITHMS, hamilton, real_weight
from sparseq.ops.hamilton_conv import (
    fold_real_conv,
    hamilton_conv,
    hamilton_conv_transpose,
    real_conv_weight,
)
from tests.ops.cases import (
    assert_near,
    assert_same_bits_on_threads,
    normal,
    over_dtypes,
    strided,
)

conv_op = torch.ops.sparseq.hamilton_conv.default
dx_op = torch.ops.sparseq.hamilton_conv_dx.default
dw_op = torch.ops.sparseq.hamilton_conv_dw.default
over_algorithms = pytest.mark.parametrize("algorithm", ALGORITHMS)

# n, m, k / groups, spatial sizes, kernel, stride, padding, dilation, groups
CASES = {
    "3x3": (2, 3, 2, (5, 7), (3, 3), (1, 1), (1, 1), (1, 1), 1),
    "3x3 of many": (33, 17, 5, (4, 4), (3, 3), (1, 1), (1, 1), (1, 1), 1),
    "3x3 without padding": (3, 5, 18, (6, 33), (3, 3), (1, 1), (0, 0), (1, 1), 1),
    "3x3 of a batch": (32, 9, 6, (3, 5), (3, 3), (1, 1), (1, 1), (1, 1), 1),
    "3x3 of tiles": (31, 9, 10, (7, 5), (3, 3), (1, 1), (1, 1), (1, 1), 1),
    "3x3 of tiles, groups": (16, 20, 17, (4, 6), (3, 3), (1, 1), (2, 0), (1, 1), 2),
    "3x3 stride": (2, 4, 3, (9, 8), (3, 3), (2, 2), (1, 1), (1, 1), 1),
    "3x3 groups": (3, 6, 2, (4, 5), (3, 3), (1, 1), (1, 1), (1, 1), 2),
    "1x1": (3, 7, 4, (5, 5), (1, 1), (1, 1), (0, 0), (1, 1), 1),
    "1x1 stride": (16, 3, 4, (5, 6), (1, 1), (2, 2), (0, 0), (1, 1), 1),
    "1x1 map": (1, 2, 3, (1, 1), (3, 3), (1, 1), (1, 1), (1, 1), 1),
    "all different": (2, 4, 3, (11, 9), (3, 2), (2, 3), (2, 1), (2, 1), 1),
    "depthwise": (2, 6, 1, (6, 6), (3, 3), (1, 1), (1, 1), (1, 1), 6),
    "5x5": (17, 3, 2, (8, 8), (5, 5), (1, 1), (2, 2), (1, 1), 1),
    "no batch": (0, 2, 2, (4, 4), (3, 3), (1, 1), (1, 1), (1, 1), 1),
    "line": (3, 5, 4, (19,), (3,), (2,), (1,), (1,), 1),
    "volume": (2, 3, 2, (4, 3, 5), (3, 2, 3), (1, 2, 1), (1, 0, 1), (1, 1, 1), 1),
}
over_cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def operands(case, dtype=torch.float64):
    """x, weight, bias and the settings of the ops, without the algorithm."""
    n, m, k, spatial, kernel, *settings, groups = case
    x = normal(n, 4 * k * groups, *spatial, dtype=dtype)
    weight, bias = normal(4, m, k, *kernel, dtype=dtype, seed=1), normal(4 * m, dtype=dtype, seed=2)
    return x, weight, bias, [*map(list, settings), groups]


def ungrouped_weight(weight, groups):
    """The real weight in the channel order of x, zeros outside the groups."""
    m, k = weight.shape[1], weight.shape[2]
    full = weight.new_zeros(4, m, k * groups, *weight.shape[3:])
    for g in range(groups):
        rows = slice(g * m // groups, (g + 1) * m // groups)
        full[:, rows, g * k : (g + 1) * k] = weight[:, rows]
    return real_weight(full)


def torch_conv(x, real, bias, stride, padding, dilation):
    zeros = [0] * len(stride)
    return torch.ops.aten.convolution(x, real, bias, stride, padding, dilation, False, zeros, 1)


def exact_results(x, weight, bias, settings, dy):
    """y, dx and dw in float64 by torch's convolution and autograd."""
    inputs = [t.double().detach().requires_grad_() for t in (x, weight, bias)]
    real = ungrouped_weight(inputs[1], settings[-1])
    y = torch_conv(inputs[0], real, inputs[2], *settings[:3])
    return [y.detach(), *torch.autograd.grad(y, inputs[:2], dy.double())]


@over_cases
@over_dtypes
@over_algorithms
def test_agrees_with_float64(case, dtype, algorithm):
    x, weight, bias, settings = operands(case, dtype)
    y = hamilton_conv(x, weight, bias, *settings, algorithm)
    dy = normal(*y.shape, dtype=dtype, seed=3)
    exact = exact_results(x, weight, bias, settings, dy)
    assert_near(y, exact[0])
    assert_near(dx_op(dy, weight, list(x.shape[2:]), *settings, algorithm), exact[1])
    assert_near(dw_op(dy, x, list(weight.shape[3:]), *settings, algorithm), exact[2])


def test_a_1x1_convolution_is_the_linear_map_of_each_pixel():
    x, weight, bias = normal(2, 20, 3, 4), normal(4, 6, 5, 1, 1), normal(24)
    want = hamilton(x.movedim(1, -1), weight[..., 0, 0], bias).movedim(-1, 1)
    torch.testing.assert_close(hamilton_conv(x, weight, bias), want)


@pytest.mark.parametrize("groups", [1, 3])
def test_fold_is_the_adjoint_of_the_real_weight(groups):
    weight = normal(4, 6, 5, 3, 2)
    real = real_conv_weight(weight, groups)
    assert real.shape == (24, 20, 3, 2)
    other = normal(*real.shape, seed=4)
    torch.testing.assert_close((real * other).sum(), (weight * fold_real_conv(other, groups)).sum())


@over_algorithms
@over_cases
def test_threads_do_not_change_a_bit(case, algorithm):
    if algorithm == "auto":
        pytest.skip("may choose plain torch, whose products may differ")
    x, weight, bias, settings = operands(case, torch.float32)
    y = hamilton_conv(x, weight, bias, *settings, algorithm)
    dy = normal(*y.shape, dtype=torch.float32, seed=3)
    runs = {
        "hamilton_conv": lambda: conv_op(x, weight, bias, *settings, algorithm),
        "hamilton_conv_dx": lambda: dx_op(dy, weight, list(x.shape[2:]), *settings, algorithm),
        "hamilton_conv_dw": lambda: dw_op(dy, x, list(weight.shape[3:]), *settings, algorithm),
    }
    for op, run in runs.items():
        assert_same_bits_on_threads(op, run)


@over_algorithms
@pytest.mark.parametrize("groups", [1, 2])
def test_gradients_to_second_order(algorithm, groups):
    shapes = ((2, 8, 3, 4), (4, 2, 2 // groups, 2, 3), (8,))
    tensors = [normal(*shape).requires_grad_() for shape in shapes]

    def run(x, w, b):
        return hamilton_conv(x, w, b, (2, 1), (1, 1), 1, groups, algorithm)

    assert torch.autograd.gradcheck(run, tensors)
    assert torch.autograd.gradgradcheck(run, tensors)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_transposed_agrees_with_torch_on_the_real_weight(dims, groups):
    x, weight = normal(2, 16, *[3] * dims), normal(4, 4, 6 // groups, *[3] * dims, seed=1)
    full = weight.new_zeros(4, 4, 6, *[3] * dims)
    for g in range(groups):
        ins, outs = slice(4 * g // groups, 4 * (g + 1) // groups), 6 // groups
        full[:, ins, outs * g : outs * (g + 1)] = weight[:, ins]
    real = real_weight(full.transpose(1, 2)).transpose(0, 1)
    settings = [[2] * dims, [1] * dims, [1] * dims, True, [1] * dims, 1]
    want = torch.ops.aten.convolution(x, real, None, *settings)
    got = hamilton_conv_transpose(x, weight, 2, 1, 1, 1, groups)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(hamilton_conv_transpose(x[0], weight, 2, 1, 1, 1, groups), want[0])


def test_transposed_has_gradients():
    tensors = normal(2, 8, 3, 2).requires_grad_(), normal(4, 2, 1, 3, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, w: hamilton_conv_transpose(x, w, 2, 1, 1), tensors)


def test_takes_any_strides_and_no_batch():
    x, w, b = normal(2, 8, 5, 4), normal(4, 3, 2, 3, 3), normal(12)
    want = hamilton_conv(x, w, b, 1, 1)
    torch.testing.assert_close(hamilton_conv(strided(x), strided(w), strided(b), 1, 1), want)
    torch.testing.assert_close(hamilton_conv(x[1], w, b, 1, 1), want[1])


@over_algorithms
@pytest.mark.parametrize("batch", [2, 32])
def test_channels_last_is_preserved(algorithm, batch):
    x, w, b = normal(batch, 8, 5, 4), normal(4, 3, 2, 3, 3), normal(12)
    last = x.to(memory_format=torch.channels_last).requires_grad_()
    y = hamilton_conv(last, w.to(memory_format=torch.contiguous_format), b, 1, 1, 1, 1, algorithm)
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, hamilton_conv(x, w, b, 1, 1, 1, 1, algorithm))
    dy = normal(*y.shape).to(memory_format=torch.channels_last)
    (dx,) = torch.autograd.grad(y, last, dy)
    assert dx.is_contiguous(memory_format=torch.channels_last)
    settings = [5, 4], [1, 1], [1, 1], [1, 1], 1, "16"
    torch.testing.assert_close(dx, dx_op(dy.contiguous(), w, *settings))


def test_a_call_does_not_depend_on_the_previous_one():
    x, w = normal(17, 20, 6, 6, dtype=torch.float32), normal(4, 5, 5, 3, 3, dtype=torch.float32)
    want = hamilton_conv(x, w, None, 1, 1, algorithm="8")
    nan = torch.full_like(x, math.nan)
    hamilton_conv(nan, torch.full_like(w, math.nan), None, 1, 1, algorithm="8")
    assert torch.equal(hamilton_conv(x, w, None, 1, 1, algorithm="8"), want)


def test_nan_of_one_image_stays_in_that_image():
    x = normal(40, 20, 3, 3)
    x[7, 3, 1, 1] = math.nan
    for algorithm in ALGORITHMS:
        y = hamilton_conv(x, normal(4, 6, 5, 3, 3), None, 1, 1, algorithm=algorithm)
        assert y.isnan().flatten(1).any(1).nonzero().flatten().tolist() == [7]


def test_autocast_runs_in_its_dtype():
    x, w = normal(3, 8, 4, 4).float(), normal(4, 2, 2, 3, 3).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert hamilton_conv(x, w).dtype == torch.bfloat16
        assert hamilton_conv_transpose(x, w).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": (2, 7, 4, 4)}, r"x must have 8 channels before 2 .* got \(2, 7, 4, 4\)"),
        ({"x": (8, 4)}, "x must have 8 channels before 2"),
        ({"weight": (3, 2, 2, 3, 3)}, r"weight must have shape \(4, m, k, \*kernel\)"),
        ({"weight": (4, 2, 2)}, "weight must have shape"),
        ({"bias": (4,)}, r"bias must have shape \(8,\), got \(4,\)"),
        ({"stride": (1, 1, 1)}, "stride must be one integer or 2"),
        ({"stride": 0}, "must be positive"),
        ({"padding": -1}, "must be positive, positive and not negative"),
        ({"groups": 3}, "groups must divide 2 quaternions, got 3"),
        ({"dilation": 2}, r"kernel must be no larger than the padded input \(4, 4\)"),
    ],
)
def test_errors_name_the_argument(change, message):
    arguments = {"x": (2, 8, 4, 4), "weight": (4, 2, 2, 3, 3), "bias": (8,), **change}
    tensors = {name: normal(*arguments.pop(name)) for name in ("x", "weight", "bias")}
    with pytest.raises(ValueError, match=f"hamilton_conv: .*{message}"):
        hamilton_conv(**tensors, **arguments)


def test_errors_of_the_transpose_name_the_argument():
    x, weight = normal(1, 8, 1, 1), normal(4, 2, 2, 3, 3)
    with pytest.raises(ValueError, match="output_padding must be below stride or dilation"):
        hamilton_conv_transpose(x, weight, 2, 1, 2)
    with pytest.raises(ValueError, match="x must be large enough for a positive output size"):
        hamilton_conv_transpose(x, weight, 1, 2)


def test_unknown_algorithms_list_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown hamilton algorithm '9'.*auto, 8, 16"):
        hamilton_conv(normal(1, 4, 1), normal(4, 1, 1, 1), algorithm="9")


def test_refuses_mixed_dtypes():
    with pytest.raises(ValueError, match="dtype"):
        hamilton_conv(normal(3, 8, 4).float(), normal(4, 2, 2, 3))
