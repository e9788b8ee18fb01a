import pytest
import torch

from sparseq.ops._channel_matrices import transposed_product
from sparseq.ops.quaternion_norm import quaternion_cross, quaternion_moments, quaternion_norm
from tests.ops.cases import assert_near, assert_same_bits_on_threads, normal, over_dtypes, strided
from tests.ops.quaternion_cases import (
    assert_sums_near,
    by_channel,
    matrices_of,
    over_shapes,
    per_channel,
    quaternions,
)


def operands(shape, dtype):
    """x with a nonzero mean, dy, and s, b, M, K in the dtype of the sums."""
    kind = torch.promote_types(dtype, torch.float32)
    x, dy = normal(*shape, dtype=dtype) + 2, normal(*shape, dtype=dtype, seed=1)
    vectors = [normal(shape[1], dtype=kind, seed=seed) for seed in (2, 3)]
    matrices = [normal(4, 4, shape[1] // 4, dtype=kind, seed=seed) for seed in (4, 5)]
    return x, dy, *vectors, *matrices


@over_dtypes
@over_shapes
def test_the_map_agrees_with_float64(shape, dtype):
    x, z, s, b, m, k = operands(shape, dtype)
    want = matrices_of(m) @ (quaternions(x) - by_channel(s)) + by_channel(b)
    assert_near(per_channel(quaternion_norm(x, m, s, b), dtype), want)
    want = want + matrices_of(k) @ quaternions(z)
    assert_near(per_channel(quaternion_norm(x, m, s, b, z, k), dtype), want)
    assert_near(per_channel(quaternion_norm(x, m), dtype), matrices_of(m) @ quaternions(x))


@over_dtypes
@over_shapes
def test_sums_agree_with_float64(shape, dtype):
    x, dy, s, *_ = operands(shape, dtype)
    kind = torch.promote_types(dtype, torch.float32)
    values = quaternions(x)
    count = max(values.shape[2], 1)
    mean = values.sum(2) / count
    centered = values - mean[:, :, None]
    stats, cov = quaternion_moments(x), (centered @ centered.mT / count).movedim(0, -1)
    assert stats.dtype == kind
    assert_near(stats[0], mean.t())
    assert_near(stats[1:], cov)
    grad = quaternions(dy)
    got = quaternion_cross(dy, x, s)
    assert got.dtype == kind
    assert_sums_near(got[0], grad.sum(2).t(), count)
    assert_sums_near(got[1:], (grad @ (values - by_channel(s)).mT).movedim(0, -1), count)
    want = (grad @ values.mT).movedim(0, -1)
    assert_sums_near(quaternion_cross(dy, x)[1:], want, count)


@pytest.mark.parametrize("shape", [(600, 8), (40, 8, 4, 4), (4, 8, 60, 60)])
def test_the_covariance_is_exact_for_a_mean_far_from_zero(shape):
    x = normal(*shape).float() + 1000  # exact in float32
    exact, got = quaternion_moments(x.double()), quaternion_moments(x)
    torch.testing.assert_close(got[1:].double(), exact[1:], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got[0].double(), exact[0], rtol=1e-6, atol=0)


def test_the_covariance_is_accurate_with_an_outlier_at_the_start():
    x = normal(64, 8, 4, 4).float()
    x[0, :, 0, 0] = 1e3
    exact, got = quaternion_moments(x.double()), quaternion_moments(x)
    assert_near(got[1:], exact[1:])


@pytest.mark.parametrize("shape", [(64, 64, 8, 8), (64, 512, 2, 2), (4000, 68), (1, 4, 300, 301)])
def test_threads_do_not_change_a_bit(shape):
    x, dy, s, b, m, k = operands(shape, torch.float32)
    assert_same_bits_on_threads("quaternion_norm", lambda: quaternion_norm(x, m, s, b, dy, k))
    assert_same_bits_on_threads("quaternion_norm_moments", lambda: quaternion_moments(x))
    assert_same_bits_on_threads("quaternion_norm_cross", lambda: quaternion_cross(dy, x, s))


def test_gradients_to_second_order():
    for shape in [(3, 8, 2), (2, 4)]:
        x, z, s, b, m, k = (t.requires_grad_() for t in operands(shape, torch.float64))
        for run, inputs in (
            (quaternion_norm, (x, m, s, b, z, k)),
            (quaternion_norm, (x, m)),
            (quaternion_moments, (x,)),
            (quaternion_cross, (z, x, s)),
        ):
            assert torch.autograd.gradcheck(run, inputs)
            assert torch.autograd.gradgradcheck(run, inputs)


def test_the_transposed_product_is_that_of_a_matrix():
    a, v = normal(4, 4, 3), normal(4, 3, seed=2)
    want = (matrices_of(a).mT @ v.t()[:, :, None]).squeeze(2).t().flatten()
    torch.testing.assert_close(transposed_product(a, v), want)


def test_takes_any_strides():
    x, dy, s, b, m, k = operands((3, 8, 5, 4), torch.float64)
    spread = [strided(t) for t in (x, m, s, b, dy, k)]
    torch.testing.assert_close(quaternion_norm(*spread), quaternion_norm(x, m, s, b, dy, k))
    torch.testing.assert_close(quaternion_norm(x.mT, m, s), quaternion_norm(x, m, s).mT)
    last = x.to(memory_format=torch.channels_last)
    torch.testing.assert_close(quaternion_moments(last), quaternion_moments(x))
    torch.testing.assert_close(quaternion_cross(strided(dy), last, s), quaternion_cross(dy, x, s))


def test_nan_of_one_channel_stays_in_that_channel():
    x, _, s, b, m, _ = operands((3, 80, 7, 7), torch.float32)
    x[1, 25, 2, 2] = float("nan")  # quaternion channel 5
    assert quaternion_moments(x).isnan().any(1).any(0).nonzero().flatten().tolist() == [5]
    broken = quaternion_norm(x, m, s, b).isnan().nonzero()
    assert broken.tolist() == [[1, c, 2, 2] for c in (5, 25, 45, 65)]


def test_autocast_changes_no_dtype():
    x, dy, s, b, m, _ = operands((2, 8, 3), torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert quaternion_norm(x, m, s, b).dtype == torch.float32
        assert quaternion_norm(x.bfloat16(), m, s, b).dtype == torch.bfloat16
        assert quaternion_cross(dy, x).dtype == torch.float32
        assert quaternion_moments(x.bfloat16()).dtype == torch.float32


def test_errors_name_the_argument():
    x, dy, s, b, m, k = operands((2, 8, 3), torch.float64)
    for call, message in (
        (lambda: quaternion_norm(x[:, :6], m), r"quaternion_norm: x must be features \(N, 4 C"),
        (lambda: quaternion_norm(x, m[:3]), r"matrix must have shape \(4, 4, 2\), got"),
        (lambda: quaternion_norm(x, m, s[:4]), r"center must have shape \(8,\), got \(4,\)"),
        (lambda: quaternion_norm(x, m, s, b[:4]), r"bias must have shape"),
        (lambda: quaternion_norm(x, m, z=dy), r"z_matrix must be passed together with z"),
        (lambda: quaternion_norm(x, m, z=dy[:1], z_matrix=k), r"z must have shape \(2, 8, 3\)"),
        (lambda: quaternion_cross(dy[:1], x), r"quaternion_cross: dy must have shape"),
        (lambda: quaternion_cross(dy, x, s[:4]), r"quaternion_cross: center must have shape"),
        (lambda: quaternion_moments(x[0, 0]), r"quaternion_moments: x must be features"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("autocast", [False, True])
def test_errors_name_mixed_dtypes_under_autocast_too(autocast):
    x, dy, s, b, m, k = operands((2, 8, 3), torch.float32)
    rule = r"must have dtype torch.float32, got torch.float64"
    for call, message in (
        (lambda: quaternion_norm(x, m.double()), rf"quaternion_norm: matrix {rule}"),
        (lambda: quaternion_norm(x.bfloat16(), m, s.double()), rf"center {rule}"),
        (lambda: quaternion_norm(x, m, s, b.double()), rf"bias {rule}"),
        (lambda: quaternion_norm(x, m, z=dy.double(), z_matrix=k), rf"z {rule}"),
        (lambda: quaternion_norm(x, m, z=dy, z_matrix=k.double()), rf"z_matrix {rule}"),
        (lambda: quaternion_cross(dy.double(), x), rf"quaternion_cross: dy {rule}"),
        (lambda: quaternion_cross(dy, x, s.double()), rf"quaternion_cross: center {rule}"),
    ):
        with (
            torch.autocast("cpu", torch.bfloat16, enabled=autocast),
            pytest.raises(ValueError, match=message),
        ):
            call()
