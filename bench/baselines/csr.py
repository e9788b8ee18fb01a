"""torch's product of a CSR matrix."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from bench.baselines.forms import Call, Form, quickest


def torch_csr(x: Tensor, weight: Tensor, bias: Tensor | None) -> Form:
    """The quickest of torch's CSR products: int32 or int64 ids, strided or feature-major x.

    As in every row, x (n, k) and the result (n, m) are batch-major, changes of layout included.
    """
    column = None if bias is None else bias[:, None]
    forms = {}
    for ids in (torch.int32, torch.int64):
        matrix = csr_matrix(weight, ids)
        forms[f"{ids} strided"] = _csr_call(matrix, x, column, feature_major=False)
        forms[f"{ids} feature-major"] = _csr_call(matrix, x, column, feature_major=True)
    return quickest(forms)


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
