"""How a layer holds its pattern: out of reach of what averages, casts or swaps its tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sparseq.errors import argument_error
from sparseq.formats import CSRPattern


class _PatternTensor:
    """A tensor of the layer's pattern as an attribute: read as a copy, never replaced alone."""

    def __set_name__(self, owner: Any, name: str) -> None:
        self.name = name

    def __get__(self, layer: Any, owner: Any = None) -> Any:
        return self if layer is None else getattr(layer._pattern, self.name)

    def __set__(self, layer: Any, tensor: Any) -> None:
        # `functional_call` sets the entries of a state_dict one by one, and later what it read
        if _is_copy(tensor, getattr(layer._pattern, self.name)):
            layer._replaced.pop(self.name, None)
        else:
            layer._replaced[self.name] = tensor


class PatternHolder(nn.Module):
    """A module with a pattern, which is neither a parameter nor a buffer.

    It is in the state_dict, as copies, and on the device of the layer's entries. `to_empty` of a
    module on the meta device leaves it without data.

    Attributes:
        row_ptr, col_idx, row_ptr_t, col_idx_t, perm: copies of the pattern's tensors, int32; only
            `load_state_dict` replaces a pattern.
    """

    _saved_pattern: ClassVar[tuple[str, ...]] = ("row_ptr", "col_idx")  # in the state_dict
    row_ptr = _PatternTensor()
    col_idx = _PatternTensor()
    row_ptr_t = _PatternTensor()
    col_idx_t = _PatternTensor()
    perm = _PatternTensor()
    _pattern: CSRPattern
    _replaced: dict[str, Any]

    def _entries_device(self) -> torch.device:
        """Where the kept entries are."""
        raise NotImplementedError

    def _pattern_tensors(self) -> list[Tensor]:
        """The five tensors of the pattern, which must not leave this package."""
        return (self.pattern if self._replaced else self._pattern)._tensors

    @property
    def pattern(self) -> CSRPattern:
        """The positions of the kept entries."""
        if self._replaced:
            rule = "can be replaced only by load_state_dict, as a whole"
            names = ", ".join(self._replaced)
            raise argument_error(type(self).__name__, names, rule, "another tensor")
        return self._pattern

    def _set_pattern(self, pattern: CSRPattern) -> None:
        """Make a pattern the layer's."""
        self._pattern, self._replaced = pattern, {}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        self._move_pattern(self._entries_device())
        return self

    def _move_pattern(self, device: torch.device) -> None:
        """Bring the pattern to the device of the entries."""
        if device != self._pattern.device:
            self._set_pattern(on_device(self._pattern, device))

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name in self._saved_pattern:
            destination[prefix + name] = getattr(self.pattern, name)


def on_device(pattern: CSRPattern, device: torch.device) -> CSRPattern:
    """The pattern on a device; the meta device takes only its sizes."""
    return pattern.without_data() if device.type == "meta" else pattern.to(device)


def _is_copy(tensor: Any, own: Tensor) -> bool:
    """Whether a tensor has the numbers of the layer's own one, or as few where that has none."""
    if not isinstance(tensor, Tensor) or tensor.shape != own.shape or tensor.dtype != own.dtype:
        return False
    return tensor.device == own.device and (own.is_meta or torch.equal(tensor, own))
