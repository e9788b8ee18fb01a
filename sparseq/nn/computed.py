"""Layers whose weight is computed before every forward, and the plain layers that equal them.

This is how torch.nn.utils.prune, weight_norm, spectral_norm (each in its older form with hooks and
its newer one with parametrizations) and any parametrization of a user work. The attribute `weight`
may then be stale, and is no parameter.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm, remove_spectral_norm
from torch.nn.utils.weight_norm import WeightNorm, remove_weight_norm

COMPUTING_HOOKS = (prune.BasePruningMethod, WeightNorm, SpectralNorm)


def declared_class(module: nn.Module) -> type[nn.Module]:
    """The class of a module before parametrizations, which replace it by a subclass."""
    declared: type[nn.Module] = parametrize.type_before_parametrizations(module)
    return declared


def is_computed(module: nn.Module) -> bool:
    """Whether tensors of a module are computed from others, by parametrizations or by hooks."""
    hooks = module._forward_pre_hooks.values()
    return parametrize.is_parametrized(module) or any(isinstance(h, COMPUTING_HOOKS) for h in hooks)


def plain_layer(module: nn.Module) -> nn.Module:
    """The module if nothing of it is computed, else a copy with parameters in place of that.

    Their values are those that forward would compute in evaluation mode; they require gradients if
    any parameter does from which they are computed.
    """
    if not is_computed(module):
        return module
    plain = copy_model(module).eval()
    sources = [p for name, p in module.named_parameters() if name != "bias"]
    names = _unparametrize(plain)
    for hook in list(plain._forward_pre_hooks.values()):
        names += _remove(plain, hook)
    _drop_state_hooks(plain)
    for name in names:
        getattr(plain, name).requires_grad_(any(source.requires_grad for source in sources))
    return plain.train(module.training)


def _unparametrize(layer: nn.Module) -> list[str]:
    """Make parametrized tensors parameters, in place; returns their names."""
    names = list(getattr(layer, "parametrizations", ()))
    tensors = {name: getattr(layer, name).detach().clone() for name in names}
    if names:
        # torch's own remove_parametrizations would change the class, which the original shares
        layer.__class__ = declared_class(layer)
        del layer.parametrizations
    for name, tensor in tensors.items():
        layer.register_parameter(name, nn.Parameter(tensor))
    return names


def _remove(layer: nn.Module, hook: Any) -> list[str]:
    """Make permanent what a hook computes, in place; returns the names of these tensors."""
    if isinstance(hook, prune.BasePruningMethod):
        prune.remove(layer, hook._tensor_name)
        return [hook._tensor_name]
    if isinstance(hook, WeightNorm):
        remove_weight_norm(layer, hook.name)
        return [hook.name]
    if isinstance(hook, SpectralNorm):
        remove_spectral_norm(layer, hook.name)
        return [hook.name]
    return []


def _drop_state_hooks(layer: nn.Module) -> None:
    """Remove hooks on the state_dict that torch.nn.utils leaves behind."""
    for hooks in (layer._state_dict_hooks, layer._load_state_dict_pre_hooks):
        for key, hook in list(hooks.items()):
            function = getattr(hook, "hook", hook)
            source = getattr(function, "__module__", type(function).__module__)
            if source.startswith("torch.nn.utils."):
                del hooks[key]


def torch_mask(module: nn.Module, name: str = "weight") -> Tensor | None:
    """The bool mask that torch.nn.utils.prune keeps for a tensor of a module; None without one."""
    mask = module._buffers.get(f"{name}_mask")
    is_pruned = any(
        isinstance(hook, prune.BasePruningMethod) and hook._tensor_name == name
        for hook in module._forward_pre_hooks.values()
    )
    return mask != 0 if is_pruned and mask is not None else None


def copy_model(model: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """A deep copy, also of modules with attributes that torch refuses to copy.

    These are results of autograd, such as the `weight` of a layer under torch.nn.utils.prune; the
    copy has them detached.

    Args:
        model: any module; it is not modified.
        memo: id of an object -> its copy, as `copy.deepcopy` takes it; extended in place.
    """
    memo = {} if memo is None else memo
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo.setdefault(id(value), value.detach().clone())
    return copy.deepcopy(model, memo)
