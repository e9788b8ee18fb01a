"""`MaskHandle`: keeps masked weights, gradients and optimizer state at exactly zero."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from sparseq.errors import require
from sparseq.formats import BITS


def _do_nothing(*_args: object) -> None:
    """Replaces a hook in a deep copy or pickle of its model."""


def _inert_hook() -> Callable[..., None]:
    return _do_nothing


class _Hook:
    """Zeroes the dropped weights; inert in copies, so that a copied model is not enforced."""

    def __init__(self, handle: MaskHandle) -> None:
        self.handle = handle

    def __call__(self, *_args: object) -> None:
        self.handle.clean_weights()

    def __reduce__(self) -> tuple[Any, ...]:
        return _inert_hook, ()


class MaskedParameter:
    """One parameter of a model, looked up through its module in case it is replaced."""

    def __init__(self, model: nn.Module, name: str, keep: Tensor) -> None:
        prefix, _, self.attribute = name.rpartition(".")
        self.module = model.get_submodule(prefix)
        self.keep = keep
        self._bit_masks: dict[tuple[torch.device, torch.dtype], Tensor] = {}
        self._hooked: Tensor | None = None
        self._gradient_hook: Any = None

    @property
    def parameter(self) -> Tensor:
        """The current parameter."""
        parameter: Tensor = getattr(self.module, self.attribute)
        return parameter

    def follow(self) -> None:
        """Hook the gradient of the current parameter, once."""
        parameter = self.parameter
        if parameter is self._hooked or not parameter.requires_grad:
            return
        self.release()
        self._gradient_hook = parameter.register_post_accumulate_grad_hook(self._clean_gradient)
        self._hooked = parameter

    def release(self) -> None:
        """Remove the gradient hook."""
        if self._gradient_hook is not None:
            self._gradient_hook.remove()
        self._gradient_hook = self._hooked = None

    def clean_weight(self) -> None:
        """Zero the dropped entries of the weight."""
        self._zero(self.parameter)

    def clean_gradient(self) -> None:
        """Zero the dropped entries of the gradient, if it exists."""
        self._clean_gradient(self.parameter)

    def clean_state(self, optimizer: Optimizer) -> None:
        """Zero the dropped entries of all optimizer state of the weight's shape."""
        parameter = self.parameter
        for value in optimizer.state.get(parameter, {}).values():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                self._zero(value)

    def _clean_gradient(self, parameter: Tensor) -> None:
        gradient = parameter.grad
        if gradient is None:
            return
        if gradient.layout == torch.strided:
            self._zero(gradient)
        else:
            drop = ~self.keep.to(gradient.device)[tuple(gradient._indices())]
            gradient._values().masked_fill_(drop, 0)

    def _zero(self, tensor: Tensor) -> None:
        # .data: the weight may be saved for a backward, whose version check must not trip
        integer = BITS.get(tensor.element_size())
        if integer is None:
            tensor.data.masked_fill_(~self.keep.to(tensor.device), 0)
        else:
            tensor.data.view(integer).bitwise_and_(self._bit_mask(tensor.device, integer))

    def _bit_mask(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """All ones where kept, 0 where dropped: a bitwise AND zeroes NaN too, without a branch."""
        key = (device, dtype)
        if key not in self._bit_masks:
            self._bit_masks[key] = self.keep.to(device=device, dtype=dtype).neg_()
        return self._bit_masks[key]


class MaskHandle:
    """An enforced mask, see `Mask.enforce`; ended by `remove()` or by leaving a `with` block.

    Dropped entries are zeroed after each gradient accumulation, before and after each optimizer
    step, before each forward of the model and after each load_state_dict of model or optimizer.
    """

    def __init__(
        self, keep: Mapping[str, Tensor], model: nn.Module, optimizer: Optimizer | None
    ) -> None:
        self._masked = [MaskedParameter(model, name, value) for name, value in keep.items()]
        if optimizer is not None:
            self._check(optimizer)
        hook = _Hook(self)
        self._hooks: list[Any] = [
            model.register_forward_pre_hook(hook),
            model.register_load_state_dict_post_hook(hook),
        ]
        if optimizer is None:
            _watch_every_optimizer()
            _WATCHING.add(self)
        else:
            self._hooks += _watch(optimizer, self)
        self.clean(optimizer)

    def clean_weights(self) -> None:
        """Zero the dropped weights now."""
        for masked in self._masked:
            masked.follow()
            masked.clean_weight()

    def clean_gradients(self) -> None:
        """Zero the dropped weights and gradients now."""
        self.clean_weights()
        for masked in self._masked:
            masked.clean_gradient()

    def clean(self, optimizer: Optimizer | None) -> None:
        """Zero the dropped weights, gradients and entries of the optimizer's state now."""
        self.clean_gradients()
        if optimizer is not None:
            for masked in self._masked:
                masked.clean_state(optimizer)

    def applies_to(self, optimizer: Optimizer) -> bool:
        """Whether the optimizer steps any of the masked parameters."""
        stepped = {id(p) for group in optimizer.param_groups for p in group["params"]}
        return any(id(masked.parameter) in stepped for masked in self._masked)

    def remove(self) -> None:
        """End the enforcement; weights stay zero until they are trained. Idempotent."""
        for hook in self._hooks:
            hook.remove()
        for masked in self._masked:
            masked.release()
        self._hooks = []
        _WATCHING.discard(self)

    def __enter__(self) -> MaskHandle:
        return self

    def __exit__(self, *_error: object) -> None:
        self.remove()

    def _check(self, optimizer: Optimizer) -> None:
        rule = "must be a torch.optim.Optimizer"
        kind = type(optimizer).__name__
        require(isinstance(optimizer, Optimizer), "Mask.enforce", "optimizer", rule, kind)
        applies = not self._masked or self.applies_to(optimizer)
        rule = "must step at least one masked parameter of this model"
        require(applies, "Mask.enforce", "optimizer", rule, f"{kind} of other parameters")


def _watch(optimizer: Optimizer, handle: MaskHandle) -> list[Any]:
    """Hooks on one optimizer."""
    return [
        optimizer.register_step_pre_hook(lambda *_: handle.clean_gradients()),
        optimizer.register_step_post_hook(lambda *_: handle.clean(optimizer)),
        optimizer.register_load_state_dict_post_hook(lambda *_: handle.clean(optimizer)),
    ]


# handles not bound to one optimizer; the model keeps them alive, this set does not
_WATCHING: weakref.WeakSet[MaskHandle] = weakref.WeakSet()


@cache
def _watch_every_optimizer() -> None:
    """Hooks on all optimizers, once; they act on those that step masked parameters."""

    def handles_of(optimizer: Optimizer) -> list[MaskHandle]:
        return [handle for handle in list(_WATCHING) if handle.applies_to(optimizer)]

    def before(optimizer: Optimizer, *_args: object) -> None:
        for handle in handles_of(optimizer):
            handle.clean_gradients()

    def after(optimizer: Optimizer, *_args: object) -> None:
        for handle in handles_of(optimizer):
            handle.clean(optimizer)

    register_optimizer_step_pre_hook(before)
    register_optimizer_step_post_hook(after)
