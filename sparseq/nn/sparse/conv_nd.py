"""What sparse convolutions share: the numbers of the dense twin, its padding, and its files."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import chain
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from sparseq.errors import require
from sparseq.nn.layer_types import constructor_arguments, layer_type
from sparseq.nn.sparse.patterned import (
    PatternedLayer,
    build_with_store,
    empty_pattern,
    stored_weights,
    with_store,
)
from sparseq.nn.twins import match_twin
from sparseq.ops.sparse_conv import ConvGeometry

SETTINGS = ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")


class SparseConvNd(PatternedLayer):
    """What all sparse convolutions share: the numbers of the dense twin, and its padding."""

    __constants__: ClassVar[list[str]] = ["in_channels", "out_channels", *SETTINGS]
    dense: ClassVar[Any]  # the layer type it is the twin of
    in_channels: int
    out_channels: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: Any
    dilation: tuple[int, ...]
    groups: int
    padding_mode: str

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    @classmethod
    def pattern_shape(
        cls,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, ...],
        groups: int = 1,
        **others: Any,
    ) -> tuple[int, int]:
        """Rows and columns of the pattern of a layer with these arguments."""
        return out_channels, in_channels // groups * math.prod(kernel_size)

    def _take_numbers(self, twin: Any) -> None:
        """Adopt the checked numbers of a dense twin."""
        for name in ("in_channels", "out_channels", *SETTINGS):
            setattr(self, name, getattr(twin, name))
        dims = len(self.kernel_size)
        require(
            self.out_channels > 0 and self.in_channels > 0,
            type(self).__name__,
            "channels",
            "must be positive",
            (self.in_channels, self.out_channels),
        )
        sides = _both_sides(twin)
        same = self.padding_mode == "zeros" and all(before == after for before, after in sides)
        self._pads = [] if same else list(chain.from_iterable(reversed(sides)))
        inner = tuple(before for before, _ in sides) if same else (0,) * dims
        self._geometry = ConvGeometry(
            self.kernel_size, self.stride, inner, self.dilation, (0,) * dims, self._real_groups()
        )

    def _real_groups(self) -> int:
        """Groups of the real convolution that runs."""
        return self.groups

    def _outputs(self) -> int:
        return self.out_channels

    def _convolve(self, x: Tensor, convolve: Callable[[Tensor], Tensor]) -> Tensor:
        """Pad as the padding mode says, then convolve; takes x with and without a batch."""
        batched = x.dim() == len(self.kernel_size) + 2
        x = x if batched else x.unsqueeze(0)
        if self._pads:
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            x = F.pad(x, self._pads, mode)
        y = convolve(x)
        return y if batched else y.squeeze(0)

    def to_dense(self) -> Any:
        """The dense twin with zeros at the dropped places; parameters are copied."""
        settings = {name: getattr(self, name) for name in SETTINGS}
        layer = self.dense(
            self.in_channels,
            self.out_channels,
            **settings,
            bias=self.bias is not None,
            device="meta",
        )
        layer.weight = nn.Parameter(self.dense_weight().detach())
        match_twin(layer, self)
        return layer

    def extra_repr(self) -> str:
        """The constructor's arguments and the kept fraction."""
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"
        ones = (1,) * len(self.kernel_size)
        plain = {"stride": ones, "padding": (0,) * len(ones), "dilation": ones, "groups": 1}
        for name, usual in {**plain, "padding_mode": "zeros"}.items():
            value = getattr(self, name)
            text += "" if value == usual else f", {name}={value}"
        return f"{text}, bias={self.bias is not None}, density={self.density:.4g}"


def sparse_conv_type(**known: Any) -> Callable[[Any], Any]:
    """Registers a sparse convolution, the twin of its `dense`; the pattern comes with the state."""

    def enter(kind: Any) -> Any:
        def build(**arguments: Any) -> Any:
            return kind(pattern=empty_pattern(*kind.pattern_shape(**arguments)), **arguments)

        return layer_type(
            twin=kind.dense,
            op="sparse_conv",
            weights=stored_weights,
            arguments=_arguments,
            build=build_with_store(build),
            **known,
        )(kind)

    return enter


def _arguments(layer: SparseConvNd) -> dict[str, Any]:
    numbers = constructor_arguments(layer)
    kept = {name: value for name, value in numbers.items() if name not in ("pattern", "values")}
    return with_store(kept, layer)


def _both_sides(twin: Any) -> list[tuple[int, int]]:
    """Zeros before and after each spatial dimension."""
    if twin.padding == "valid":
        return [(0, 0)] * len(twin.kernel_size)
    if twin.padding == "same":
        totals = [d * (k - 1) for d, k in zip(twin.dilation, twin.kernel_size, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]
    return [(number, number) for number in twin.padding]
