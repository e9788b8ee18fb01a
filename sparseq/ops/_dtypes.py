"""What every op says of tensors whose dtypes differ, in torch's names."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sparseq.errors import require


def refuse_dtypes(op: str, weight: str, tensors: Mapping[str, Tensor | None]) -> None:
    """ValueError that names the tensor of another dtype; none under autocast, which casts them.

    Ops compare dtypes themselves and come here only where they differ: a call must stay cheap.

    Args:
        op: for the message.
        weight: name of the tensor whose dtype the others must have.
        tensors: name -> tensor, or None for one that was not given.
    """
    if torch._C._is_any_autocast_enabled():
        return
    wanted = tensors[weight]
    for name, tensor in tensors.items():
        if tensor is not None and wanted is not None:
            rule = f"must have the dtype of {weight}, {wanted.dtype}"
            require(tensor.dtype == wanted.dtype, op, name, rule, tensor.dtype)
