"""The weight of a dense twin, computed for code outside sparseq that reads `layer.weight`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sparseq.errors import argument_error

# detach() and attributes such as `.data` share the memory: a write to them would be lost too
_SHARING = {"detach", "__get__"}


class TwinWeight(Tensor):
    """A tensor computed from a layer's kept entries; results computed from it are plain tensors.

    It is read-only: what is written to it would never reach the layer. As a subclass with its own
    `__torch_function__` it also keeps torch's fused paths, such as that of
    `nn.TransformerEncoderLayer`, from replacing the layer's operator by a dense product.
    """

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an operation on plain tensors; ValueError if it writes to the weight."""
        name = getattr(func, "__name__", str(func))
        written = args[0] if args else (kwargs or {}).get("tensor")  # torch.nn.init passes this
        if isinstance(written, cls) and _writes(name):
            rule = "must not be written, as it is computed from the layer's kept entries"
            raise argument_error("TwinWeight", "weight", rule, name)
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **(kwargs or {}))
        is_view = name in _SHARING and isinstance(result, Tensor)
        return result.as_subclass(cls) if is_view else result


def _writes(name: str) -> bool:
    """Whether a tensor method works in place, by torch's convention for names."""
    in_place = name.endswith("_") and not name.endswith("__") and name != "requires_grad_"
    augmented = name.startswith("__i") and name not in ("__int__", "__index__", "__invert__")
    return in_place or augmented or name in ("__setitem__", "__set__")
