"""Products of the 4x4 matrices of quaternion channels, (4, 4, C), and the Cholesky gradient."""

from __future__ import annotations

import torch
from torch import Tensor


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """a b for each channel; a and b (4, 4, C)."""
    return (a[:, :, None] * b).sum(1)


def transposed_product(matrix: Tensor, vector: Tensor) -> Tensor:
    """M^T v for each channel, (4 C) in four blocks; M (4, 4, C), v (4, C)."""
    return (matrix * vector[:, None]).sum(0).flatten()


def factor_gradient(product: Tensor, inverse: Tensor) -> Tensor:
    """dV = -1/2 W^T (P + P^T) W of W = `inverse_cholesky`(V); symmetric.

    P is the lower triangle of dW W^T with half its diagonal.

    Args:
        product: dW W^T (4, 4, C).
        inverse: W (4, 4, C).

    Source: Murray 2016, "Differentiation of the Cholesky decomposition", applied to the inverse.
    """
    half = torch.ones(4, 4, dtype=product.dtype, device=product.device).tril()
    half.diagonal().fill_(0.5)
    lower = product * half[:, :, None]
    symmetric = lower + lower.transpose(0, 1)
    return matmul(matmul(inverse.transpose(0, 1), symmetric), inverse) / -2
