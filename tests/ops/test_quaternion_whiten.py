import pytest
import torch

from sparseq.ops._channel_matrices import factor_gradient, matmul
from sparseq.ops.quaternion_norm import quaternion_moments
from sparseq.ops.quaternion_whiten import (
    inverse_cholesky,
    quaternion_whiten,
    quaternion_whiten_dx,
    quaternion_whiten_sums,
)
from tests.ops.cases import assert_near, assert_same_bits_on_threads, normal, over_dtypes, strided
from tests.ops.quaternion_cases import (
    assert_sums_near,
    by_channel,
    matrices_of,
    over_shapes,
    per_channel,
    quaternions,
)

EPS = 0.1
over_affine = pytest.mark.parametrize("affine", [True, False])


def covariances(channels, seed=0):
    """(4, 4, C), positive definite."""
    a = normal(4, 4, channels, seed=seed)
    return matmul(a, a.transpose(0, 1)) + torch.eye(4).double()[:, :, None]


def operands(shape, dtype, affine=True):
    """x with a nonzero mean, dy, and m, V, gamma, beta in the dtype of the sums."""
    kind = torch.promote_types(dtype, torch.float32)
    x, dy = normal(*shape, dtype=dtype) + 2, normal(*shape, dtype=dtype, seed=1)
    mean, cov = normal(shape[1], dtype=kind, seed=2), covariances(shape[1] // 4).to(kind)
    if not affine:
        return x, dy, mean, cov, None, None
    gamma = normal(4, 4, shape[1] // 4, dtype=kind, seed=3)
    return x, dy, mean, cov, gamma, normal(shape[1], dtype=kind, seed=4)


def factors(cov, eps=EPS):
    """W of every channel, (C, 4, 4), in float64."""
    regular = matrices_of(cov) + eps * torch.eye(4).double()
    return torch.linalg.inv(torch.linalg.cholesky(regular)) if len(regular) else regular


def outer_of(cov, gamma):
    return factors(cov) if gamma is None else matrices_of(gamma) @ factors(cov)


@over_dtypes
@over_shapes
@over_affine
def test_whitening_agrees_with_float64(shape, dtype, affine):
    x, _, mean, cov, gamma, beta = operands(shape, dtype, affine)
    want = outer_of(cov, gamma) @ (quaternions(x) - by_channel(mean))
    want = want if beta is None else want + by_channel(beta)
    assert_near(per_channel(quaternion_whiten(x, mean, cov, gamma, beta, EPS), dtype), want)


@over_dtypes
@over_shapes
def test_sums_agree_with_float64(shape, dtype):
    x, dy, mean, cov, *_ = operands(shape, dtype)
    grad, count = quaternions(dy), max(x.numel() // max(shape[1], 1), 1)
    white = factors(cov) @ (quaternions(x) - by_channel(mean))
    got = quaternion_whiten_sums(dy, x, mean, cov, EPS)
    assert got.dtype == mean.dtype
    assert_sums_near(got[0], grad.sum(2).t(), count)
    assert_sums_near(got[1:], (grad @ white.mT).movedim(0, -1), count)


@over_dtypes
@over_shapes
@over_affine
def test_the_gradient_agrees_with_float64(shape, dtype, affine):
    x, dy, mean, cov, gamma, _ = operands(shape, dtype, affine)
    sums = normal(5, 4, shape[1] // 4, dtype=mean.dtype, seed=5)
    product, inverse = matrices_of(sums[1:]), factors(cov)
    lower = (product if gamma is None else matrices_of(gamma).mT @ product).tril()
    symmetric = lower + lower.mT - torch.diag_embed(lower.diagonal(dim1=1, dim2=2))
    share = 1 / max(x.numel() // max(shape[1], 1), 1)
    spread = inverse.mT @ symmetric @ inverse @ (quaternions(x) - by_channel(mean))
    centered = quaternions(dy) - share * by_channel(sums[0].flatten())
    want = outer_of(cov, gamma).mT @ centered - share * spread
    assert_near(per_channel(quaternion_whiten_dx(dy, x, mean, cov, gamma, sums, EPS), dtype), want)


@over_affine
def test_the_gradient_is_that_of_whitening_by_the_statistics_of_x(affine):
    x, dy, _, _, gamma, beta = operands((3, 8, 5), torch.float64, affine)

    def whiten(x):
        stats = quaternion_moments(x)
        return quaternion_whiten(x, stats[0].flatten(), stats[1:], gamma, beta, EPS)

    leaf = x.clone().requires_grad_()
    (want,) = torch.autograd.grad(whiten(leaf), leaf, dy)
    stats = quaternion_moments(x)
    mean, cov = stats[0].flatten(), stats[1:]
    sums = quaternion_whiten_sums(dy, x, mean, cov, EPS)
    torch.testing.assert_close(quaternion_whiten_dx(dy, x, mean, cov, gamma, sums, EPS), want)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("channels", [0, 1, 5, 16, 37])
def test_the_factor_inverts_the_covariance(channels, dtype):
    a = normal(4, 4, channels)
    cov = matmul(a, a.transpose(0, 1)) + torch.eye(4).double()[:, :, None]
    got = inverse_cholesky(cov.to(dtype), 0.1)
    regular = matrices_of(cov) + 0.1 * torch.eye(4).double()
    want = torch.linalg.inv(torch.linalg.cholesky(regular)) if channels else regular
    assert_near(matrices_of(got).to(dtype), want)
    assert (got[torch.ones(4, 4, dtype=torch.bool).triu(1)] == 0).all()


def test_the_factor_of_singular_covariances_is_finite():
    zero, ones = torch.zeros(4, 4, 3), torch.full((4, 4, 20), 1e4)
    torch.testing.assert_close(
        inverse_cholesky(zero, 1e-4), 100 * torch.eye(4)[:, :, None].expand(4, 4, 3)
    )
    got = inverse_cholesky(ones, 1e-5)
    assert torch.isfinite(got).all()
    assert got.abs().max() <= 1.01 * 1e-5**-0.5
    assert inverse_cholesky(ones.index_fill(2, torch.tensor([1]), float("nan")), 1e-5).isnan().any()


@pytest.mark.parametrize("shape", [(64, 64, 8, 8), (64, 512, 2, 2), (4000, 68), (1, 4, 300, 301)])
def test_threads_do_not_change_a_bit(shape):
    x, dy, m, v, g, b = operands(shape, torch.float32)
    sums = quaternion_whiten_sums(dy, x, m, v)
    assert_same_bits_on_threads("quaternion_whiten", lambda: quaternion_whiten(x, m, v, g, b))
    assert_same_bits_on_threads(
        "quaternion_whiten_sums", lambda: quaternion_whiten_sums(dy, x, m, v)
    )
    assert_same_bits_on_threads(
        "quaternion_whiten_dx", lambda: quaternion_whiten_dx(dy, x, m, v, g, sums)
    )


@over_affine
def test_gradients_to_second_order(affine):
    for shape in [(3, 8, 2), (2, 4)]:
        x, dy, m, v, g, b = operands(shape, torch.float64, affine)
        sums = normal(5, 4, shape[1] // 4, seed=5)
        for run, args in (
            (quaternion_whiten, (x, m, v, g, b, EPS)),
            (quaternion_whiten_sums, (dy, x, m, v, EPS)),
            (quaternion_whiten_dx, (dy, x, m, v, g, sums, EPS)),
        ):
            leaves = [a.requires_grad_() if isinstance(a, torch.Tensor) else a for a in args]
            assert torch.autograd.gradcheck(run, leaves)
            assert torch.autograd.gradgradcheck(run, leaves)


def test_gradients_of_the_factor_to_second_order():
    a = normal(4, 4, 3)
    cov = (matmul(a, a.transpose(0, 1)) + torch.eye(4).double()[:, :, None]).requires_grad_()
    assert torch.autograd.gradcheck(inverse_cholesky, (cov, 0.1))
    assert torch.autograd.gradgradcheck(inverse_cholesky, (cov, 0.1))
    grad = factor_gradient(normal(4, 4, 3, seed=1), inverse_cholesky(cov, 0.1))
    torch.testing.assert_close(grad, grad.transpose(0, 1))


def test_matmul_multiplies_the_matrices_of_each_channel():
    a, b = normal(4, 4, 3), normal(4, 4, 3, seed=1)
    torch.testing.assert_close(matrices_of(matmul(a, b)), matrices_of(a) @ matrices_of(b))


def test_takes_any_strides():
    x, dy, m, v, g, b = operands((3, 8, 5, 4), torch.float64)
    spread = [strided(t) for t in (x, m, v, g, b)]
    torch.testing.assert_close(quaternion_whiten(*spread), quaternion_whiten(x, m, v, g, b))
    torch.testing.assert_close(quaternion_whiten(x.mT, m, v), quaternion_whiten(x, m, v).mT)
    last, sums = x.to(memory_format=torch.channels_last), quaternion_whiten_sums(dy, x, m, v)
    torch.testing.assert_close(quaternion_whiten_sums(strided(dy), last, m, v), sums)
    got = quaternion_whiten_dx(dy, last, m, v, strided(g), strided(sums))
    torch.testing.assert_close(got, quaternion_whiten_dx(dy, x, m, v, g, sums))


def test_nan_of_one_channel_stays_in_that_channel():
    x, _, m, v, g, b = operands((3, 80, 7, 7), torch.float32)
    v[2, 1, 5] = float("nan")
    broken = quaternion_whiten(x, m, v, g, b).isnan().any(0).any(-1).any(-1)
    assert broken.nonzero().flatten().tolist() == [5, 25, 45, 65]


def test_autocast_changes_no_dtype():
    x, dy, m, v, g, b = operands((2, 8, 3), torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert quaternion_whiten(x, m, v, g, b).dtype == torch.float32
        assert quaternion_whiten(x.bfloat16(), m, v, g, b).dtype == torch.bfloat16
        assert quaternion_whiten_sums(dy.bfloat16(), x.bfloat16(), m, v).dtype == torch.float32


def test_errors_name_the_argument():
    x, dy, m, v, g, b = operands((2, 8, 3), torch.float64)
    sums = quaternion_whiten_sums(dy, x, m, v)
    for call, message in (
        (lambda: quaternion_whiten(x[:, :6], m, v), r"quaternion_whiten: x must be features"),
        (lambda: quaternion_whiten(x, m[:4], v), r"mean must have shape \(8,\), got \(4,\)"),
        (lambda: quaternion_whiten(x, m, v[:3]), r"cov must have shape \(4, 4, 2\), got"),
        (lambda: quaternion_whiten(x, m, v, g[:3]), r"gamma must have shape \(4, 4, 2\), got"),
        (lambda: quaternion_whiten(x, m, v, g, b[:4]), r"beta must have shape \(8,\), got"),
        (lambda: quaternion_whiten_sums(dy[:1], x, m, v), r"whiten_sums: dy must have shape"),
        (lambda: quaternion_whiten_dx(dy[:1], x, m, v, g, sums), r"whiten_dx: dy must have shape"),
        (lambda: quaternion_whiten_dx(dy, x, m, v, g, sums[1:]), r"sums must have shape \(5, 4, 2"),
        (lambda: inverse_cholesky(v[:3], 0.1), r"inverse_cholesky: cov must have shape"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("autocast", [False, True])
def test_errors_name_mixed_dtypes_under_autocast_too(autocast):
    x, dy, m, v, g, b = operands((2, 8, 3), torch.float32)
    sums = quaternion_whiten_sums(dy, x, m, v)
    rule = r"must have dtype torch.float32, got torch.float64"
    for call, message in (
        (lambda: quaternion_whiten(x, m.double(), v), rf"quaternion_whiten: mean {rule}"),
        (lambda: quaternion_whiten(x.bfloat16(), m, v.double()), rf"cov {rule}"),
        (lambda: quaternion_whiten(x, m, v, g.double()), rf"gamma {rule}"),
        (lambda: quaternion_whiten(x, m, v, g, b.double()), rf"beta {rule}"),
        (lambda: quaternion_whiten_sums(dy.double(), x, m, v), rf"whiten_sums: dy {rule}"),
        (lambda: quaternion_whiten_dx(dy, x, m, v, g, sums.double()), rf"whiten_dx: sums {rule}"),
        (lambda: inverse_cholesky(v.bfloat16(), 0.1), r"cov must have dtype torch.float32"),
    ):
        with (
            torch.autocast("cpu", torch.bfloat16, enabled=autocast),
            pytest.raises(ValueError, match=message),
        ):
            call()
