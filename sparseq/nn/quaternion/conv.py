"""Quaternion convolutions: the twins of torch.nn's, with sizes in real channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from math import prod
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparseq.errors import require, unknown_name
from sparseq.nn.layer_types import layer_type
from sparseq.nn.quaternion.init import INITS, quaternion_init_
from sparseq.nn.quaternion.linear import check_quaternion_sizes, fold_quaternion
from sparseq.nn.twins import conv_of
from sparseq.ops.geometry import Sizes
from sparseq.ops.hamilton import ALGORITHMS, real_weight
from sparseq.ops.hamilton_conv import hamilton_conv

SETTINGS = ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
PADDING_MODES = ["zeros", "reflect", "replicate", "circular"]


class QConvNd(nn.Module):
    """What all quaternion convolutions share."""

    dims: ClassVar[int]
    real: ClassVar[type[nn.Module]]  # the layer of torch.nn it swaps in for
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
        tensors: dict[str, Any],
        names: dict[str, str],
        generator: torch.Generator | None,
    ) -> None:
        """Check and keep the arguments, make and draw the parameters."""
        layer, (in_channels, out_channels) = type(self).__name__, channels
        check_quaternion_sizes(layer, in_channels=in_channels, out_channels=out_channels)
        known = {"init": INITS, "algorithm": ALGORITHMS, "padding_mode": PADDING_MODES}
        for kind, name in names.items():
            if name not in known[kind]:
                raise unknown_name(f"{layer} {kind}", name, known[kind])
            setattr(self, kind, name)
        inside, outside = in_channels // 4, out_channels // 4
        require(
            groups > 0 and inside % groups == 0 and outside % groups == 0,
            layer,
            "groups",
            f"must divide the {inside} and {outside} quaternion channels",
            groups,
        )
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        for name, value in geometry.items():
            setattr(self, name, self._each(name, value))
        rows, columns = (inside, outside) if self.transposed else (outside, inside)
        shape = (4, rows, columns // groups, *self.kernel_size)
        self.weight = nn.Parameter(torch.empty(shape, **tensors))
        zeros = nn.Parameter(torch.empty(out_channels, **tensors)) if bias else None
        self.register_parameter("bias", zeros)
        self.reset_parameters(generator)

    def _each(self, name: str, value: Sizes) -> tuple[int, ...]:
        numbers = tuple(value) if isinstance(value, Sequence) else (value,) * self.dims
        fits = len(numbers) == self.dims and all(isinstance(n, int) for n in numbers)
        least = 0 if "padding" in name else 1
        require(
            fits and min(numbers) >= least,
            type(self).__name__,
            name,
            f"must be one integer or {self.dims}, at least {least}",
            value,
        )
        return numbers

    @classmethod
    def like(cls, module: Any, generator: torch.Generator | None = None) -> Any:
        """A freshly initialized layer with the numbers, bias, device and dtype of a real one."""
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
        """Draw the weight anew, fans times the kernel's area, and zero the bias."""
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

        Its weight has structural zeros where this layer has groups, since those split quaternions.
        """
        weight, groups = self.weight.detach(), self.groups
        if groups > 1:
            parts = weight.unflatten(1, (groups, -1))
            whole = weight.new_zeros(*parts.shape[:3], groups, *parts.shape[3:])
            whole[:, range(groups), :, range(groups)] = parts.movedim(1, 0)
            weight = whole.flatten(3, 4).flatten(1, 2)
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
            same = value == (default,) * self.dims or (name != "stride" and value == default)
            text += "" if same else f", {name}={value}"
        text += "" if self.groups == 1 else f", groups={self.groups}"
        text += "" if self.bias is not None else ", bias=False"
        for name, plain in {"padding_mode": "zeros", "init": "he", "algorithm": "auto"}.items():
            value = getattr(self, name)
            text += "" if value == plain else f", {name}={value}"
        return text


class _Conv(QConvNd):
    """A quaternion convolution, y = W (x) x + b; swaps in for the one of torch.nn.

    Channels lie in four blocks [r | i | j | k]; the weight multiplies on the left (the formula is
    in `sparseq.ops.hamilton_conv`). It has a quarter of the parameters of the real layer.

    Args:
        in_channels, out_channels: real channels, divisible by 4.
        kernel_size, stride, dilation: one number, or one for each dimension.
        padding: the same, on both sides, or "valid" (none) or "same" (stride 1 only).
        groups: groups of QUATERNION channels: group g owns the same range in each of the blocks.
        bias: add a bias of (out_channels), zeros at the start.
        padding_mode: "zeros", "reflect", "replicate" or "circular".
        device, dtype: of the parameters; torch's defaults.
        init: "he", "glorot" or "htorch", see `quaternion_init_`.
        algorithm: "auto", "8" or "16", see `sparseq.ops.hamilton`.
        generator: source of the initial weights; torch's own by default.

    Attributes:
        weight: (4, out_channels / 4, in_channels / 4 / groups, *kernel_size), its r, i, j, k.
        bias: (out_channels) or None.

    Raises:
        ValueError: channels not divisible by 4, numbers that do not fit, an unknown name.

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
        numbers = {"kernel_size": kernel_size, "stride": stride, "dilation": dilation}
        if isinstance(padding, str):
            self.padding: Any = padding
        else:
            numbers["padding"] = padding
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
        self._pads = self._both_sides()

    def _both_sides(self) -> list[int]:
        """Padding before and after, last dimension first, as F.pad takes it."""
        padding = self.padding
        if padding == "same":
            require(
                max(self.stride) == 1,
                type(self).__name__,
                "padding",
                "must be numbers where the stride is not 1",
                padding,
            )
            totals = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True)]
            sides = [(total // 2, total - total // 2) for total in totals]
        elif isinstance(padding, str):
            if padding != "valid":
                raise unknown_name(f"{type(self).__name__} padding", padding, ["valid", "same"])
            sides = [(0, 0)] * self.dims
        else:
            sides = [(number, number) for number in padding]
        return list(chain.from_iterable(reversed(sides)))

    def forward(self, x: Tensor) -> Tensor:
        """(n, in_channels, *spatial) -> (n, out_channels, *spatial'); n may be missing."""
        before, after = self._pads[-2::-2], self._pads[::-2]
        if self.padding_mode != "zeros":
            x, before = F.pad(x, self._pads, self.padding_mode), [0] * self.dims
        elif before != after:
            x, before = F.pad(x, self._pads), [0] * self.dims
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
    known = {"op": "hamilton_conv", "weights": ("weight",), "quaternion": True}
    return layer_type(twin=twin, fold=fold_quaternion, **known)


@_conv_type(nn.Conv1d)
class QConv1d(_Conv):
    __doc__ = f"Over one dimension, for nn.Conv1d.\n\n{_Conv.__doc__}"
    dims, real = 1, nn.Conv1d


@_conv_type(nn.Conv2d)
class QConv2d(_Conv):
    __doc__ = f"Over two dimensions, for nn.Conv2d.\n\n{_Conv.__doc__}"
    dims, real = 2, nn.Conv2d


@_conv_type(nn.Conv3d)
class QConv3d(_Conv):
    __doc__ = f"Over three dimensions, for nn.Conv3d.\n\n{_Conv.__doc__}"
    dims, real = 3, nn.Conv3d
