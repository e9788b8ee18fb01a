"""The affine map that a normalization computes in evaluation mode, to be folded into weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparseq.ops.hamilton import PRODUCT


@dataclass(frozen=True)
class Affine:
    """y = s x + t of F features, or y = A x + t of F / 4 quaternions; all tensors in float64.

    Attributes:
        matrix: A (4, 4, F / 4) if the map mixes the components of a quaternion, else None.
        scale: s (F); used only if `matrix` is None.
        shift: t (F).
    """

    matrix: Tensor | None
    scale: Tensor
    shift: Tensor

    def linear(self, tensor: Tensor) -> Tensor:
        """The linear part applied to (F, ...), such as the rows of a weight."""
        if self.matrix is None:
            return tensor * self.scale.view(-1, *[1] * (tensor.dim() - 1))
        return mix_components(self.matrix, tensor.unflatten(0, (4, -1))).flatten(0, 1)

    def left_product(self) -> Tensor | None:
        """(4, 4, F / 4) if the linear part is a product with quaternions on the left, else None."""
        matrix = self.matrix
        if matrix is None:
            if len(self.scale) % 4:
                return None
            matrix = torch.eye(4).to(self.scale)[:, :, None] * self.scale.view(4, 1, -1)
        factor = matrix[:, 0]
        rows = [torch.stack([factor[c] * sign for c, sign in row]) for row in PRODUCT]
        product = torch.stack(rows)
        largest = float(matrix.abs().max()) if matrix.numel() else 0.0
        is_product = torch.allclose(matrix, product, rtol=0, atol=1e-12 * largest)
        return product if is_product else None

    def of_centered(self, mean: Tensor) -> Affine:
        """x -> this map of x - mean, with mean (F)."""
        return Affine(self.matrix, self.scale, self.shift - self.linear(mean))


def mix_components(matrix: Tensor, tensor: Tensor) -> Tensor:
    """A w for each quaternion w: matrix (4, 4, C), tensor (4, C, ...) -> (4, C, ...)."""
    return torch.einsum("abc,bc...->ac...", matrix, tensor)
