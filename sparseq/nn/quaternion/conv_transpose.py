"""Transposed quaternion convolutions: the twins of torch.nn's, with sizes in real channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparseq.errors import require
from sparseq.nn.affine import Affine, quaternion_rows
from sparseq.nn.layer_types import layer_type
from sparseq.nn.quaternion.conv import QConvNd
from sparseq.ops.geometry import Sizes
from sparseq.ops.hamilton_conv import hamilton_conv_transpose


class _Transpose(QConvNd):
    """A transposed quaternion convolution, the W (x) x of each input spread over the outputs.

    Swaps in for the one of torch.nn. The result has, in each dimension, (size - 1) stride
    - 2 padding + dilation (kernel_size - 1) + output_padding + 1 entries.

    Args:
        in_channels, out_channels: real channels, divisible by 4.
        kernel_size, stride, padding, dilation: one number, or one for each dimension.
        output_padding: added to one side of the result, below stride or dilation.
        groups: groups of QUATERNION channels: group g owns the same range in each of the blocks.
        bias: add a bias of (out_channels), zeros at the start.
        padding_mode: "zeros".
        device, dtype, init, algorithm, generator: as in `QConv2d`.

    Attributes:
        weight: (4, in_channels / 4, out_channels / 4 / groups, *kernel_size), its r, i, j, k.
        bias: (out_channels) or None.

    Raises:
        ValueError: channels not divisible by 4, numbers that do not fit, an unknown name.
    """

    transposed = True
    output_padding: tuple[int, ...]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes = 0,
        output_padding: Sizes = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Sizes = 1,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        init: str = "he",
        algorithm: str = "auto",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        require(
            padding_mode == "zeros",
            type(self).__name__,
            "padding_mode",
            "must be 'zeros' in a transposed convolution",
            padding_mode,
        )
        numbers = {
            "kernel_size": kernel_size,
            "stride": stride,
            "padding": padding,
            "output_padding": output_padding,
            "dilation": dilation,
        }
        names = {"init": init, "algorithm": algorithm, "padding_mode": padding_mode}
        self._set_up(
            (in_channels, out_channels),
            numbers,
            groups,
            bias,
            {"device": device, "dtype": dtype},
            names,
            generator,
        )

    def forward(self, x: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """(n, in_channels, *spatial) -> (n, out_channels, *spatial'); n may be missing.

        `output_size` chooses among the sizes a stride allows, and replaces `output_padding`.
        """
        extra = self.output_padding if output_size is None else self._reach(x, output_size)
        y = hamilton_conv_transpose(
            x,
            self.weight,
            self.stride,
            self.padding,
            extra,
            self.dilation,
            self.groups,
            self.algorithm,
        )
        return y if self.bias is None else y + self.bias.to(y.dtype).view(-1, *[1] * self.dims)

    def _reach(self, x: Tensor, output_size: Sequence[int]) -> list[int]:
        """The output padding that makes the result as large as asked."""
        wanted = list(output_size)[-self.dims :]
        numbers = zip(
            x.shape[-self.dims :],
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            strict=True,
        )
        least = [(n - 1) * s - 2 * p + d * (k - 1) + 1 for n, k, s, p, d in numbers]
        require(
            len(wanted) == self.dims,
            type(self).__name__,
            "output_size",
            f"must have {self.dims} spatial sizes",
            output_size,
        )
        return [size - small for size, small in zip(wanted, least, strict=True)]


def fold_quaternion_transposed(layer: Any, affine: Affine) -> Tensor | None:
    """Weight (4, in / 4, out / 4 / groups, ...)."""
    left = affine.quaternion()
    if left is None:
        return None
    rows = layer.weight.double().unflatten(1, (layer.groups, -1)).transpose(2, 3)
    new = quaternion_rows(left, rows.flatten(1, 2)).view(rows.shape)
    return new.transpose(2, 3).flatten(1, 2)


def _transpose_type(twin: type[nn.Module]) -> Callable[[Any], Any]:
    known = {"op": "hamilton_conv", "weights": ("weight",), "quaternion": True}
    return layer_type(twin=twin, fold=fold_quaternion_transposed, **known)


@_transpose_type(nn.ConvTranspose1d)
class QConvTranspose1d(_Transpose):
    __doc__ = f"Over one dimension, for nn.ConvTranspose1d.\n\n{_Transpose.__doc__}"
    dims, real = 1, nn.ConvTranspose1d


@_transpose_type(nn.ConvTranspose2d)
class QConvTranspose2d(_Transpose):
    __doc__ = f"Over two dimensions, for nn.ConvTranspose2d.\n\n{_Transpose.__doc__}"
    dims, real = 2, nn.ConvTranspose2d


@_transpose_type(nn.ConvTranspose3d)
class QConvTranspose3d(_Transpose):
    __doc__ = f"Over three dimensions, for nn.ConvTranspose3d.\n\n{_Transpose.__doc__}"
    dims, real = 3, nn.ConvTranspose3d
