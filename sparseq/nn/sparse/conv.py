"""Sparse convolutions: only the kept weights exist, in memory, gradients and optimizer state."""

from __future__ import annotations

import math
from itertools import chain
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparseq.errors import require
from sparseq.formats import CSRPattern
from sparseq.nn.inference.eligibility import is_plain, is_recorded, tap_orders
from sparseq.nn.sparse.patterned import PatternedLayer, checked_mask
from sparseq.nn.twins import match_twin
from sparseq.ops.geometry import Sizes
from sparseq.ops.sparse_conv import ConvGeometry, conv_weight, sparse_conv
from sparseq.ops.sparse_conv_chain import chain_checked

# Where the kernel for inference was measured to be quicker for one layer (bench/NOTES.md).
FEW_IMAGES = 5
SMALL_MAP = 64  # pixels
LARGE = 1 << 19  # numbers of one image's map from which on whole maps are too far from the cache

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

    def _convolve(self, x: Tensor, values: Tensor, pattern: list[Tensor]) -> Tensor:
        """Pad as the padding mode says, then convolve; takes x with and without a batch."""
        batched = x.dim() == len(self.kernel_size) + 2
        x = x if batched else x.unsqueeze(0)
        if self._pads:
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            x = F.pad(x, self._pads, mode)
        y = sparse_conv(x, values, pattern, self.bias, self._geometry)
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


def _both_sides(twin: Any) -> list[tuple[int, int]]:
    """Zeros before and after each spatial dimension."""
    if twin.padding == "valid":
        return [(0, 0)] * len(twin.kernel_size)
    if twin.padding == "same":
        totals = [d * (k - 1) for d, k in zip(twin.dilation, twin.kernel_size, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]
    return [(number, number) for number in twin.padding]


class _SparseConv(SparseConvNd):
    """A sparse convolution, the twin of torch.nn's (the formula is in `sparseq.ops.sparse_conv`).

    The state_dict holds `values`, `row_ptr`, `col_idx` and `bias`. One with another pattern
    replaces the layer's; that of the dense twin (`weight`) loads through the pattern.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias,
            padding_mode: as in the layer of torch.nn.
        pattern: of the weight as a matrix, `weight.flatten(1)`: (out_channels, in_channels
            / groups * places of the kernel).
        values: (nnz) kept weights in CSR order, copied; None draws them and the bias from U(-b, b)
            with b = 1 / sqrt(kept inputs of the row). The bias is zero where values are given.
        device, dtype: of the parameters; by default those of values, else the pattern's device.

    Attributes:
        values: (nnz) parameter.
        row_ptr, col_idx: int32 buffers; row_ptr_t, col_idx_t, perm: their transpose, not saved.

    Raises:
        ValueError: numbers that torch.nn's layer refuses, a pattern or values of another shape,
            values that are no floats.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        pattern: CSRPattern,
        values: Tensor | None = None,
        stride: Sizes = 1,
        padding: Sizes | str = 0,
        dilation: Sizes = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self._take_numbers(
            self.dense(
                in_channels,
                out_channels,
                kernel_size,
                stride,
                padding,
                dilation,
                groups,
                False,
                padding_mode,
                device="meta",
            )
        )
        shape = self.pattern_shape(in_channels, out_channels, self.kernel_size, groups)
        require(
            pattern.shape == shape,
            type(self).__name__,
            "pattern",
            f"must have shape {shape}",
            pattern.shape,
        )
        self._register(pattern, values, bias, device, dtype)
        if values is None:
            self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw values and bias anew, by the true number of inputs of each row."""
        self._draw_by_inputs(generator)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, *spatial) -> (N, out_channels, *spatial'); N may be missing."""
        return self._convolve(x, self.values, self._pattern_tensors())

    @classmethod
    def from_dense(cls, module: Any, mask: Tensor | None = None) -> Any:
        """The kept weights of a dense layer; `to_dense` is the exact inverse on these.

        Args:
            module: the dense twin, left as it is.
            mask: bool of the weight's shape, True = keep; by default the weights that are not 0.

        Raises:
            ValueError: another kind of layer, a mask of another shape or dtype.
        """
        keep = checked_mask(f"{cls.__name__}.from_dense", module, cls.dense, mask)
        pattern = CSRPattern.from_mask(keep.flatten(1))
        values = pattern.gather(module.weight.detach().flatten(1))
        settings = {name: getattr(module, name) for name in SETTINGS}
        layer = cls(
            module.in_channels,
            module.out_channels,
            pattern=pattern,
            values=values,
            bias=module.bias is not None,
            **settings,
        )
        match_twin(layer, module)
        return layer

    def dense_weight(self) -> Tensor:
        """The twin's weight, zero where nothing is kept; differentiable in `values`."""
        return conv_weight(self.values, self._pattern_tensors(), self.kernel_size)

    def _matrix(self, weight: Tensor) -> Tensor:
        shape = (self.out_channels, self.in_channels // self.groups, *self.kernel_size)
        require(
            weight.shape == shape,
            type(self).__name__,
            "weight",
            f"must have shape {shape}",
            tuple(weight.shape),
        )
        return weight.flatten(1)


class SparseConv1d(_SparseConv):
    __doc__ = f"Over one dimension, for nn.Conv1d.\n\n{_SparseConv.__doc__}"
    dense = nn.Conv1d


class SparseConv2d(_SparseConv):
    __doc__ = f"Over two dimensions, for nn.Conv2d.\n\n{_SparseConv.__doc__}"
    dense = nn.Conv2d

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, *spatial) -> (N, out_channels, *spatial'); N may be missing."""
        if not is_plain(x) or is_recorded(x, (self,)) or not self._is_quicker_alone(x):
            return super().forward(x)
        bias = self.values.new_empty(0) if self.bias is None else self.bias
        return chain_checked(
            x,
            [self.values],
            [bias],
            self._pattern_tensors(),
            tap_orders([self]),
            self._geometry.numbers(),
            [0],
            [1],
        )

    def _is_quicker_alone(self, x: Tensor) -> bool:
        """Whether a chain of this layer alone was measured to be quicker than `sparse_conv`."""
        kernel, stride, padding, dilation, _, _ = self._geometry
        same = stride == (1, 1) and all(
            2 * p == d * (k - 1) for k, p, d in zip(kernel, padding, dilation, strict=True)
        )
        if not same or self._pads or x.dim() != 4 or x.shape[1] != self.in_channels:
            return False
        area = x.shape[2] * x.shape[3]
        few, small = x.shape[0] <= FEW_IMAGES, area <= SMALL_MAP and kernel == (3, 3)
        return 0 < area * max(self.in_channels, self.out_channels) < LARGE and (few or small)


class SparseConv3d(_SparseConv):
    __doc__ = f"Over three dimensions, for nn.Conv3d.\n\n{_SparseConv.__doc__}"
    dense = nn.Conv3d
