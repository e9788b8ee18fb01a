"""Helpers on plain buffers: compiled if they are built, otherwise their NumPy twins."""

from __future__ import annotations

import importlib.util
import os
import warnings
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from sparseq.ops import build

Ids = NDArray[np.int32]


_modules: list[ModuleType | None] = []  # the compiled helpers, once it is known that they load


def compiled() -> ModuleType | None:
    """The compiled helpers, or None if not built (yet) or if `SPARSEQ_BACKEND` is `reference`.

    Unlike an op, a helper never waits for a build: its NumPy twin returns the same.
    """
    if os.environ.get("SPARSEQ_BACKEND") == "reference":
        return None
    if not _modules:
        path = build.existing("host")
        if path is not None:
            _modules.append(_load(path))
    return _modules[0] if _modules else None


def _load(path: Path) -> ModuleType | None:
    """The module in a file; None, with a warning, where it is none that this Python loads."""
    spec = importlib.util.spec_from_file_location("sparseq_host", path)
    assert spec is not None
    assert spec.loader is not None
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except (ImportError, OSError) as error:
        text = f"sparseq runs its helpers in NumPy: {error}; remove {path.parent}"
        warnings.warn(text, stacklevel=2)
        return None
    return module


def transpose_csr(row_ptr: Ids, col_idx: Ids, columns: int) -> tuple[Ids, Ids, Ids]:
    """Transpose a checked CSR pattern.

    Args:
        row_ptr: (m + 1) int32.
        col_idx: (nnz) int32, strictly increasing within each row, in 0..columns-1.
        columns: number of columns k.

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
