"""The errors that ops raise for tensors of another dtype or shape."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sparseq.errors import require


def refuse_dtypes(op: str, weight: str, tensors: Mapping[str, Tensor | None]) -> None:
    """ValueError that names the tensor with the wrong dtype; none under autocast, which casts them.

    Ops compare the dtypes themselves and call this only if they differ, to keep each call cheap.

    Args:
        op: name of the op, for the message.
        weight: name of the tensor whose dtype the others must have.
        tensors: name -> tensor, or None if it was omitted.
    """
    if torch._C._is_any_autocast_enabled():
        return
    reference = tensors[weight]
    for name, tensor in tensors.items():
        if tensor is not None and reference is not None:
            rule = f"must have the dtype of {weight}, {reference.dtype}"
            require(tensor.dtype == reference.dtype, op, name, rule, tensor.dtype)


def check_operand(
    op: str, name: str, x: Tensor | None, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    """ValueError for another shape or dtype, also under autocast, which casts nothing here."""
    if x is not None and (x.shape != shape or x.dtype != dtype):
        require(x.shape == shape, op, name, f"must have shape {tuple(shape)}", tuple(x.shape))
        require(False, op, name, f"must have dtype {dtype}", x.dtype)
