"""Sparse convolutions: only the kept weights exist, in memory, gradients and optimizer state."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sparseq.errors import require
from sparseq.formats import CSRPattern
from sparseq.nn.inference.eligibility import is_plain, is_recorded, tap_orders
from sparseq.nn.sparse.conv_nd import SETTINGS, SparseConvNd, sparse_conv_type
from sparseq.nn.sparse.linear import fold_kept_rows
from sparseq.nn.sparse.patterned import checked_mask
from sparseq.nn.twins import match_twin
from sparseq.ops.choice import measured
from sparseq.ops.geometry import Sizes
from sparseq.ops.sparse_conv import conv_weight, sparse_conv
from sparseq.ops.sparse_conv_chain import chain_checked


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
        return self._convolve(x, self._product)

    def _product(self, x: Tensor) -> Tensor:
        return self.store.product(self, sparse_conv, x, self._geometry)

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
        return conv_weight(self.kept_values(), self._pattern_tensors(), self.kernel_size)

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


_real_type = sparse_conv_type(fold=fold_kept_rows, break_even=("Conv2d {}", "Conv2d {} by slice"))


@_real_type
class SparseConv1d(_SparseConv):
    __doc__ = f"Over one dimension, for nn.Conv1d.\n\n{_SparseConv.__doc__}"
    dense = nn.Conv1d


@_real_type
class SparseConv2d(_SparseConv):
    __doc__ = f"Over two dimensions, for nn.Conv2d.\n\n{_SparseConv.__doc__}"
    dense = nn.Conv2d

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, *spatial) -> (N, out_channels, *spatial'); N may be missing."""
        if not is_plain(x) or is_recorded(x, (self,)) or not self._is_quicker_alone(x):
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

    def _is_quicker_alone(self, x: Tensor) -> bool:
        """Whether a chain of this layer alone was measured to be quicker than `sparse_conv`."""
        kernel, stride, padding, dilation, _, _ = self._geometry
        same = stride == (1, 1) and all(
            2 * p == d * (k - 1) for k, p, d in zip(kernel, padding, dilation, strict=True)
        )
        if not same or self._pads or x.dim() != 4 or x.shape[1] != self.in_channels:
            return False
        area = x.shape[2] * x.shape[3]
        chain, numbers = measured().conv_chain, area * max(self.in_channels, self.out_channels)
        pays = chain.pays_alone(x.shape[0], area, kernel == (3, 3))
        return numbers > 0 and pays and chain.fits(numbers)


@_real_type
class SparseConv3d(_SparseConv):
    __doc__ = f"Over three dimensions, for nn.Conv3d.\n\n{_SparseConv.__doc__}"
    dense = nn.Conv3d
