"""`feature_sum`: the sum of each feature over all other dimensions, the gradient of a bias.

    db[f] = sum over n and s of dy[n, f, s]

n and s stand for all dimensions before and after that of the features. Torch's own sum splits its
work, and so rounds, by the number of threads, and rounds 16-bit sums more than once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sparseq.errors import require
from sparseq.ops._backend import declare
from sparseq.ops._calls import below_autograd


def feature_sum(dy: Tensor, features: int = -1) -> Tensor:
    """The sum over all dimensions but one.

    Args:
        dy: at least one dimension, floating point.
        features: the dimension that stays, counted from the end if negative.

    Returns:
        (dy.shape[features]), dy's dtype; 16-bit dtypes are summed in float32 and rounded once.

    Raises:
        ValueError: dy has no such dimension.
    """
    if not -dy.dim() <= features < 0:
        _check(dy, features)
    if torch._C._are_functorch_transforms_active():  # which know torch's sum
        return feature_sum_reference(dy, features % dy.dim())
    return _FEATURE_SUM(dy, features % dy.dim())


def feature_sum_reference(dy: Tensor, features: int) -> Tensor:
    """Plain torch: its sum, of 16-bit dtypes in float32."""
    others = [d for d in range(dy.dim()) if d != features]
    if not others:
        return dy.clone()
    wide = torch.float32 if dy.element_size() == 2 else dy.dtype
    return dy.sum(others, dtype=wide).to(dy.dtype)


def add_bias(y: Tensor, bias: Tensor, features: int) -> Tensor:
    """y + bias along a dimension counted from the front; the bias's gradient is `feature_sum`."""
    if torch.compiler.is_compiling():  # it traces no Function that has a jvp
        return y + _spread(bias, y.shape, features)
    result: Tensor = _AddBias.apply(y, bias, features)
    return result


def _spread(db: Tensor, shape: Sequence[int], features: int) -> Tensor:
    """The adjoint of the sum: db along one dimension of a tensor of this shape, as a view."""
    return db.view(-1, *[1] * (len(shape) - features - 1)).expand(shape)


def _check(dy: Tensor, features: int) -> None:
    rule = f"must be a dimension of dy, which has {dy.dim()}"
    require(0 <= features < dy.dim(), "feature_sum", "features", rule, features)


def _fake(dy: Tensor, features: int) -> Tensor:
    _check(dy, features)
    return dy.new_empty(dy.shape[features])


class _FeatureSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, dy: Tensor, features: int) -> Tensor:
        ctx.shape, ctx.features = dy.shape, features
        with below_autograd():
            return _FEATURE_SUM(dy, features)

    @staticmethod
    def backward(ctx: Any, ddb: Tensor) -> tuple[Tensor, None]:
        return _spread(ddb, ctx.shape, ctx.features), None


class _AddBias(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(y: Tensor, bias: Tensor, features: int) -> Tensor:
        return y + _spread(bias, y.shape, features)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.features = inputs[2]

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        need_y, need_bias, _ = ctx.needs_input_grad
        db = feature_sum(dy, ctx.features) if need_bias else None
        return dy if need_y else None, db, None

    @staticmethod
    def jvp(ctx: Any, dy: Tensor, db: Tensor, _: Any) -> Tensor:
        return dy + _spread(db, dy.shape, ctx.features)


_FEATURE_SUM = declare(
    "feature_sum(Tensor dy, int features) -> Tensor",
    feature_sum_reference,
    _fake,
    _FeatureSum,
    autocast=False,
)
