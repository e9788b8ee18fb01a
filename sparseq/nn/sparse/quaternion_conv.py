"""Sparse quaternion convolutions, computed as one real sparse convolution."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from sparseq.formats import CSRPattern
from sparseq.nn.conv_padding import SETTINGS
from sparseq.nn.quaternion.conv import QConv1d, QConv2d, QConv3d
from sparseq.nn.quaternion.linear import check_quaternion_sizes
from sparseq.nn.sparse.conv_nd import SparseConvNd, sparse_conv_type
from sparseq.nn.sparse.patterned import check_pattern
from sparseq.nn.sparse.quaternion_linear import (
    check_granularity,
    draw_kept_,
    entries_of,
    fold_kept_quaternions,
    kept_entries,
)
from sparseq.nn.sparse.real_pattern import expand_pattern
from sparseq.nn.twins import match_twin
from sparseq.ops.geometry import Sizes
from sparseq.ops.sparse_conv import sparse_conv
from sparseq.ops.sparse_hamilton import compact_weight


class SparseQConvNd(SparseConvNd):
    """Base class of the sparse quaternion convolutions: a compact pattern and the real one."""

    granularity: str
    _real_pattern: CSRPattern
    _real_source: Tensor  # entries of cat([values, -values]) that the real values are

    def _product(self, x: Tensor) -> Tensor:
        return self.store.product(self, self._convolve_real, x)

    def _convolve_real(
        self, x: Tensor, values: Tensor, pattern: list[Tensor], bias: Tensor | None
    ) -> Tensor:
        """The convolution with the real weight, which has four entries for each kept component."""
        dtype, is_recorded = values.dtype, torch.is_grad_enabled() and values.requires_grad
        if is_recorded and dtype.itemsize == 2 and x.dtype == dtype:
            # a component's gradient is summed over its four entries before it is rounded
            bias = None if bias is None else bias.float()
            return self._convolve_real(x.float(), values.float(), pattern, bias).to(dtype)
        values = values.flatten()
        real = torch.cat([values, -values]).index_select(0, self._real_source)
        return sparse_conv(x, real, self._real_pattern._tensors, bias, self._geometry)

    def dense_weight(self) -> Tensor:
        """(4, m, k, *kernel), zero at dropped entries; differentiable in the kept ones."""
        weight = compact_weight(self.kept_values(), self._pattern_tensors())
        unflattened: Tensor = weight.unflatten(2, (-1, *self.kernel_size))
        return unflattened

    def _real_groups(self) -> int:
        return 1  # groups of quaternion channels are structural zeros of the real weight

    def _set_pattern(self, pattern: CSRPattern) -> None:
        """As the base class, with the real pattern that belongs to the compact one."""
        super()._set_pattern(pattern)
        channels = (self.out_channels // 4, self.in_channels // 4)
        real, source = expand_pattern(pattern, channels, self.groups, self.granularity)
        self._real_pattern, self._real_source = real, source

    def _entry_shape(self) -> tuple[int, ...]:
        return () if self.granularity == "component" else (4,)

    def _matrix(self, weight: Tensor) -> Tensor:
        inputs = self.in_channels // 4 // self.groups
        self._check_weight(weight, (4, self.out_channels // 4, inputs, *self.kernel_size))
        return entries_of(weight.flatten(2), self.granularity)


class _SparseQConv(SparseQConvNd):
    """A sparse quaternion convolution, the twin of the dense one of the same name.

    With m = out_channels / 4 and k = in_channels / 4 / groups, the kept entries are single
    components ("component": the pattern is that of the weight (4, m, k, *kernel) as a matrix
    (4 m, k * taps), values are (nnz)) or quaternions ("quaternion": the pattern is (m, k * taps),
    values are (nnz, 4)). State_dicts are loaded as in `SparseConv2d`.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias,
            padding_mode: as in the dense layer.
        pattern: of the shape above, depending on the granularity.
        values: kept weights in CSR order, copied; if None, drawn as by "he" of `quaternion_init_`
            with the number of kept inputs of each output quaternion as fan_in.
        granularity: "component" or "quaternion".
        device, dtype: of the parameters; by default those of `values`, or the pattern's device and
            torch's default dtype.

    Raises:
        ValueError: settings that the dense layer refuses, an unknown granularity, a pattern or
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
        self._adopt_settings(
            (in_channels, out_channels),
            kernel_size=kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            padding_mode=padding_mode,
        )
        self.granularity = granularity
        shape = self.pattern_shape(in_channels, out_channels, self.kernel_size, groups, granularity)
        check_pattern(type(self).__name__, pattern, shape, f" for {granularity} granularity")
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
        """Draw the values as by "he", with the number of kept inputs as fan_in; zero the bias."""
        draw_kept_(self, self.out_channels // 4, generator)

    @classmethod
    def from_dense(
        cls, module: Any, mask: Tensor | None = None, granularity: str | None = None
    ) -> Any:
        """A layer with the kept weights of a dense one; `to_dense` restores these exactly.

        Args:
            module: the dense twin; it is not modified.
            mask: bool of the weight's shape (4, m, k, *kernel), True = keep; the default is that of
                `SparseQLinear.from_dense`.
            granularity: as in `SparseQLinear.from_dense`.

        Raises:
            ValueError: another type of layer, a mask of another shape or dtype, or a mask that
                splits quaternions, with granularity "quaternion".
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


_conv_type = sparse_conv_type(
    fold=fold_kept_quaternions,
    break_even=("QConv2d {} by component", "QConv2d {} by quaternion"),
)


@_conv_type
class SparseQConv1d(_SparseQConv):
    __doc__ = f"Over one spatial dimension; twin of QConv1d.\n\n{_SparseQConv.__doc__}"
    dims, dense = 1, QConv1d


@_conv_type
class SparseQConv2d(_SparseQConv):
    __doc__ = f"Over two spatial dimensions; twin of QConv2d.\n\n{_SparseQConv.__doc__}"
    dims, dense = 2, QConv2d


@_conv_type
class SparseQConv3d(_SparseQConv):
    __doc__ = f"Over three spatial dimensions; twin of QConv3d.\n\n{_SparseQConv.__doc__}"
    dims, dense = 3, QConv3d
