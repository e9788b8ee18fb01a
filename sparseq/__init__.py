"""sparseq: small and fast pruned, expander-structured and quaternion PyTorch networks.

The public names are loaded on first use, so that `import sparseq` is cheap.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from sparseq._late import after_import
from sparseq._version import __version__

if TYPE_CHECKING:
    from sparseq.compat import PruningWrapper
    from sparseq.compression import compress
    from sparseq.files import load, save
    from sparseq.nn import (
        ExpanderConv1d,
        ExpanderConv2d,
        ExpanderLinear,
        ExpanderQConv1d,
        ExpanderQConv2d,
        ExpanderQLinear,
        QBatchNorm1d,
        QBatchNorm2d,
        QBatchNorm3d,
        QConv1d,
        QConv2d,
        QConv3d,
        QConvTranspose1d,
        QConvTranspose2d,
        QConvTranspose3d,
        QDropout,
        QLinear,
        QMaxPool2d,
        QModReLU,
        QuaternionToReal,
        SparseConv1d,
        SparseConv2d,
        SparseConv3d,
        SparseLinear,
        SparseQConv1d,
        SparseQConv2d,
        SparseQConv3d,
        SparseQLinear,
        fold_batchnorm,
        rgb_to_quaternion,
        swap,
        to_dense,
    )
    from sparseq.pruning import Mask, prune
    from sparseq.reports.profiling import profile

# triton_kernels/ is in this folder where sparseq is installed, and beside it in a checkout
if not os.path.isdir(os.path.join(__path__[0], "triton_kernels")):
    __path__.append(os.path.dirname(__path__[0]))

__all__ = [
    "QConv1d",
    "QConv2d",
    "QConv3d",
    "QConvTranspose1d",
    "QConvTranspose2d",
    "QConvTranspose3d",
    "QLinear",
    "SparseLinear",
    "SparseQLinear",
    "ExpanderLinear",
    "ExpanderQLinear",
    "Mask",
    "prune",
    "compress",
    "to_dense",
    "swap",
    "profile",
    "save",
    "load",
    "PruningWrapper",
    "QBatchNorm1d",
    "QBatchNorm2d",
    "QBatchNorm3d",
    "rgb_to_quaternion",
    "SparseQConv1d",
    "SparseQConv2d",
    "SparseQConv3d",
    "SparseConv1d",
    "SparseConv2d",
    "SparseConv3d",
    "ExpanderConv1d",
    "ExpanderConv2d",
    "ExpanderQConv1d",
    "ExpanderQConv2d",
    "QMaxPool2d",
    "QModReLU",
    "QuaternionToReal",
    "QDropout",
    "fold_batchnorm",
    "__version__",
]

# public name -> the subpackage that defines it
_HOMES = {
    **dict.fromkeys(__all__, "nn"),
    **dict.fromkeys(("Mask", "prune"), "pruning"),
    **dict.fromkeys(("save", "load"), "files"),
    "compress": "compression",
    "profile": "reports.profiling",
    "PruningWrapper": "compat",
}


def _declare_operators() -> None:
    importlib.import_module("sparseq.ops")


# files of torch.export and torch.jit need the operators; the list of commands needs no torch
after_import("torch", _declare_operators)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sparseq' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"sparseq.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_HOMES))
