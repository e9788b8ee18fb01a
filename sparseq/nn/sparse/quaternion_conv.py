"""Sparse quaternion convolutions: the kept components run as one real sparse convolution."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from sparseq.errors import require
from sparseq.formats import CSRPattern
from sparseq.nn.quaternion.conv import QConv1d, QConv2d, QConv3d
from sparseq.nn.quaternion.linear import check_quaternion_sizes
from sparseq.nn.sparse.conv_nd import SETTINGS, SparseConvNd, sparse_conv_type
from sparseq.nn.sparse.quaternion_linear import (
    check_granularity,
    draw_kept_,
    entries_of,
    fold_kept_quaternions,
    kept_entries,
)
from sparseq.nn.twins import match_twin
from sparseq.ops.geometry import Sizes
from sparseq.ops.hamilton import PRODUCT
from sparseq.ops.sparse_conv import sparse_conv
from sparseq.ops.sparse_hamilton import compact_weight

# sign of the component b xor c in block (b, c) of the real weight
SIGNS = [[sign for _, sign in row] for row in PRODUCT]
WIDE = (
    "wide_row_ptr",
    "wide_col_idx",
    "wide_row_ptr_t",
    "wide_col_idx_t",
    "wide_perm",
    "wide_source",
)


def expand_pattern(
    pattern: CSRPattern, channels: tuple[int, int], groups: int, whole: bool
) -> tuple[CSRPattern, Tensor]:
    """The real weight's pattern, and where its values come from: four for each kept component.

    Args:
        pattern: of the compact weight: (4 m, k / groups * taps), or (m, k / groups * taps) when
            `whole`.
        channels: m and k, in quaternions.
        groups: of quaternion channels.
        whole: an entry is a quaternion.

    Returns:
        The (4 m, 4 k * taps) pattern, and int32 places in cat([values, -values]).
    """
    (outputs, inputs), columns = channels, pattern.shape[1]
    taps = columns * groups // max(inputs, 1)
    if pattern.row_ptr.is_meta:
        count = pattern.nnz * (16 if whole else 4)
        empty = pattern.col_idx.new_empty(count)
        pointers = pattern.row_ptr.new_empty(4 * outputs + 1)
        return CSRPattern.from_csr(pointers, empty, 4 * inputs * taps), empty.clone()
    rows, column = pattern.rows(), pattern.col_idx.long()
    entry = torch.arange(pattern.nnz, device=rows.device)
    if whole:
        rows, column = rows.repeat_interleave(4), column.repeat_interleave(4)
        component = torch.arange(4, device=rows.device).repeat(pattern.nnz)
        entry = torch.arange(len(rows), device=rows.device)
    else:
        component, rows = rows // outputs, rows % outputs
    own = rows * groups // outputs * columns + column
    block = torch.arange(4, device=rows.device)[:, None]
    sign = torch.tensor(SIGNS, device=rows.device)[block, block ^ component]
    key = (block * outputs + rows) * (4 * inputs * taps) + (block ^ component) * inputs * taps + own
    source = torch.where(sign > 0, entry, entry + len(entry))
    order = key.flatten().argsort()
    key = key.flatten()[order]
    counts = torch.bincount(key // (4 * inputs * taps), minlength=4 * outputs)
    pointers = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    wide = CSRPattern.from_csr(pointers, key % (4 * inputs * taps), 4 * inputs * taps)
    return wide, source.flatten()[order].to(torch.int32)


class SparseQConvNd(SparseConvNd):
    """What the sparse quaternion convolutions share: the real pattern beside the compact one."""

    granularity: str

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, *spatial) -> (N, out_channels, *spatial'); N may be missing."""
        return self._convolve(x, self._product)

    def _product(self, x: Tensor) -> Tensor:
        return self.store.product(self, self._convolve_real, x)

    def _convolve_real(
        self, x: Tensor, values: Tensor, pattern: list[Tensor], bias: Tensor | None
    ) -> Tensor:
        """The real convolution of four entries for each kept component."""
        values, wide = values.flatten(), self._buffers
        real = torch.cat([values, -values]).index_select(0, wide["wide_source"])
        return sparse_conv(x, real, [wide[name] for name in WIDE[:5]], bias, self._geometry)

    def dense_weight(self) -> Tensor:
        """(4, m, k, *kernel), zero where nothing is kept; differentiable in `values`."""
        weight = compact_weight(self.kept_values(), self._pattern_tensors())
        return weight.unflatten(2, (-1, *self.kernel_size))

    def _real_groups(self) -> int:
        return 1  # groups split the quaternion channels, which structural zeros do

    def _register_pattern(self, pattern: CSRPattern) -> None:
        super()._register_pattern(pattern)
        self._expand()

    def _make_room(self, pattern: CSRPattern, entries: dict[str, Tensor], assign: bool) -> None:
        super()._make_room(pattern, entries, assign)
        self._expand()  # `to_empty` leaves anything there

    def _expand(self) -> None:
        """Have the real pattern of the compact one."""
        channels = (self.out_channels // 4, self.in_channels // 4)
        whole = self.granularity == "quaternion"
        wide, source = expand_pattern(self.pattern, channels, self.groups, whole)
        for name, tensor in zip(WIDE, [*wide.tensors, source], strict=True):
            self.register_buffer(name, tensor, persistent=False)

    def _entry_shape(self) -> tuple[int, ...]:
        return () if self.granularity == "component" else (4,)

    def _matrix(self, weight: Tensor) -> Tensor:
        inputs = self.in_channels // 4 // self.groups
        shape = (4, self.out_channels // 4, inputs, *self.kernel_size)
        require(
            weight.shape == shape,
            type(self).__name__,
            "weight",
            f"must have shape {shape}",
            tuple(weight.shape),
        )
        return entries_of(weight.flatten(2), self.granularity)


class _SparseQConv(SparseQConvNd):
    """A sparse quaternion convolution, the twin of the dense one of the same name.

    With m = out_channels / 4 and k = in_channels / 4 / groups, kept are single components
    ("component": the pattern is of the weight (4, m, k, *kernel) seen as (4 m, k * places of the
    kernel), values are (nnz)) or whole quaternions ("quaternion": the pattern is (m, k * places),
    values are (nnz, 4)). State_dicts load as in `SparseConv2d`.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias,
            padding_mode: as in the dense layer.
        pattern: of the shape above, by the granularity.
        values: kept weights in CSR order, copied; None draws them as "he" of `quaternion_init_`,
            by the true number of inputs of each output quaternion.
        granularity: "component" or "quaternion".
        device, dtype: of the parameters; by default those of values, else the pattern's device.

    Raises:
        ValueError: numbers that the dense layer refuses, an unknown granularity, a pattern or
            values of another shape.
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
        *,
        granularity: str = "component",
    ) -> None:
        super().__init__()
        check_granularity(granularity)
        check_quaternion_sizes(
            type(self).__name__, in_channels=in_channels, out_channels=out_channels
        )
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
        self.granularity = granularity
        shape = self.pattern_shape(in_channels, out_channels, self.kernel_size, groups, granularity)
        require(
            pattern.shape == shape,
            type(self).__name__,
            "pattern",
            f"must have shape {shape} for {granularity} granularity",
            pattern.shape,
        )
        self._register(pattern, values, bias, device, dtype)
        if values is None:
            self.reset_parameters()

    @classmethod
    def pattern_shape(
        cls,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, ...],
        groups: int = 1,
        granularity: str = "component",
        **others: Any,
    ) -> tuple[int, int]:
        """Rows and columns of the pattern of a layer with these arguments."""
        rows = out_channels if granularity == "component" else out_channels // 4
        return rows, in_channels // 4 // groups * math.prod(kernel_size)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the values anew, by the true number of inputs, and zero the bias."""
        draw_kept_(self, self.out_channels // 4, generator)

    @classmethod
    def from_dense(
        cls, module: Any, mask: Tensor | None = None, granularity: str | None = None
    ) -> Any:
        """The kept weights of a quaternion layer; `to_dense` is the exact inverse on these.

        Args:
            module: the dense twin, left as it is.
            mask: bool of the weight's shape (4, m, k, *kernel), True = keep; by default what is
                not 0.
            granularity: as in `SparseQLinear.from_dense`.

        Raises:
            ValueError: another kind of layer, a mask of another shape or dtype, or one that
                splits quaternions where they are to be kept whole.
        """
        pattern, values, granularity = kept_entries(cls, module, cls.dense, mask, granularity)
        settings = {name: getattr(module, name) for name in SETTINGS}
        layer = cls(
            module.in_channels,
            module.out_channels,
            pattern=pattern,
            values=values,
            bias=module.bias is not None,
            granularity=granularity,
            **settings,
        )
        match_twin(layer, module)
        return layer

    def extra_repr(self) -> str:
        """The constructor's arguments, the kept fraction and the granularity."""
        return f"{super().extra_repr()}, granularity={self.granularity}"


_quaternion_type = sparse_conv_type(
    fold=fold_kept_quaternions,
    break_even=("QConv2d {} by component", "QConv2d {} by quaternion"),
)


@_quaternion_type
class SparseQConv1d(_SparseQConv):
    __doc__ = f"Over one dimension, for QConv1d.\n\n{_SparseQConv.__doc__}"
    dense = QConv1d


@_quaternion_type
class SparseQConv2d(_SparseQConv):
    __doc__ = f"Over two dimensions, for QConv2d.\n\n{_SparseQConv.__doc__}"
    dense = QConv2d


@_quaternion_type
class SparseQConv3d(_SparseQConv):
    __doc__ = f"Over three dimensions, for QConv3d.\n\n{_SparseQConv.__doc__}"
    dense = QConv3d
