"""Helpers on plain buffers: the compiled ones where there are any, else their NumPy twins."""

from __future__ import annotations

import importlib.util
import os
from functools import cache
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from sparseq.ops import build

Ids = NDArray[np.int32]


@cache
def compiled() -> ModuleType | None:
    """The compiled helpers, or None where they cannot be built or are not wanted."""
    if os.environ.get("SPARSEQ_BACKEND") == "reference":
        return None
    try:
        path = build.library("host")
    except build.BuildError:  # the first op call says so
        return None
    spec = importlib.util.spec_from_file_location("sparseq_host", path)
    if spec is None or spec.loader is None:
        return None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def transpose_csr(row_ptr: Ids, col_idx: Ids, columns: int) -> tuple[Ids, Ids, Ids]:
    """Transpose of a checked CSR pattern.

    Args:
        row_ptr: (m + 1) int32.
        col_idx: (nnz) int32, rising within each row, in 0..columns-1.
        columns: k.

    Returns:
        row_ptr_t (k + 1), col_idx_t (nnz), perm (nnz), all int32; entry p of the transpose is
        entry perm[p] of the pattern.
    """
    module = compiled()
    function = transpose_csr_numpy if module is None else module.transpose_csr
    return function(row_ptr, col_idx, columns)


def transpose_csr_numpy(row_ptr: Ids, col_idx: Ids, columns: int) -> tuple[Ids, Ids, Ids]:
    """The NumPy twin of `transpose_csr`."""
    rows = np.repeat(np.arange(len(row_ptr) - 1, dtype=np.int32), np.diff(row_ptr))
    perm = np.argsort(col_idx, kind="stable").astype(np.int32)
    counts = np.bincount(col_idx, minlength=columns)
    row_ptr_t = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return row_ptr_t, rows[perm], perm
