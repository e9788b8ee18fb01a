"""The ways an op is called: eagerly, recorded, cast by autocast, transformed by torch.func."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.autograd import forward_ad

from sparseq._late import after_import

AUTOCAST = {"AutocastCPU": "cpu", "AutocastCUDA": "cuda"}  # dispatch key -> device


def below_autograd() -> Any:
    """Context in which an op call goes directly to its kernel and records no gradient."""
    return torch._C._AutoDispatchBelowAutograd()


def is_transformed() -> bool:
    """Whether a call now is one that torch.func transforms or that has forward-mode derivatives."""
    return forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()


def single_tensors(schema: Any) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """arguments -> those that are a tensor or None, with which every schema begins."""
    types = [str(argument.type) for argument in schema.arguments]
    count = sum(kind in ("Tensor", "Optional[Tensor]") for kind in types)
    assert all("List" not in kind and "Tensor" in kind for kind in types[:count])
    return operator.itemgetter(slice(count))


def differentiable(
    call: Callable[..., torch.Tensor],
    function: type[Any],
    transformed: Callable[..., torch.Tensor],
    inputs: Callable[[Sequence[Any]], Sequence[Any]],
) -> tuple[Callable[..., torch.Tensor], Callable[..., torch.Tensor]]:
    """The op with derivatives: recorded by `function` if one of `inputs` requires a gradient.

    Returns:
        The kernel at the dispatcher's Autograd key; and the same without the dispatcher's detour
        through it. Both are written out, since each frame of Python costs a small layer a percent.
    """
    compiling, autocasting = torch.compiler.is_compiling, torch._C._is_any_autocast_enabled
    transforming, tracing = torch._C._are_functorch_transforms_active, torch._C._get_tracing_state
    recording, below = torch.is_grad_enabled, torch._C._AutoDispatchBelowAutograd

    def kernel(*args: Any) -> torch.Tensor:
        if forward_ad._current_level >= 0:
            return transformed(*args)
        if recording():
            for tensor in inputs(args):
                if tensor is not None and tensor.requires_grad:
                    result: torch.Tensor = function.apply(*args)
                    return result
        with below():
            return call(*args)

    def entry(*args: Any) -> torch.Tensor:
        # a graph must contain the op; a cast precedes gradients, and a transform everything
        if compiling() or autocasting() or transforming():
            return call(*args)
        if forward_ad._current_level >= 0:
            return transformed(*args)
        if recording():
            for tensor in inputs(args):
                if tensor is not None and tensor.requires_grad:
                    is_traced = tracing() is not None  # by torch.jit
                    result: torch.Tensor = (call if is_traced else function.apply)(*args)
                    return result
        with below():
            return call(*args)

    return kernel, entry


def functorch_kernel(
    transformed: Callable[..., torch.Tensor], autocast: bool
) -> Callable[..., torch.Tensor]:
    """A call that torch.func transforms; its key precedes that of autocast, so it casts as well."""

    def entry(*args: Any) -> torch.Tensor:
        device = device_type(args)
        if device not in AUTOCAST.values() or not torch.is_autocast_enabled(device):
            return transformed(*args)
        dtype = torch.get_autocast_dtype(device) if autocast else None
        with torch.autocast(device, enabled=False):
            return transformed(*(_cast(a, dtype) for a in args))

    return entry


def device_type(args: Sequence[Any]) -> str:
    """Type of the device of the first tensor."""
    return next(a.device.type for a in args if isinstance(a, torch.Tensor))


def count_flops(name: str, flops: Callable[..., int]) -> None:
    """Make `torch.utils.flop_counter.FlopCounterMode` count an op."""

    def count(*shapes: Any, out_shape: Sequence[int]) -> int:
        return flops(shapes, out_shape)

    def register() -> None:
        from torch.utils.flop_counter import register_flop_formula  # takes long: imports Triton

        register_flop_formula(getattr(torch.ops.sparseq, name))(count)

    after_import("torch.utils.flop_counter", register)


def _cast(value: Any, dtype: torch.dtype | None) -> Any:
    """Tensors, also in lists, in an autocast dtype; unchanged if None, or of float64."""
    if isinstance(value, list):
        return [_cast(item, dtype) for item in value]
    if dtype is not None and isinstance(value, torch.Tensor) and value.is_floating_point():
        return value if value.dtype == torch.float64 else value.to(dtype)
    return value


def autocast_kernel(
    call: Callable[..., torch.Tensor], key: str, device: str | None
) -> Callable[..., torch.Tensor]:
    """Run in the autocast dtype of a device, or in the dtypes of the arguments if it is None."""
    keys = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))

    def entry(*args: Any) -> torch.Tensor:
        dtype = None if device is None else torch.get_autocast_dtype(device)
        with torch._C._ExcludeDispatchKeyGuard(keys):
            return call(*(_cast(a, dtype) for a in args))

    return entry
