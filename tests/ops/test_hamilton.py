import pytest
import torch

from sparseq.ops.hamilton import ALGORITHMS, PRODUCT, fold_real, hamilton, real_weight
from tests.ops.cases import (
    all_shapes,
    assert_gradients,
    assert_near,
    assert_same_bits_on_threads,
    assert_takes_any_layout,
    normal,
    over_dtypes,
)

dx_op, dw_op = torch.ops.sparseq.hamilton_dx.default, torch.ops.sparseq.hamilton_dw.default
over_algorithms = pytest.mark.parametrize("algorithm", ALGORITHMS)


def quaternion_product(p, q):
    """Hamilton product of two quaternions, expanded from i^2 = j^2 = k^2 = ijk = -1."""
    a, b, c, d = p
    e, f, g, h = q
    return torch.stack(
        [
            a * e - b * f - c * g - d * h,
            a * f + b * e + c * h - d * g,
            a * g - b * h + c * e + d * f,
            a * h + b * g - c * f + d * e,
        ]
    )


def test_is_the_hamilton_product_of_single_quaternions():
    for seed in range(5):
        w, x = normal(4, seed=seed), normal(4, seed=seed + 50)
        got = hamilton(x, w.reshape(4, 1, 1))
        torch.testing.assert_close(got, quaternion_product(w, x))


def test_the_weight_multiplies_on_the_left():
    i, j, k = torch.eye(4, dtype=torch.float64)[1:]
    torch.testing.assert_close(hamilton(j, i.reshape(4, 1, 1)), k)
    torch.testing.assert_close(hamilton(i, j.reshape(4, 1, 1)), -k)


def test_fold_is_the_adjoint_of_the_real_weight():
    weight, matrix = normal(4, 3, 5), normal(12, 20)
    left = (real_weight(weight) * matrix).sum()
    torch.testing.assert_close(left, (weight * fold_real(matrix)).sum())
    assert sorted(c for row in PRODUCT for c, _ in row) == sorted([0, 1, 2, 3] * 4)


@over_dtypes
@over_algorithms
def test_agrees_with_float64(dtype, algorithm):
    for batch, (m, k) in all_shapes:
        x, w = normal(batch, 4 * k, dtype=dtype), normal(4, m, k, dtype=dtype)
        b, dy = normal(4 * m, dtype=dtype), normal(batch, 4 * m, dtype=dtype, seed=3)
        real = real_weight(w.double())
        assert_near(hamilton(x, w, b, algorithm), x.double() @ real.t() + b.double())
        assert_near(dx_op(dy, w, algorithm), dy.double() @ real)
        assert_near(dw_op(dy, x, algorithm), fold_real(dy.double().t() @ x.double()))


def test_eight_rounds_little_worse_than_sixteen():
    x, w = normal(64, 1024, dtype=torch.float32), normal(4, 64, 256, dtype=torch.float32)
    exact = x.double() @ real_weight(w.double()).t()
    eight, sixteen = (
        float((hamilton(x, w, None, name).double() - exact).norm()) for name in ("8", "16")
    )
    assert eight < 3 * sixteen


@over_algorithms
@pytest.mark.parametrize("batch", [1, 3, 16, 70, 400])
def test_threads_do_not_change_a_bit(batch, algorithm):
    x, w = normal(batch, 512, dtype=torch.float32), normal(4, 130, 128, dtype=torch.float32)
    dy = normal(batch, 520, dtype=torch.float32)
    assert_same_bits_on_threads("hamilton", lambda: hamilton(x, w, None, algorithm))
    assert_same_bits_on_threads("hamilton_dx", lambda: dx_op(dy, w, algorithm))
    assert_same_bits_on_threads("hamilton_dw", lambda: dw_op(dy, x, algorithm))


@over_algorithms
def test_gradients_to_second_order(algorithm):
    def run(x, w, b):
        return hamilton(x, w, b, algorithm)

    assert_gradients(run, normal(6, 8), normal(4, 3, 2), normal(12))


def test_takes_any_strides_and_leading_dimensions():
    x, w, b = normal(2, 3, 20), normal(4, 6, 5), normal(24)
    assert_takes_any_layout(hamilton, x, w, b)
    swapped = hamilton(x.transpose(0, 1), w, b)
    torch.testing.assert_close(swapped, hamilton(x, w, b).transpose(0, 1))


def test_a_call_does_not_depend_on_the_previous_one():
    x, w = normal(17, 132, dtype=torch.float32), normal(4, 5, 33, dtype=torch.float32)
    want = hamilton(x, w)
    hamilton(torch.full_like(x, float("nan")), torch.full_like(w, float("nan")))
    assert torch.equal(hamilton(x, w), want)


def test_nan_of_one_row_stays_in_that_row():
    x = normal(40, 20)
    x[7, 3] = float("nan")
    broken = hamilton(x, normal(4, 6, 5)).isnan().any(1)
    assert broken.nonzero().flatten().tolist() == [7]


def test_autocast_runs_in_its_dtype():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert hamilton(normal(3, 8).float(), normal(4, 2, 2).float()).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("x", "weight", "bias", "message"),
    [
        ((3, 7), (4, 2, 2), None, r"hamilton: x must have 8 features .* got \(3, 7\)"),
        ((3, 8), (3, 2, 2), None, r"hamilton: weight must have shape \(4, m, k\), got"),
        ((3, 8), (4, 2), None, r"hamilton: weight must have shape"),
        ((3, 8), (4, 2, 2), (4,), r"hamilton: bias must have shape \(8,\), got \(4,\)"),
        ((), (4, 2, 2), None, r"hamilton: x must have 8 features"),
    ],
)
def test_errors_name_the_argument(x, weight, bias, message):
    with pytest.raises(ValueError, match=message):
        hamilton(normal(*x), normal(*weight), None if bias is None else normal(*bias))


def test_unknown_algorithms_list_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown hamilton algorithm '9'.*auto, 8, 16"):
        hamilton(normal(1, 4), normal(4, 1, 1), None, "9")


def test_refuses_mixed_dtypes():
    with pytest.raises(ValueError, match="dtype"):
        hamilton(normal(3, 8).float(), normal(4, 2, 2))


@pytest.mark.parametrize("batch", [1, 4])
def test_few_rows_read_an_infinite_entry_once(batch):
    x, w = normal(batch, 4 * 19), normal(4, 3, 19)
    x[:, 10] = float(
        "inf"
    )  # in the last full vector and in the overlapping one at the end of the row
    assert torch.equal(hamilton(x, w).sign(), (x @ real_weight(w).t()).sign())
