"""Sparse convolutions: only kept weights take memory, also in gradients and optimizer states."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sparseq.formats import CSRPattern
from sparseq.nn.conv_padding import SETTINGS
from sparseq.nn.inference.eligibility import is_eager_cpu_tensor, is_recorded, tap_orders
from sparseq.nn.sparse.conv_nd import SparseConvNd, sparse_conv_type
from sparseq.nn.sparse.linear import fold_kept_rows
from sparseq.nn.sparse.patterned import check_pattern, checked_mask
from sparseq.nn.twins import match_twin
from sparseq.ops.choice import measured
from sparseq.ops.geometry import Sizes
from sparseq.ops.sparse_conv import conv_weight
from sparseq.ops.sparse_conv_chain import chain_checked


class _SparseConv(SparseConvNd):
    """A sparse convolution, the twin of torch.nn's (formula in `sparseq.ops.sparse_conv`).

    The entries of the state_dict are `values`, `row_ptr`, `col_idx` and `bias`. Loading a
    state_dict with another pattern replaces the layer's; from that of the dense twin (`weight`) the
    kept entries are loaded.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias,
            padding_mode: as in the layer of torch.nn.
        pattern: of the weight as a matrix, `weight.flatten(1)`: (out_channels, in_channels
            / groups * kernel taps).
        values: (nnz) kept weights in CSR order, copied; if None, they and the bias are drawn from
            U(-b, b) with b = 1 / sqrt(kept inputs of the row). The bias is zero if values are
            passed.
        device, dtype: of the parameters; by default those of `values`, or the pattern's device and
            torch's default dtype.

    Attributes:
        values: (nnz) parameter.
        row_ptr, col_idx: int32, copies; row_ptr_t, col_idx_t, perm: their transpose, not saved.

    Raises:
        ValueError: settings that torch.nn's layer refuses, a pattern or values of another shape,
            values that are not floating point.
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
        self._adopt_settings(
            (in_channels, out_channels),
            kernel_size=kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            padding_mode=padding_mode,
        )
        shape = self.pattern_shape(in_channels, out_channels, self.kernel_size, groups)
        check_pattern(type(self).__name__, pattern, shape)
        self._register(pattern, values, bias, device, dtype)
        if values is None:
            self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw values and bias from U(-b, b), b = 1 / sqrt(kept inputs of the row)."""
        self._draw_by_inputs(generator)

    @classmethod
    def from_dense(cls, module: Any, mask: Tensor | None = None) -> Any:
        """A layer with the kept weights of a dense one; `to_dense` restores these exactly.

        Args:
            module: the dense twin; it is not modified.
            mask: bool of the weight's shape, True = keep; by default keeps weights other than 0.

        Raises:
            ValueError: another type of layer, a mask of another shape or dtype.
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
        """The twin's weight, zero at dropped entries; differentiable in the kept ones."""
        return conv_weight(self.kept_values(), self._pattern_tensors(), self.kernel_size)

    def _matrix(self, weight: Tensor) -> Tensor:
        shape = (self.out_channels, self.in_channels // self.groups, *self.kernel_size)
        self._check_weight(weight, shape)
        return weight.flatten(1)


_conv_type = sparse_conv_type(fold=fold_kept_rows, break_even=("Conv2d {}", "Conv2d {} by slice"))


@_conv_type
class SparseConv1d(_SparseConv):
    __doc__ = f"Over one spatial dimension; twin of nn.Conv1d.\n\n{_SparseConv.__doc__}"
    dims, dense = 1, nn.Conv1d


@_conv_type
class SparseConv2d(_SparseConv):
    __doc__ = f"Over two spatial dimensions; twin of nn.Conv2d.\n\n{_SparseConv.__doc__}"
    dims, dense = 2, nn.Conv2d

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, *spatial) -> (N, out_channels, *spatial'), or the same without N."""
        if not is_eager_cpu_tensor(x) or is_recorded(x, (self,)) or not self._chain_is_faster(x):
            return super().forward(x)
        values = self.kept_values()
        bias = values.new_empty(0) if self.bias is None else self.bias
        return chain_checked(
            x,
            [values],
            [bias],
            self._pattern_tensors(),
            tap_orders([self]),
            self._geometry.flat(),
            [0],
            [1],
        )

    def _chain_is_faster(self, x: Tensor) -> bool:
        """Whether a chain of only this layer was measured to be faster than `sparse_conv`."""
        kernel, stride, padding, dilation, _, _ = self._geometry
        keeps_size = stride == (1, 1) and all(
            2 * p == d * (k - 1) for k, p, d in zip(kernel, padding, dilation, strict=True)
        )
        if not keeps_size or self._pads or x.dim() != 4 or x.shape[1] != self.in_channels:
            return False
        if x.dtype != self.kept_values().dtype:  # `sparse_conv` says so
            return False
        area = x.shape[2] * x.shape[3]
        chain, map_size = measured().conv_chain, area * max(self.in_channels, self.out_channels)
        is_faster = chain.pays_alone(x.shape[0], area, kernel == (3, 3))
        return map_size > 0 and is_faster and chain.fits(map_size)


@_conv_type
class SparseConv3d(_SparseConv):
    __doc__ = f"Over three spatial dimensions; twin of nn.Conv3d.\n\n{_SparseConv.__doc__}"
    dims, dense = 3, nn.Conv3d
