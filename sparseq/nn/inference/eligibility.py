"""When inference-only kernels may run, and the reordered patterns that they take."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparseq.ops._calls import is_transformed


def is_eager_cpu_tensor(x: Any) -> bool:
    """Whether x is a CPU tensor outside of autocast, compilation, export and transforms."""
    return not (
        torch.compiler.is_compiling()
        or torch._C._is_any_autocast_enabled()
        or is_transformed()
        or not isinstance(x, Tensor)
        or not x.is_cpu
        or x.is_nested
    )


def is_recorded(x: Tensor, modules: Iterable[nn.Module]) -> bool:
    """Whether autograd records the computation of these modules on x."""
    if not torch.is_grad_enabled():
        return False
    parameters = (p for module in modules for p in module._parameters.values())
    return x.requires_grad or any(p is not None and p.requires_grad for p in parameters)


def has_hooks(module: Any) -> bool:
    """Whether a module has forward hooks, which a kernel for several modules would skip."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def tap_orders(layers: Sequence[Any]) -> list[Tensor]:
    """The entries of each layer ordered by taps."""
    return [order for layer in layers for order in layer.pattern.tap_order(layer._geometry)]
