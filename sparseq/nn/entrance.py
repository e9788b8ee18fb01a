"""What every layer does with its input before it computes: foreign tensors, torch.fx."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor, fx, nn

from sparseq.ops._inputs import check_dense


def with_entrance(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A layer's `forward` that torch.fx can trace, and whose errors name a foreign input.

    In a graph of torch.fx the layer is one node, as the layers of torch are. If x is no dense
    tensor and the layer cannot compute, the error says so; calls that succeed are not checked.
    """
    if hasattr(forward, "has_entrance"):
        return forward

    @functools.wraps(forward)
    def enter(layer: nn.Module, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if type(x) is not Tensor and isinstance(x, fx.Proxy) and _is_leaf(layer):
            return _as_node(layer, x, *args, **kwargs)
        try:
            return forward(layer, x, *args, **kwargs)
        except Exception:
            check_dense(type(layer).__name__, "x", x)
            raise

    @functools.wraps(forward)
    def enter_with_x(layer: nn.Module, x: Tensor) -> Any:
        """The same for x alone, which is what almost every layer takes, in less time."""
        if type(x) is not Tensor and isinstance(x, fx.Proxy) and _is_leaf(layer):
            return _as_node(layer, x)
        try:
            return forward(layer, x)
        except Exception:
            check_dense(type(layer).__name__, "x", x)
            raise

    takes_x = list(inspect.signature(forward).parameters) == ["self", "x"]
    entrance: Any = enter_with_x if takes_x else enter
    entrance.has_entrance = True
    return entrance  # type: ignore[no-any-return]


def _is_leaf(layer: nn.Module) -> bool:
    """Whether a layer computes by itself, not through modules that it contains."""
    return not layer._modules.keys() - {"parametrizations"}


def _as_node(layer: nn.Module, x: Any, *args: Any, **kwargs: Any) -> fx.Proxy:
    """The call of a layer in the graph that is being traced."""
    tracer: Any = x.tracer
    if tracer.root is layer:  # has no name of its own; `itself` is the layer
        return tracer.create_proxy("call_module", "itself", (x, *args), kwargs)
    name = tracer.path_of_module(layer)
    if layer._forward_hooks or layer._forward_pre_hooks:  # are traced before and after this call
        module = tracer.create_proxy("get_attr", name, (), {})
        return tracer.create_proxy("call_method", "forward", (module, x, *args), kwargs)
    return tracer.create_proxy("call_module", name, (x, *args), kwargs)
