"""The gate each measured call passes first."""

from __future__ import annotations

import torch
from torch import Tensor

# largest error allowed, relative to the largest magnitude of the float64 result
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 2e-2}


def agrees(got: Tensor, exact: Tensor, what: str) -> None:
    """The gate before a row: AssertionError unless `got` is the float64 result to rounding."""
    assert exact.dtype == torch.float64, "the reference must be float64"
    assert got.shape == exact.shape, f"{what}: shape {tuple(got.shape)}, not {tuple(exact.shape)}"
    error = float((got.detach().double() - exact).abs().max() / exact.abs().max().clamp_min(1e-300))
    assert error <= TOLERANCE[got.dtype], f"{what}: relative error {error:.2e}"
