"""Which library or kernel serves which op.

Every op has a plain-torch reference registered for all devices. The first call on a device
activates it: the compiled library for that device is built, or found in the cache, and loaded; from
then on the dispatcher calls its kernels directly. `SPARSEQ_BACKEND` overrides the choice for all
ops (`reference`) or for some (`spmm=reference,hamilton=compiled`); a backend requested by name that
is not available is an error, never a silent fallback.
"""

from __future__ import annotations

import os
import sys
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sparseq.errors import unknown_name
from sparseq.ops import _trust
from sparseq.ops._calls import check_tensors, checked_fake, checked_reference

# op name -> kernel, or None if loading the library has already registered it
Kernels = Mapping[str, Callable[..., torch.Tensor] | None]

CHOICES = ["auto", "compiled", "reference", "triton"]
PACKAGE = Path(__file__).parents[1]
LIBRARY = torch.library.Library("sparseq", "DEF")


@dataclass(frozen=True)
class Operator:
    """A dispatcher op: its reference, the op itself, and the entry point `declare` returned.

    `served` is the reference behind the checks of a kernel, as the dispatcher calls it.
    """

    name: str
    reference: Callable[..., torch.Tensor]
    call: Callable[..., torch.Tensor]
    entry: Callable[..., torch.Tensor]
    served: Callable[..., torch.Tensor]


OPERATORS: dict[str, Operator] = {}
# backend -> loader of its kernels written in Python; filled by `sparseq.ops`, because these kernels
# import the operators
KERNEL_LOADERS: dict[str, Callable[[], Kernels]] = {}
_serving: dict[str, dict[str, str]] = {}
_lock = threading.RLock()


def declare(
    schema: str,
    reference: Callable[..., torch.Tensor],
    fake: Callable[..., torch.Tensor],
    function: type[Any],
    inputs: Callable[[Sequence[Any]], Sequence[Any]] = lambda args: args,
    autocast: bool = True,
) -> Callable[..., torch.Tensor]:
    """Define `sparseq::<schema>`; arguments have no defaults, so every kernel sees all of them.

    Args:
        schema: name, arguments and result in torch's schema language.
        reference: the op in plain torch, for any device.
        fake: the op on meta tensors; checks shapes and dtypes as the kernels do.
        function: its `apply`, of an autograd.Function or a composition of other ops, serves calls
            in which one of `inputs(arguments)` requires a gradient.
        inputs: arguments -> those that may require a gradient.
        autocast: under autocast, run in the autocast dtype as a linear layer does; otherwise in
            the dtypes of the arguments, as a normalization does.

    Returns:
        The entry point: equivalent to the op itself, in a third of the time.
    """
    name = schema.split("(")[0]
    LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    call = getattr(torch.ops.sparseq, name).default
    differentiable = _differentiable(call, function, inputs)
    fake = checked_fake(call._schema, fake)
    served = checked_reference(call._schema, fake, reference)
    operator = Operator(name, reference, call, _shortcut(call, differentiable), served)
    OPERATORS[name] = operator
    LIBRARY.impl(name, _first_call(operator, call._schema), "CompositeExplicitAutograd")
    LIBRARY.impl(name, differentiable, "Autograd")
    for key, device in (("AutocastCPU", "cpu"), ("AutocastCUDA", "cuda")):
        LIBRARY.impl(name, _autocast(call, key, device if autocast else None), key)
    torch.library.register_fake(f"sparseq::{name}", fake, lib=LIBRARY)
    return operator.entry


def below_autograd() -> Any:
    """Context in which an op call goes directly to its kernel and records no gradient."""
    return torch._C._AutoDispatchBelowAutograd()


def _differentiable(
    call: Callable[..., torch.Tensor],
    function: type[Any],
    inputs: Callable[[Sequence[Any]], Sequence[Any]],
) -> Callable[..., torch.Tensor]:
    def entry(*args: Any) -> torch.Tensor:
        if torch.is_grad_enabled() and any(
            getattr(a, "requires_grad", False) for a in inputs(args)
        ):
            result: torch.Tensor = function.apply(*args)
            return result
        with below_autograd():
            return call(*args)

    return entry


def _shortcut(
    call: Callable[..., torch.Tensor], differentiable: Callable[..., torch.Tensor]
) -> Callable[..., torch.Tensor]:
    """The op without the dispatcher's detour through our Python kernel at the Autograd key."""
    compiling, autocasting = torch.compiler.is_compiling, torch._C._is_any_autocast_enabled

    def entry(*args: Any) -> torch.Tensor:
        if compiling() or autocasting():  # a graph must contain the op; a cast precedes gradients
            return call(*args)
        return differentiable(*args)

    return entry


def _autocast(
    call: Callable[..., torch.Tensor], key: str, device: str | None
) -> Callable[..., torch.Tensor]:
    """Run in the autocast dtype of a device, or in the dtypes of the arguments if it is None."""
    keys = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))

    def cast(value: Any, dtype: torch.dtype | None) -> Any:
        if isinstance(value, list):
            return [cast(item, dtype) for item in value]
        if dtype is not None and isinstance(value, torch.Tensor) and value.is_floating_point():
            return value if value.dtype == torch.float64 else value.to(dtype)
        return value

    def entry(*args: Any) -> torch.Tensor:
        dtype = None if device is None else torch.get_autocast_dtype(device)
        with torch._C._ExcludeDispatchKeyGuard(keys):
            return call(*(cast(a, dtype) for a in args))

    return entry


def _first_call(operator: Operator, schema: Any) -> Callable[..., torch.Tensor]:
    """The kernel for devices without a registered one so far: activate the device, call again."""

    def entry(*args: Any) -> torch.Tensor:
        check_tensors(schema, args)  # layouts without kernels come here each time
        device = next(a.device.type for a in args if isinstance(a, torch.Tensor))
        if activate(device)[operator.name] == "reference":
            return operator.served(*args)
        return operator.call(*args)

    return entry


def activate(device: str) -> dict[str, str]:
    """Load the kernels for a device type, once; returns op name -> backend that serves it."""
    if device not in _serving:
        with _lock:
            if device not in _serving:
                _serving[device] = _load(device, _requested())
    return _serving[device]


def _requested() -> dict[str, str]:
    """`SPARSEQ_BACKEND`, parsed: op name -> choice, for every op."""
    choices = dict.fromkeys(OPERATORS, "auto")
    for part in filter(None, os.environ.get("SPARSEQ_BACKEND", "").replace(" ", "").split(",")):
        op, _, choice = part.rpartition("=")
        if choice not in CHOICES:
            raise unknown_name("backend in SPARSEQ_BACKEND", choice, CHOICES)
        if op and op not in OPERATORS:
            raise unknown_name("op in SPARSEQ_BACKEND", op, sorted(OPERATORS))
        choices.update(dict.fromkeys([op] if op else OPERATORS, choice))
    return choices


def _load(device: str, choices: dict[str, str]) -> dict[str, str]:
    kernels: dict[str, Kernels] = {
        "compiled": _compiled(device, set(choices.values())),
        "triton": _triton(device, set(choices.values())),
        "reference": {name: operator.served for name, operator in OPERATORS.items()},
    }
    return {name: _install(name, choice, device, kernels) for name, choice in choices.items()}


def _install(name: str, choice: str, device: str, kernels: dict[str, Kernels]) -> str:
    """Select the kernel of an op; `kernels` is in order of preference. Returns its backend."""
    available = [backend for backend, ops in kernels.items() if name in ops]
    chosen = available[0] if choice == "auto" else choice
    if chosen not in available:
        raise RuntimeError(
            f"SPARSEQ_BACKEND requests {choice!r} for {name!r} on {device!r}, "
            f"where only these are available: {', '.join(available)}"
        )
    if chosen == "triton" or (chosen == "reference" and "compiled" in available):
        LIBRARY.impl(name, kernels[chosen][name], device.upper(), allow_override=True)
    return chosen


def _compiled(device: str, choices: set[str]) -> Kernels:
    """The ops of the device's compiled library; loading it registers them."""
    from sparseq.ops import build

    if device not in build.LIBRARIES or not choices & {"auto", "compiled"}:
        return {}
    path = None
    try:
        path = build.library(device)
        torch.ops.load_library(str(path))
        if device == "cpu":  # has the kernels that read patterns
            _trust.inform(path)
    except (build.BuildError, OSError) as error:
        if "compiled" in choices:
            raise
        remedy = f"; remove {path.parent}" if path else ""
        message = f"sparseq runs its slow plain-torch kernels: {error}{remedy}"
        warnings.warn(message, stacklevel=_callers_level())
        return {}
    key = device.upper()
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    return {name: None for name in OPERATORS if has_kernel(f"sparseq::{name}", key)}


def _callers_level() -> int:
    """The `stacklevel`, for a warning issued by our caller, of the code that called sparseq."""
    ours = tuple(f"{folder}{os.sep}" for folder in (PACKAGE, Path(torch.__file__).parent))
    frame, level = sys._getframe(1), 1
    while frame.f_back and frame.f_code.co_filename.startswith(ours):
        frame, level = frame.f_back, level + 1
    return level


def _triton(device: str, choices: set[str]) -> Kernels:
    """The ops with a Triton kernel: on GPUs, and on CPUs if its interpreter is requested."""
    interpreted = "triton" in choices and os.environ.get("TRITON_INTERPRET") == "1"
    if not choices & {"auto", "triton"} or not (device == "cuda" or interpreted):
        return {}
    try:
        return KERNEL_LOADERS["triton"]()
    except ImportError:
        return {}
