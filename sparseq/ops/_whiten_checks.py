"""Checks of the arguments of `quaternion_whiten` and of the ops beside it."""

from __future__ import annotations

from torch import Tensor

from sparseq.errors import require
from sparseq.ops._dtypes import check_operand
from sparseq.ops.quaternion_norm import check_features, sums_dtype


def check_whiten(
    x: Tensor, mean: Tensor, cov: Tensor, gamma: Tensor | None, beta: Tensor | None
) -> None:
    """The checks of `quaternion_whiten`."""
    _check("quaternion_whiten", x, mean, cov, gamma)
    check_operand("quaternion_whiten", "beta", beta, (x.shape[1],), mean.dtype)


def check_sums(dy: Tensor, x: Tensor, mean: Tensor, cov: Tensor) -> None:
    """The checks of `quaternion_whiten_sums`."""
    _check_present("quaternion_whiten_sums", dy=dy, x=x, mean=mean, cov=cov)
    _check("quaternion_whiten_sums", x, mean, cov, None)
    check_operand("quaternion_whiten_sums", "dy", dy, x.shape, x.dtype)


def check_dx(
    dy: Tensor, x: Tensor, mean: Tensor, cov: Tensor, gamma: Tensor | None, sums: Tensor
) -> None:
    """The checks of `quaternion_whiten_dx`."""
    _check_present("quaternion_whiten_dx", dy=dy, x=x, mean=mean, cov=cov, sums=sums)
    _check("quaternion_whiten_dx", x, mean, cov, gamma)
    check_operand("quaternion_whiten_dx", "dy", dy, x.shape, x.dtype)
    check_operand("quaternion_whiten_dx", "sums", sums, (5, 4, x.shape[1] // 4), mean.dtype)


def check_factor(cov: Tensor) -> None:
    """The checks of `inverse_cholesky`."""
    check_operand("inverse_cholesky", "cov", cov, (4, 4, *cov.shape[-1:]), sums_dtype(cov))


def _check_present(op: str, **tensors: Tensor | None) -> None:
    """ValueError for None, which torch passes on as an undefined tensor."""
    for name, tensor in tensors.items():
        require(tensor is not None, op, name, "must be a tensor", tensor)


def _check(op: str, x: Tensor, mean: Tensor, cov: Tensor, gamma: Tensor | None) -> None:
    square, sums = (4, 4, check_features(op, x)), sums_dtype(x)
    check_operand(op, "mean", mean, (x.shape[1],), sums)
    check_operand(op, "cov", cov, square, sums)
    check_operand(op, "gamma", gamma, square, sums)
