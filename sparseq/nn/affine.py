"""The affine map that a normalization in evaluation mode is, and how weights take it in."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparseq.ops.hamilton import PRODUCT


@dataclass(frozen=True)
class Affine:
    """What a normalization does to its F features, in float64.

    Attributes:
        matrix: A (4, 4, F / 4), where it mixes the components of quaternions, else None.
        scale: s (F) where it does not.
        shift: t (F).
    """

    matrix: Tensor | None
    scale: Tensor
    shift: Tensor

    def rows(self, tensor: Tensor) -> Tensor:
        """The linear part, of (F, ...)."""
        if self.matrix is None:
            return tensor * self.scale.view(-1, *[1] * (tensor.dim() - 1))
        return quaternion_rows(self.matrix, tensor.unflatten(0, (4, -1))).flatten(0, 1)

    def quaternion(self) -> Tensor | None:
        """(4, 4, F / 4) if the linear part multiplies by quaternions from the left, else None."""
        matrix = self.matrix
        if matrix is None:
            if len(self.scale) % 4:
                return None
            matrix = torch.eye(4).to(self.scale)[:, :, None] * self.scale.view(4, 1, -1)
        first = matrix[:, 0]
        left = torch.stack([torch.stack([first[c] * sign for c, sign in row]) for row in PRODUCT])
        near = torch.allclose(matrix, left, rtol=0, atol=1e-12 * float(_largest(matrix)))
        return left if near else None

    def after(self, mean: Tensor) -> Affine:
        """This map of features from which a mean (F) is subtracted first."""
        return Affine(self.matrix, self.scale, self.shift - self.rows(mean))


def quaternion_rows(matrix: Tensor, tensor: Tensor) -> Tensor:
    """A w for each quaternion; matrix (4, 4, C), w (4, C, ...)."""
    return torch.einsum("abc,bc...->ac...", matrix, tensor)


def _largest(tensor: Tensor) -> Tensor:
    return tensor.abs().max() if tensor.numel() else tensor.new_zeros(())
