"""When kernels that are for inference alone may run, and what they keep of a pattern."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from sparseq.ops.sparse_conv_chain import tap_order

ORDERS: Any = WeakTensorKeyDictionary()  # of column ids: their version, and their order by taps


def is_plain(x: Any) -> bool:
    """Whether x is a CPU tensor that no autocast, compiler or exporter sees."""
    return not (
        torch.compiler.is_compiling()
        or torch._C._is_any_autocast_enabled()
        or not isinstance(x, Tensor)
        or not x.is_cpu
    )


def is_recorded(x: Tensor, modules: Iterable[nn.Module]) -> bool:
    """Whether autograd records what these modules make of x."""
    if not torch.is_grad_enabled():
        return False
    own = (parameter for module in modules for parameter in module._parameters.values())
    return x.requires_grad or any(tensor is not None and tensor.requires_grad for tensor in own)


def tap_orders(layers: Sequence[Any]) -> list[Tensor]:
    """The entries of every layer by taps, kept as long as a pattern lives unchanged."""
    found: list[Tensor] = []
    for layer in layers:
        pattern = layer._pattern_tensors()
        ids = pattern[1]
        if ids.is_inference():  # has no version to tell a change by
            return []
        kept = ORDERS.get(ids)
        if kept is None or kept[0] != ids._version:
            ORDERS[ids] = kept = (ids._version, tap_order(pattern, layer._geometry))
        found.extend(kept[1])
    return found
