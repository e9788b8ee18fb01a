"""What the layers are measured against, and the gate each measured call passes first."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.timing import fastest

Call = Callable[[], Tensor]
# largest error allowed, relative to the largest magnitude of the float64 result
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 2e-2}


def agrees(got: Tensor, exact: Tensor, what: str) -> None:
    """The gate before a row: AssertionError unless `got` is the float64 result to rounding."""
    assert exact.dtype == torch.float64, "the reference must be float64"
    assert got.shape == exact.shape, f"{what}: shape {tuple(got.shape)}, not {tuple(exact.shape)}"
    error = float((got.detach().double() - exact).abs().max() / exact.abs().max().clamp_min(1e-300))
    assert error <= TOLERANCE[got.dtype], f"{what}: relative error {error:.2e}"


def linear_bf16(x: Tensor, weight: Tensor, bias: Tensor | None) -> Call:
    """F.linear wholly in bfloat16; the conversion is not timed."""
    operands = [None if t is None else t.detach().bfloat16() for t in (x, weight, bias)]
    return lambda: F.linear(*operands)  # type: ignore[arg-type]


def torch_csr(x: Tensor, weight: Tensor, bias: Tensor | None) -> Call:
    """The quickest of torch's CSR products: int32 or int64 ids, strided or feature-major x.

    As in every row, x (n, k) and the result (n, m) are batch-major, changes of layout included.
    """
    column = None if bias is None else bias[:, None]
    forms = {}
    for ids in (torch.int32, torch.int64):
        matrix = csr_matrix(weight, ids)
        forms[f"{ids} strided"] = _csr_call(matrix, x, column, feature_major=False)
        forms[f"{ids} feature-major"] = _csr_call(matrix, x, column, feature_major=True)
    return forms[fastest(forms)]


def _csr_call(matrix: Tensor, x: Tensor, column: Tensor | None, feature_major: bool) -> Call:
    def call() -> Tensor:
        y = matrix @ (x.t().contiguous() if feature_major else x.t())
        return (y if column is None else y + column).t().contiguous()

    return call


def csr_matrix(weight: Tensor, ids: torch.dtype) -> Tensor:
    """A weight as torch's CSR matrix with ids of that type."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch calls its CSR support a beta
        full = weight.detach().to_sparse_csr()
        return torch.sparse_csr_tensor(
            full.crow_indices().to(ids), full.col_indices().to(ids), full.values(), full.shape
        )


def cat_then_linear(x: Tensor, parts: Iterable[Tensor], bias: Tensor | None) -> Tensor:
    """The quaternion layer of the known libraries: build the 4x real weight, call one GEMM.

    Args:
        x: (n, 4 k).
        parts: r, i, j, k, each (m, k), parameters of their own.
        bias: (4 m) or None.
    """
    r, i, j, k = parts
    rows = ([r, -i, -j, -k], [i, r, -k, j], [j, k, r, -i], [k, -j, i, r])
    return F.linear(x, torch.cat([torch.cat(row, dim=1) for row in rows], dim=0), bias)


def cat_then_conv(x: Tensor, parts: Iterable[Tensor], bias: Tensor | None, padding: int) -> Tensor:
    """The same for convolutions: build the 4x real weight, call torch's.

    Args:
        x: (n, 4 k, height, width).
        parts: r, i, j, k, each (m, k, *kernel), parameters of their own.
        bias: (4 m) or None.
        padding: zeros on each side.
    """
    r, i, j, k = parts
    rows = ([r, -i, -j, -k], [i, r, -k, j], [j, k, r, -i], [k, -j, i, r])
    weight = torch.cat([torch.cat(row, dim=1) for row in rows], dim=0)
    return F.conv2d(x, weight, bias, padding=padding)


class CatThenLinear(nn.Module):
    """`cat_then_linear` as a layer with four parameters.

    Args:
        weight: (4, m, k), copied.
        bias: (4 m) or None, copied.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.parts = nn.ParameterList(nn.Parameter(part.clone()) for part in weight.detach())
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """(..., 4 k) -> (..., 4 m)."""
        return cat_then_linear(x, self.parts, self.bias)


class CatThenConv(nn.Module):
    """`cat_then_conv` as a layer with four parameters.

    Args:
        weight: (4, m, k, *kernel), copied.
        bias: (4 m) or None, copied.
        padding: zeros on each side.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, padding: int) -> None:
        super().__init__()
        self.parts = nn.ParameterList(nn.Parameter(part.clone()) for part in weight.detach())
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        """(n, 4 k, height, width) -> (n, 4 m, height', width')."""
        return cat_then_conv(x, self.parts, self.bias, self.padding)
