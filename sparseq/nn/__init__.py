"""L2: layers, their initialization, and the conversions between them."""

from sparseq.nn import torch_layers as torch_layers  # registers torch's own layers
from sparseq.nn.convert import replace_modules, swap, to_dense
from sparseq.nn.expander.conv import (
    ExpanderConv1d,
    ExpanderConv2d,
    ExpanderQConv1d,
    ExpanderQConv2d,
)
from sparseq.nn.expander.linear import ExpanderLinear, ExpanderQLinear
from sparseq.nn.inference.chain import SparseSequential
from sparseq.nn.inference.fold import fold_batchnorm
from sparseq.nn.layer_types import LAYER_TYPES, layer_type
from sparseq.nn.quaternion.activation import QModReLU, QuaternionToReal
from sparseq.nn.quaternion.checkpoints import convert_htorch
from sparseq.nn.quaternion.color import ImageToQuaternion, rgb_to_quaternion
from sparseq.nn.quaternion.conv import QConv1d, QConv2d, QConv3d
from sparseq.nn.quaternion.conv_transpose import (
    QConvTranspose1d,
    QConvTranspose2d,
    QConvTranspose3d,
)
from sparseq.nn.quaternion.dropout import QDropout
from sparseq.nn.quaternion.init import quaternion_init_
from sparseq.nn.quaternion.linear import QLinear
from sparseq.nn.quaternion.norm import QBatchNorm1d, QBatchNorm2d, QBatchNorm3d
from sparseq.nn.quaternion.pool import QMaxPool2d
from sparseq.nn.residual import Residual
from sparseq.nn.sparse.conv import SparseConv1d, SparseConv2d, SparseConv3d
from sparseq.nn.sparse.linear import SparseLinear
from sparseq.nn.sparse.quaternion_conv import SparseQConv1d, SparseQConv2d, SparseQConv3d
from sparseq.nn.sparse.quaternion_linear import SparseQLinear
from sparseq.nn.vector_pool import VectorMaxPool2d

__all__ = [
    "LAYER_TYPES",
    "layer_type",
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
