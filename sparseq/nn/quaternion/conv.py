"""Quaternion convolutions: twins of torch.nn's convolutions, with sizes in real channels."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparseq.errors import require, unknown_name
from sparseq.nn.conv_padding import SETTINGS, pad_argument, padding_sides, per_dimension
from sparseq.nn.layer_types import layer_type
from sparseq.nn.quaternion.init import INITS, quaternion_init_
from sparseq.nn.quaternion.linear import check_quaternion_sizes, fold_quaternion
from sparseq.nn.twins import conv_of
from sparseq.ops.geometry import Sizes, check_image
from sparseq.ops.hamilton import ALGORITHMS, real_weight
from sparseq.ops.hamilton_conv import hamilton_conv

PADDING_MODES = ["zeros", "reflect", "replicate", "circular"]
NAMED_PADDINGS = ["valid", "same"]


class QConvNd(nn.Module):
    """Base class of all quaternion convolutions."""

    dims: ClassVar[int]
    real: ClassVar[type[nn.Module]]  # the twin in torch.nn
    transposed: ClassVar[bool] = False
    weight: nn.Parameter
    bias: nn.Parameter | None
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: Any
    padding_mode: str
    init: str
    algorithm: str

    def _set_up(
        self,
        channels: tuple[int, int],
        geometry: dict[str, Any],
        groups: int,
        bias: bool,
        factory: dict[str, Any],
        names: dict[str, str],
        generator: torch.Generator | None,
    ) -> None:
        """Check and store the arguments, create and initialize the parameters."""
        layer, (in_channels, out_channels) = type(self).__name__, channels
        check_quaternion_sizes(layer, in_channels=in_channels, out_channels=out_channels)
        choices = {"init": INITS, "algorithm": ALGORITHMS, "padding_mode": PADDING_MODES}
        for argument, name in names.items():
            if name not in choices[argument]:
                raise unknown_name(f"{layer} {argument}", name, choices[argument])
            setattr(self, argument, name)
        inputs, outputs = in_channels // 4, out_channels // 4
        require(
            groups > 0 and inputs % groups == 0 and outputs % groups == 0,
            layer,
            "groups",
            f"must divide the {inputs} and {outputs} quaternion channels",
            groups,
        )
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        for name, value in geometry.items():
            setattr(self, name, per_dimension(layer, name, value, self.dims))
        rows, columns = (inputs, outputs) if self.transposed else (outputs, inputs)
        shape = (4, rows, columns // groups, *self.kernel_size)
        self.weight = nn.Parameter(torch.empty(shape, **factory))
        biases = nn.Parameter(torch.empty(out_channels, **factory)) if bias else None
        self.register_parameter("bias", biases)
        self.reset_parameters(generator)

    @classmethod
    def like(cls, module: Any, generator: torch.Generator | None = None) -> Any:
        """A freshly initialized layer with the settings, bias, device and dtype of a real one."""
        names = (*SETTINGS, *(("output_padding",) if cls.transposed else ()))
        settings = {name: getattr(module, name) for name in names}
        return cls(
            module.in_channels,
            module.out_channels,
            **settings,
            bias=module.bias is not None,
            device=module.weight.device,
            dtype=module.weight.dtype,
            generator=generator,
        )

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Initialize the weight, with the kernel's area as part of both fans, and zero the bias."""
        area = prod(self.kernel_size)
        fans = (
            area * self.in_channels // 4 // self.groups,
            area * self.out_channels // 4 // self.groups,
        )
        quaternion_init_(self.weight, self.init, *fans, generator=generator)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def to_dense(self) -> Any:
        """The real layer that computes the same function; parameters are copied.

        Groups become structural zeros of its weight, since groups of quaternion channels are not
        groups of consecutive real channels.
        """
        weight, groups = self.weight.detach(), self.groups
        if groups > 1:
            parts = weight.unflatten(1, (groups, -1))
            ungrouped = weight.new_zeros(*parts.shape[:3], groups, *parts.shape[3:])
            ungrouped[:, range(groups), :, range(groups)] = parts.movedim(1, 0)
            weight = ungrouped.flatten(3, 4).flatten(1, 2)
        if self.transposed:
            weight = real_weight(weight.transpose(1, 2)).transpose(0, 1).contiguous()
        else:
            weight = real_weight(weight)
        return conv_of(self.real, weight, self)

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"
        defaults = {"stride": 1, "padding": 0, "output_padding": 0, "dilation": 1}
        for name, default in defaults.items():
            value = getattr(self, name, default)
            is_default = value == (default,) * self.dims or (name != "stride" and value == default)
            text += "" if is_default else f", {name}={value}"
        text += "" if self.groups == 1 else f", groups={self.groups}"
        text += "" if self.bias is not None else ", bias=False"
        for name, usual in {"padding_mode": "zeros", "init": "he", "algorithm": "auto"}.items():
            value = getattr(self, name)
            text += "" if value == usual else f", {name}={value}"
        return text


class _Conv(QConvNd):
    """A quaternion convolution, y = W (x) x + b; replaces the one of torch.nn.

    Channels are stored in four blocks [r | i | j | k]; the weight is the left factor of the
    Hamilton product (formula in `sparseq.ops.hamilton_conv`). The weight has a quarter of the
    parameters of the real layer's.

    Args:
        in_channels, out_channels: real channels, divisible by 4.
        kernel_size, stride, dilation: one integer, or one for each dimension.
        padding: likewise, added on both sides; or "valid" (none) or "same" (stride 1 only).
        groups: groups of QUATERNION channels; each group has the same range of each block.
        bias: add a bias of (out_channels), initially zero.
        padding_mode: "zeros", "reflect", "replicate" or "circular".
        device, dtype: of the parameters; torch's defaults.
        init: "he", "glorot" or "htorch", see `quaternion_init_`.
        algorithm: "auto", "8" or "16", see `sparseq.ops.hamilton`.
        generator: source of the initial weights; torch's default generator if None.

    Attributes:
        weight: (4, out_channels / 4, in_channels / 4 / groups, *kernel_size), r, i, j, k.
        bias: (out_channels) or None.

    Raises:
        ValueError: channels not divisible by 4, invalid settings, an unknown name.

    Source: Gaudet & Maida 2018, "Deep Quaternion Networks", section 3.3.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes | str = 0,
        dilation: Sizes = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        init: str = "he",
        algorithm: str = "auto",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        geometry = {"kernel_size": kernel_size, "stride": stride, "dilation": dilation}
        if isinstance(padding, str):
            self.padding: Any = padding
        else:
            geometry["padding"] = padding
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
        self._check_padding()
        self._pads = pad_argument(padding_sides(self))

    def _check_padding(self) -> None:
        """ValueError for an unknown named padding, or "same" with a stride."""
        layer, padding = type(self).__name__, self.padding
        if isinstance(padding, str) and padding not in NAMED_PADDINGS:
            raise unknown_name(f"{layer} padding", padding, NAMED_PADDINGS)
        fits = padding != "same" or max(self.stride) == 1
        require(fits, layer, "padding", "must be integers if a stride is above 1", padding)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, *spatial) -> (N, out_channels, *spatial'), or the same without N."""
        before, after = self._pads[-2::-2], self._pads[::-2]
        if self.padding_mode != "zeros" or before != after:
            check_image(type(self).__name__, x, self.in_channels, self.dims)
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            x, before = F.pad(x, self._pads, mode), [0] * self.dims
        return hamilton_conv(
            x,
            self.weight,
            self.bias,
            self.stride,
            before,
            self.dilation,
            self.groups,
            self.algorithm,
        )


def _conv_type(twin: type[nn.Module]) -> Callable[[Any], Any]:
    return layer_type(
        twin=twin, op="hamilton_conv", weights=("weight",), quaternion=True, fold=fold_quaternion
    )


@_conv_type(nn.Conv1d)
class QConv1d(_Conv):
    __doc__ = f"Over one spatial dimension; twin of nn.Conv1d.\n\n{_Conv.__doc__}"
    dims, real = 1, nn.Conv1d


@_conv_type(nn.Conv2d)
class QConv2d(_Conv):
    __doc__ = f"Over two spatial dimensions; twin of nn.Conv2d.\n\n{_Conv.__doc__}"
    dims, real = 2, nn.Conv2d


@_conv_type(nn.Conv3d)
class QConv3d(_Conv):
    __doc__ = f"Over three spatial dimensions; twin of nn.Conv3d.\n\n{_Conv.__doc__}"
    dims, real = 3, nn.Conv3d
