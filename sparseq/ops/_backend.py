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
from sparseq.ops._calls import (
    AUTOCAST,
    autocast_kernel,
    count_flops,
    device_type,
    differentiable,
    functorch_kernel,
    single_tensors,
)
from sparseq.ops._checked_calls import check_tensors, checked_fake, checked_reference

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
    call: Any  # an OpOverload
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
    inputs: Callable[[Sequence[Any]], Sequence[Any]] | None = None,
    autocast: bool = True,
) -> Callable[..., torch.Tensor]:
    """Define `sparseq::<schema>`; arguments have no defaults, so every kernel sees all of them.

    Args:
        schema: name, arguments and result in torch's schema language.
        reference: the op in plain torch, for any device.
        fake: the op on meta tensors; checks shapes and dtypes as the kernels do.
        function: its `apply`, of an autograd.Function or a composition of other ops, serves calls
            in which one of `inputs(arguments)` requires a gradient. If it has them, `transformed`
            serves calls that torch.func transforms or differentiates in forward mode, in place of
            the reference, which torch can transform as well; and `flops(shapes, shape of the
            result)` is what `torch.utils.flop_counter` counts.
        inputs: arguments -> those that may require a gradient; by default all single tensors.
        autocast: under autocast, run in the autocast dtype as a linear layer does; otherwise in
            the dtypes of the arguments, as a normalization does.

    Returns:
        The entry point: equivalent to the op itself, in a third of the time.
    """
    name = schema.split("(")[0]
    LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    call = getattr(torch.ops.sparseq, name).default
    transformed = getattr(function, "transformed", reference)
    tensors = inputs or single_tensors(call._schema)
    kernel, entry = differentiable(call, function, transformed, tensors)
    fake = checked_fake(call._schema, fake)
    served = checked_reference(call._schema, fake, reference)
    operator = Operator(name, reference, call, entry, served)
    OPERATORS[name] = operator
    LIBRARY.impl(name, _first_call(operator), "CompositeExplicitAutograd")
    LIBRARY.impl(name, kernel, "Autograd")
    for key, device in AUTOCAST.items():
        LIBRARY.impl(name, autocast_kernel(call, key, device if autocast else None), key)
    LIBRARY.impl(name, functorch_kernel(transformed, autocast), "FuncTorchDynamicLayerFrontMode")
    if hasattr(function, "flops"):
        count_flops(name, function.flops)
    torch.library.register_fake(f"sparseq::{name}", fake, lib=LIBRARY)
    return operator.entry


def _first_call(operator: Operator) -> Callable[..., torch.Tensor]:
    """The kernel for devices without a registered one so far: activate the device, call again.

    It is also called for layouts without a kernel: those of sparse, nested and quantized tensors.
    """

    def entry(*args: Any) -> torch.Tensor:
        check_tensors(operator.call._schema, args)
        device = device_type(args)
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
        with warnings.catch_warnings():  # torch 2.11 warns of what is asked for here
            warnings.filterwarnings("ignore", "(?s).*Overriding a previously registered kernel")
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
