"""`hamilton`: the quaternion linear map y = W (x) x + b and its two gradients.

Features are stored in four blocks [r | i | j | k]. With W = (r, i, j, k) multiplying on the left,

    y_r = r x_r - i x_i - j x_j - k x_k        y_i = i x_r + r x_i - k x_j + j x_k
    y_j = j x_r + k x_i + r x_j - i x_k        y_k = k x_r - j x_i + i x_j + r x_k

Both gradients are Hamilton products too, dx = W* (x) dy with W* the conjugate transpose, and
dW = dy (x) x*, so the three ops differentiate into each other to any order.

`algorithm` is "16" (the sixteen block products above), "8" (Howell & Lafon 1975, eight products
and a few additions; about 1.4x the rounding error) or "auto", which picks by size. All entries are
multiplied, zeros too. What reads an inf or a NaN is not finite, but "8", which adds components
first, gives NaN where "16" gives inf.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sparseq.errors import require, unknown_name
from sparseq.ops._backend import declare
from sparseq.ops._bilinear import bilinear_functions
from sparseq.ops._dtypes import refuse_dtypes
from sparseq.ops._inputs import takes_dense_tensors
from sparseq.ops._pattern import batch_rows, check_sampled

ALGORITHMS = ["auto", "8", "16"]

# PRODUCT[a][b] = (component c, sign): block (a, b) of the real matrix is sign * W_c
PRODUCT = (
    ((0, 1), (1, -1), (2, -1), (3, -1)),
    ((1, 1), (0, 1), (3, -1), (2, 1)),
    ((2, 1), (3, 1), (0, 1), (1, -1)),
    ((3, 1), (2, -1), (1, 1), (0, 1)),
)


@takes_dense_tensors
def hamilton(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, algorithm: str = "auto"
) -> Tensor:
    """Quaternion linear map of real features.

    Args:
        x: (..., 4 k), floating point.
        weight: (4, m, k), components r, i, j, k, of x's dtype.
        bias: (4 m) or None.
        algorithm: "auto", "8" or "16".

    Returns:
        (..., 4 m), x's dtype.

    Raises:
        ValueError: a shape or dtype that does not match, or an unknown algorithm.
    """
    _check("hamilton", x, weight, bias, algorithm)
    return _HAMILTON(x, weight, bias, algorithm)


def _check(op: str, x: Tensor, weight: Tensor, bias: Tensor | None, algorithm: str) -> None:
    _check_weight(op, weight, algorithm)
    if x.dim() == 0 or x.shape[-1] != 4 * weight.shape[2]:
        rule = f"must have {4 * weight.shape[2]} features (4 k of the weight)"
        require(False, op, "x", rule, tuple(x.shape))
    if bias is not None and bias.shape != (4 * weight.shape[1],):
        rule = f"must have shape ({4 * weight.shape[1]},)"
        require(False, op, "bias", rule, tuple(bias.shape))
    if x.dtype != weight.dtype or (bias is not None and bias.dtype != weight.dtype):
        refuse_dtypes(op, "weight", {"x": x, "bias": bias, "weight": weight})


def _check_weight(op: str, weight: Tensor, algorithm: str) -> None:
    if algorithm not in ALGORITHMS:
        raise unknown_name("hamilton algorithm", algorithm, ALGORITHMS)
    if weight.dim() != 3 or weight.shape[0] != 4:
        require(False, op, "weight", "must have shape (4, m, k)", tuple(weight.shape))


def _check_dx(dy: Tensor, weight: Tensor, algorithm: str) -> None:
    _check_weight("hamilton_dx", weight, algorithm)
    if dy.dim() == 0 or dy.shape[-1] != 4 * weight.shape[1]:
        rule = f"must have {4 * weight.shape[1]} features"
        require(False, "hamilton_dx", "dy", rule, tuple(dy.shape))
    if dy.dtype != weight.dtype:
        refuse_dtypes("hamilton_dx", "weight", {"dy": dy, "weight": weight})


def _check_dw(dy: Tensor, x: Tensor, algorithm: str) -> None:
    if algorithm not in ALGORITHMS:
        raise unknown_name("hamilton algorithm", algorithm, ALGORITHMS)
    for name, tensor in (("dy", dy), ("x", x)):
        if tensor.dim() == 0 or tensor.shape[-1] % 4:
            rule = "must have a multiple of 4 features"
            require(False, "hamilton_dw", name, rule, tuple(tensor.shape))
    check_sampled("hamilton_dw", dy, dy.shape[-1], x, x.shape[-1])


def real_weight(weight: Tensor) -> Tensor:
    """The real (4 m, 4 k) matrix of the compact weight (4, m, k)."""
    rows = [torch.cat([weight[c] * sign for c, sign in row], dim=1) for row in PRODUCT]
    return torch.cat(rows, dim=0)


def fold_real(matrix: Tensor) -> Tensor:
    """Adjoint of `real_weight`: sums the signed blocks of (4 m, 4 k) into (4, m, k)."""
    blocks = matrix.unflatten(0, (4, -1)).unflatten(2, (4, -1))
    terms: list[list[Tensor]] = [[], [], [], []]
    for a, row in enumerate(PRODUCT):
        for b, (component, sign) in enumerate(row):
            terms[component].append(blocks[a, :, b] * sign)
    return torch.stack([torch.stack(term).sum(0) for term in terms])


def hamilton_reference(x: Tensor, weight: Tensor, bias: Tensor | None, algorithm: str) -> Tensor:
    """Plain torch: the real matrix, then one dense product."""
    return F.linear(x, real_weight(weight), bias)


def hamilton_dx_reference(dy: Tensor, weight: Tensor, algorithm: str) -> Tensor:
    """Plain torch: dx = W* (x) dy; dy (..., 4 m), weight (4, m, k) -> (..., 4 k)."""
    return dy @ real_weight(weight)


def hamilton_dw_reference(dy: Tensor, x: Tensor, algorithm: str) -> Tensor:
    """Plain torch: dW = sum over rows of dy (x) x*; (..., 4 m), (..., 4 k) -> (4, m, k)."""
    return fold_real(batch_rows(dy).t() @ batch_rows(x))


def _fake(x: Tensor, weight: Tensor, bias: Tensor | None, algorithm: str) -> Tensor:
    _check("hamilton", x, weight, bias, algorithm)
    return x.new_empty((*x.shape[:-1], 4 * weight.shape[1]))


def _fake_dx(dy: Tensor, weight: Tensor, algorithm: str) -> Tensor:
    _check_dx(dy, weight, algorithm)
    return dy.new_empty((*dy.shape[:-1], 4 * weight.shape[2]))


def _fake_dw(dy: Tensor, x: Tensor, algorithm: str) -> Tensor:
    _check_dw(dy, x, algorithm)
    return dy.new_empty((4, dy.shape[-1] // 4, x.shape[-1] // 4))


_FUNCTIONS = bilinear_functions("hamilton")
_HAMILTON = declare(
    "hamilton(Tensor x, Tensor weight, Tensor? bias, str algorithm) -> Tensor",
    hamilton_reference,
    _fake,
    _FUNCTIONS[0],
)
declare(
    "hamilton_dx(Tensor dy, Tensor weight, str algorithm) -> Tensor",
    hamilton_dx_reference,
    _fake_dx,
    _FUNCTIONS[1],
)
declare(
    "hamilton_dw(Tensor dy, Tensor x, str algorithm) -> Tensor",
    hamilton_dw_reference,
    _fake_dw,
    _FUNCTIONS[2],
)
