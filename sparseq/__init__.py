"""sparseq: small and fast pruned, expander-structured and quaternion PyTorch networks.

The public names are loaded when they are first used, so that `import sparseq` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sparseq._version import __version__

if TYPE_CHECKING:
    from sparseq.compat import PruningWrapper
    from sparseq.compression import compress
    from sparseq.files import load, save
    from sparseq.nn.activation import QModReLU, QuaternionToReal
    from sparseq.nn.color import rgb_to_quaternion
    from sparseq.nn.convert import swap, to_dense
    from sparseq.nn.dropout import QDropout
    from sparseq.nn.expander import ExpanderLinear, ExpanderQLinear
    from sparseq.nn.expander_conv import (
        ExpanderConv1d,
        ExpanderConv2d,
        ExpanderQConv1d,
        ExpanderQConv2d,
    )
    from sparseq.nn.fold import fold_batchnorm
    from sparseq.nn.norm import QBatchNorm1d, QBatchNorm2d, QBatchNorm3d
    from sparseq.nn.pool import QMaxPool2d
    from sparseq.nn.quaternion import QLinear
    from sparseq.nn.quaternion_conv import (
        QConv1d,
        QConv2d,
        QConv3d,
        QConvTranspose1d,
        QConvTranspose2d,
        QConvTranspose3d,
    )
    from sparseq.nn.sparse import SparseLinear, SparseQLinear
    from sparseq.nn.sparse_conv import SparseConv1d, SparseConv2d, SparseConv3d
    from sparseq.nn.sparse_quaternion_conv import SparseQConv1d, SparseQConv2d, SparseQConv3d
    from sparseq.profiling import profile
    from sparseq.pruning import Mask, prune

__all__ = [
    "QConv1d", "QConv2d", "QConv3d", "QConvTranspose1d", "QConvTranspose2d", "QConvTranspose3d",
    "QLinear", "SparseLinear", "SparseQLinear", "ExpanderLinear", "ExpanderQLinear", "Mask",
    "prune", "compress", "to_dense", "swap", "profile", "save", "load", "PruningWrapper",
    "QBatchNorm1d", "QBatchNorm2d", "QBatchNorm3d", "rgb_to_quaternion",
    "SparseQConv1d", "SparseQConv2d", "SparseQConv3d",
    "SparseConv1d", "SparseConv2d", "SparseConv3d", "ExpanderConv1d", "ExpanderConv2d",
    "ExpanderQConv1d", "ExpanderQConv2d",
    "QMaxPool2d", "QModReLU", "QuaternionToReal", "QDropout", "fold_batchnorm",
    "__version__",
]  # fmt: skip

_HOMES = {
    "QLinear": "nn.quaternion",
    **dict.fromkeys(("QConv1d", "QConv2d", "QConv3d"), "nn.quaternion_conv"),
    **dict.fromkeys(
        ("QConvTranspose1d", "QConvTranspose2d", "QConvTranspose3d"), "nn.quaternion_conv"
    ),
    "SparseLinear": "nn.sparse",
    "SparseQLinear": "nn.sparse",
    **dict.fromkeys(("SparseConv1d", "SparseConv2d", "SparseConv3d"), "nn.sparse_conv"),
    **dict.fromkeys(
        ("SparseQConv1d", "SparseQConv2d", "SparseQConv3d"), "nn.sparse_quaternion_conv"
    ),
    "ExpanderLinear": "nn.expander",
    **dict.fromkeys(
        ("ExpanderConv1d", "ExpanderConv2d", "ExpanderQConv1d", "ExpanderQConv2d"),
        "nn.expander_conv",
    ),
    "ExpanderQLinear": "nn.expander",
    "QBatchNorm1d": "nn.norm",
    "QBatchNorm2d": "nn.norm",
    "QBatchNorm3d": "nn.norm",
    "rgb_to_quaternion": "nn.color",
    "QMaxPool2d": "nn.pool",
    "QModReLU": "nn.activation",
    "QuaternionToReal": "nn.activation",
    "QDropout": "nn.dropout",
    "fold_batchnorm": "nn.fold",
    "Mask": "pruning",
    "prune": "pruning",
    "compress": "compression",
    "to_dense": "nn.convert",
    "swap": "nn.convert",
    "profile": "profiling",
    "save": "files",
    "load": "files",
    "PruningWrapper": "compat",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sparseq' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"sparseq.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_HOMES))
