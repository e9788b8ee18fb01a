"""L2: layers, their initialization and the conversions between them."""

from sparseq.nn.activation import QModReLU, QuaternionToReal
from sparseq.nn.chain import SparseSequential
from sparseq.nn.checkpoints import convert_htorch
from sparseq.nn.color import ImageToQuaternion, rgb_to_quaternion
from sparseq.nn.convert import replace_modules, swap, to_dense
from sparseq.nn.dropout import QDropout
from sparseq.nn.expander import ExpanderLinear, ExpanderQLinear
from sparseq.nn.expander_conv import (
    ExpanderConv1d,
    ExpanderConv2d,
    ExpanderQConv1d,
    ExpanderQConv2d,
)
from sparseq.nn.fold import fold_batchnorm
from sparseq.nn.init import quaternion_init_
from sparseq.nn.norm import QBatchNorm1d, QBatchNorm2d, QBatchNorm3d
from sparseq.nn.pool import QMaxPool2d, VectorMaxPool2d
from sparseq.nn.quaternion import QLinear
from sparseq.nn.quaternion_conv import (
    QConv1d,
    QConv2d,
    QConv3d,
    QConvTranspose1d,
    QConvTranspose2d,
    QConvTranspose3d,
)
from sparseq.nn.residual import Residual
from sparseq.nn.sparse import SparseLinear, SparseQLinear
from sparseq.nn.sparse_conv import SparseConv1d, SparseConv2d, SparseConv3d
from sparseq.nn.sparse_quaternion_conv import SparseQConv1d, SparseQConv2d, SparseQConv3d

__all__ = [
    "ExpanderConv1d",
    "ExpanderConv2d",
    "ExpanderLinear",
    "ExpanderQConv1d",
    "ExpanderQConv2d",
    "ExpanderQLinear",
    "ImageToQuaternion",
    "QBatchNorm1d",
    "QBatchNorm2d",
    "QBatchNorm3d",
    "QConv1d",
    "QConv2d",
    "QConv3d",
    "QConvTranspose1d",
    "QConvTranspose2d",
    "QConvTranspose3d",
    "QDropout",
    "QLinear",
    "QMaxPool2d",
    "QModReLU",
    "QuaternionToReal",
    "SparseConv1d",
    "SparseConv2d",
    "SparseConv3d",
    "Residual",
    "SparseLinear",
    "SparseQConv1d",
    "SparseQConv2d",
    "SparseQConv3d",
    "SparseQLinear",
    "SparseSequential",
    "VectorMaxPool2d",
    "fold_batchnorm",
    "quaternion_init_",
    "replace_modules",
    "rgb_to_quaternion",
    "swap",
    "to_dense",
    "convert_htorch",
]
