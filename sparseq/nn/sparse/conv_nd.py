"""Base class of the sparse convolutions: settings of the dense twin, padding, registration."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Integral
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from sparseq.errors import require
from sparseq.nn.conv_padding import SETTINGS, pad_argument, padding_sides, per_dimension
from sparseq.nn.layer_types import constructor_arguments, layer_type
from sparseq.nn.sparse.patterned import (
    PatternedLayer,
    build_with_store,
    empty_pattern,
    stored_weights,
    with_store,
)
from sparseq.nn.twins import match_twin
from sparseq.ops.geometry import ConvGeometry, check_image
from sparseq.ops.sparse_conv import sparse_conv


class SparseConvNd(PatternedLayer):
    """Base class of all sparse convolutions: the settings of the dense twin, and its padding."""

    __constants__: ClassVar[list[str]] = ["in_channels", "out_channels", *SETTINGS]
    dense: ClassVar[Any]  # the dense twin's class
    dims: ClassVar[int]
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

    def _adopt_settings(self, channels: tuple[int, int], **settings: Any) -> None:
        """Check the settings, those of a dense twin, and store them."""
        layer, dims = type(self).__name__, self.dims
        fits = all(isinstance(count, Integral) and count > 0 for count in channels)
        require(fits, layer, "in_channels and out_channels", "must be positive integers", channels)
        for name, value in settings.items():
            if name in ("kernel_size", "stride", "dilation", "padding"):
                is_name = name == "padding" and isinstance(value, str)
                settings[name] = value if is_name else per_dimension(layer, name, value, dims)
        twin = self.dense(*channels, **settings, bias=False, device="meta")
        for name in ("in_channels", "out_channels", *SETTINGS):
            setattr(self, name, getattr(twin, name))
        sides = padding_sides(twin)
        symmetric = all(before == after for before, after in sides)
        # padding that the kernel cannot do is added to x by F.pad
        by_kernel = self.padding_mode == "zeros" and symmetric
        self._pads = [] if by_kernel else pad_argument(sides)
        padding = tuple(before for before, _ in sides) if by_kernel else (0,) * dims
        self._geometry = ConvGeometry(
            self.kernel_size, self.stride, padding, self.dilation, (0,) * dims, self._real_groups()
        )

    def _real_groups(self) -> int:
        """Groups of the real convolution that the kernel computes."""
        return self.groups

    def _outputs(self) -> int:
        return self.out_channels

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, *spatial) -> (N, out_channels, *spatial'), or the same without N."""
        return self._convolve(x, self._product)

    def _product(self, x: Tensor) -> Tensor:
        return self.store.product(self, sparse_conv, x, self._geometry)

    def _convolve(self, x: Tensor, convolve: Callable[[Tensor], Tensor]) -> Tensor:
        """Pad x, with or without a batch dimension, by the padding mode and convolve it."""
        is_batched = x.dim() == len(self.kernel_size) + 2
        x = x if is_batched else x.unsqueeze(0)
        if self._pads:
            check_image(type(self).__name__, x, self.in_channels, len(self.kernel_size))
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            x = F.pad(x, self._pads, mode)
        y = convolve(x)
        return y if is_batched else y.squeeze(0)

    def to_dense(self) -> Any:
        """The dense twin with zeros at the dropped entries; parameters are copied."""
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
        defaults: dict[str, Any] = {"stride": ones, "padding": (0,) * len(ones), "dilation": ones}
        for name, default in {**defaults, "groups": 1, "padding_mode": "zeros"}.items():
            value = getattr(self, name)
            text += "" if value == default else f", {name}={value}"
        return f"{text}, bias={self.bias is not None}, density={self.density:.4g}"


def sparse_conv_type(**fields: Any) -> Callable[[Any], Any]:
    """Class decorator that registers a sparse convolution as the twin of its `dense`.

    The keywords are fields of `LayerType`. In files the pattern is part of the state, not of the
    arguments.
    """

    def register(conv_class: Any) -> Any:
        def build(**arguments: Any) -> Any:
            pattern = empty_pattern(*conv_class.pattern_shape(**arguments))
            return conv_class(pattern=pattern, **arguments)

        return layer_type(
            twin=conv_class.dense,
            op="sparse_conv",
            weights=stored_weights,
            arguments=_arguments,
            build=build_with_store(build),
            **fields,
        )(conv_class)

    return register


def _arguments(layer: SparseConvNd) -> dict[str, Any]:
    arguments = constructor_arguments(layer)
    for name in ("pattern", "values"):
        arguments.pop(name, None)
    return with_store(arguments, layer)
