"""Transposed quaternion convolutions: twins of torch.nn's, with sizes in real channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparseq.errors import require
from sparseq.nn.affine import Affine, mix_components
from sparseq.nn.layer_types import layer_type
from sparseq.nn.quaternion.conv import QConvNd
from sparseq.ops.feature_sum import add_bias
from sparseq.ops.geometry import Sizes
from sparseq.ops.hamilton_conv import hamilton_conv_transpose


class _Transpose(QConvNd):
    """A transposed quaternion convolution: the products W (x) x of each input, summed per output.

    Replaces the one of torch.nn. The result has, in each dimension, (size - 1) stride - 2 padding
    + dilation (kernel_size - 1) + output_padding + 1 entries.

    Args:
        in_channels, out_channels: real channels, divisible by 4.
        kernel_size, stride, padding, dilation: one integer, or one for each dimension.
        output_padding: added to the end of each dimension of the result; less than the stride or
            the dilation.
        groups: groups of QUATERNION channels; each group has the same range of each block.
        bias: add a bias of (out_channels), initially zero.
        padding_mode: "zeros".
        device, dtype, init, algorithm, generator: as in `QConv2d`.

    Attributes:
        weight: (4, in_channels / 4, out_channels / 4 / groups, *kernel_size), r, i, j, k.
        bias: (out_channels) or None.

    Raises:
        ValueError: channels not divisible by 4, invalid settings, an unknown name.
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
        geometry = {
            "kernel_size": kernel_size,
            "stride": stride,
            "padding": padding,
            "output_padding": output_padding,
            "dilation": dilation,
        }
        names = {"init": init, "algorithm": algorithm, "padding_mode": padding_mode}
        self._set_up(
            (in_channels, out_channels),
            geometry,
            groups,
            bias,
            {"device": device, "dtype": dtype},
            names,
            generator,
        )

    def forward(self, x: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """(N, in_channels, *spatial) -> (N, out_channels, *spatial'), or the same without N.

        `output_size` selects one of the output sizes possible with a stride, and overrides
        `output_padding`.
        """
        if output_size is None:
            output_padding: Sequence[int] = self.output_padding
        else:
            output_padding = self._output_padding_for(x, output_size)
        y = hamilton_conv_transpose(
            x,
            self.weight,
            self.stride,
            self.padding,
            output_padding,
            self.dilation,
            self.groups,
            self.algorithm,
        )
        if self.bias is None:
            return y
        return add_bias(y, self.bias.to(y.dtype), y.dim() - self.dims - 1)

    def _output_padding_for(self, x: Tensor, output_size: Sequence[int]) -> list[int]:
        """The output padding with which the result has this size."""
        sizes = list(output_size)[-self.dims :]
        rule = f"must have {self.dims} spatial sizes"
        require(len(sizes) == self.dims, type(self).__name__, "output_size", rule, output_size)
        geometry = zip(
            x.shape[-self.dims :],
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            strict=True,
        )
        smallest = [(n - 1) * s - 2 * p + d * (k - 1) + 1 for n, k, s, p, d in geometry]
        return [size - least for size, least in zip(sizes, smallest, strict=True)]


def fold_quaternion_transposed(layer: Any, affine: Affine) -> Tensor | None:
    """Fold into a weight (4, in / 4, out / 4 / groups, ...)."""
    product = affine.left_product()
    if product is None:
        return None
    rows = layer.weight.double().unflatten(1, (layer.groups, -1)).transpose(2, 3)
    folded = mix_components(product, rows.flatten(1, 2)).view(rows.shape)
    return folded.transpose(2, 3).flatten(1, 2)


def _transpose_type(twin: type[nn.Module]) -> Callable[[Any], Any]:
    return layer_type(
        twin=twin,
        op="hamilton_conv",
        weights=("weight",),
        quaternion=True,
        fold=fold_quaternion_transposed,
    )


@_transpose_type(nn.ConvTranspose1d)
class QConvTranspose1d(_Transpose):
    __doc__ = f"Over one spatial dimension; twin of nn.ConvTranspose1d.\n\n{_Transpose.__doc__}"
    dims, real = 1, nn.ConvTranspose1d


@_transpose_type(nn.ConvTranspose2d)
class QConvTranspose2d(_Transpose):
    __doc__ = f"Over two spatial dimensions; twin of nn.ConvTranspose2d.\n\n{_Transpose.__doc__}"
    dims, real = 2, nn.ConvTranspose2d


@_transpose_type(nn.ConvTranspose3d)
class QConvTranspose3d(_Transpose):
    __doc__ = f"Over three spatial dimensions; twin of nn.ConvTranspose3d.\n\n{_Transpose.__doc__}"
    dims, real = 3, nn.ConvTranspose3d
