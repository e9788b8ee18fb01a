"""Activations of quaternion features that depend on the norm of each quaternion."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sparseq.errors import require
from sparseq.nn.layer_types import layer_type
from sparseq.nn.quaternion.linear import check_quaternion_sizes


@layer_type()
class QModReLU(nn.Module):
    """ReLU of the norm plus a learned offset per quaternion channel; the direction is unchanged.

        y = relu(|q| + b) q / |q|

    Features are stored in four blocks [r | i | j | k] along dimension 1. Where q is 0 so is y; the
    gradient of q there is that of y if b >= 0, else 0, and the gradient of b is 0.

    Args:
        num_features: real features, divisible by 4; C = num_features / 4 quaternions.
        offset: initial b. Below 0 it is the negative radius of a dead zone; at 0 the layer is
            initially the identity.
        device, dtype: of the offsets; torch's defaults.

    Attributes:
        bias: b (C).

    Raises:
        ValueError: num_features not divisible by 4, or x with another number of features.

    Source: Arjovsky, Shah & Bengio 2016, "Unitary evolution recurrent neural networks", eq. 8, for
    complex numbers; Trabelsi et al. 2018, section 3.4.
    """

    __constants__: ClassVar[list[str]] = ["num_features", "offset"]

    def __init__(
        self,
        num_features: int,
        offset: float = 0.0,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_quaternion_sizes("QModReLU", num_features=num_features)
        self.num_features, self.offset = num_features, offset
        self.bias = nn.Parameter(torch.empty(num_features // 4, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set every offset to its initial value."""
        nn.init.constant_(self.bias, self.offset)

    def forward(self, x: Tensor) -> Tensor:
        """(N, num_features, ...) -> the same shape."""
        fits = x.dim() >= 2 and x.shape[1] == self.num_features
        rule = f"must have {self.num_features} features"
        require(fits, "QModReLU", "x", rule, tuple(x.shape))
        require(x.is_floating_point(), "QModReLU", "x", "must be floating point", x.dtype)
        parts = x.unflatten(1, (4, -1))
        norm = torch.linalg.vector_norm(parts, dim=1, keepdim=True)
        offset = self.bias.view(-1, *[1] * (x.dim() - 2))
        is_zero = norm == 0
        inverse = (norm + is_zero).reciprocal() * ~is_zero  # its gradient is finite at 0
        scale = (norm + offset >= 0) * (1 + offset * inverse)
        y: Tensor = (parts * scale).flatten(1, 2).to(x.dtype)
        return y

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return str(self.num_features) + (f", offset={self.offset}" if self.offset else "")


@layer_type()
class QuaternionToReal(nn.Module):
    """The norm |q| of each quaternion, (N, 4 C, ...) -> (N, C, ...). Its gradient at 0 is 0.

    Features are stored in four blocks [r | i | j | k] along dimension 1.

    Raises:
        ValueError: a number of features not divisible by 4.

    Source: Gaudet & Maida 2018, "Deep Quaternion Networks".
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, 4 C, ...) -> (N, C, ...)."""
        fits = x.dim() >= 2 and x.shape[1] % 4 == 0
        require(fits, "QuaternionToReal", "x", "must be features (N, 4 C, ...)", tuple(x.shape))
        require(x.is_floating_point(), "QuaternionToReal", "x", "must be floating point", x.dtype)
        norm: Tensor = torch.linalg.vector_norm(x.unflatten(1, (4, -1)), dim=1)
        return norm
