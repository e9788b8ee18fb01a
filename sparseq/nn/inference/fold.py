"""`fold_batchnorm`: normalization by running statistics, taken into the layer before it.

A normalization in evaluation mode is an affine map of its features, y = s x + t for each, or for
each quaternion y = A x + t with A (4, 4); the layer before it is linear, so one layer does both.
A new kind of layer is one entry in FOLDS.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparseq.nn.expander.conv import (
    ExpanderConv1d,
    ExpanderConv2d,
    ExpanderQConv1d,
    ExpanderQConv2d,
)
from sparseq.nn.expander.linear import ExpanderLinear, ExpanderQLinear
from sparseq.nn.inference.adjacent import adjacent_pairs
from sparseq.nn.inference.chain import chain_sequentials
from sparseq.nn.quaternion.conv import QConv1d, QConv2d, QConv3d
from sparseq.nn.quaternion.conv_transpose import (
    QConvTranspose1d,
    QConvTranspose2d,
    QConvTranspose3d,
)
from sparseq.nn.quaternion.linear import QLinear
from sparseq.nn.quaternion.norm import QBatchNorm, QBatchNorm1d, QBatchNorm2d, QBatchNorm3d
from sparseq.nn.sparse.conv import SparseConv1d, SparseConv2d, SparseConv3d
from sparseq.nn.sparse.linear import SparseLinear
from sparseq.nn.sparse.quaternion_conv import SparseQConv1d, SparseQConv2d, SparseQConv3d
from sparseq.nn.sparse.quaternion_linear import SparseQLinear
from sparseq.ops.hamilton import PRODUCT
from sparseq.ops.quaternion_whiten import inverse_cholesky, matmul

_log = logging.getLogger("sparseq")

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, QBatchNorm1d, QBatchNorm2d, QBatchNorm3d)


@dataclass(frozen=True)
class Affine:
    """What a normalization does to its F features, in float64.

    Attributes:
        matrix: A (4, 4, F / 4), where it mixes the components of quaternions, else None.
        scale: s (F) where it does not.
        shift: t (F).
    """

    matrix: Tensor | None
    scale: Tensor
    shift: Tensor

    def rows(self, tensor: Tensor) -> Tensor:
        """The linear part, of (F, ...)."""
        if self.matrix is None:
            return tensor * self.scale.view(-1, *[1] * (tensor.dim() - 1))
        return quaternion_rows(self.matrix, tensor.unflatten(0, (4, -1))).flatten(0, 1)

    def quaternion(self) -> Tensor | None:
        """(4, 4, F / 4) if the linear part multiplies by quaternions from the left, else None."""
        matrix = self.matrix
        if matrix is None:
            if len(self.scale) % 4:
                return None
            matrix = torch.eye(4).to(self.scale)[:, :, None] * self.scale.view(4, 1, -1)
        first = matrix[:, 0]
        left = torch.stack([torch.stack([first[c] * sign for c, sign in row]) for row in PRODUCT])
        near = torch.allclose(matrix, left, rtol=0, atol=1e-12 * float(_largest(matrix)))
        return left if near else None


def quaternion_rows(matrix: Tensor, tensor: Tensor) -> Tensor:
    """A w for each quaternion; matrix (4, 4, C), w (4, C, ...)."""
    return torch.einsum("abc,bc...->ac...", matrix, tensor)


def fold_batchnorm(model: nn.Module) -> nn.Module:
    """A deep copy of a model for inference, normalizations folded into the layers before them.

    Folded are nn.BatchNorm1d/2d/3d and QBatchNorm1d/2d/3d that are in evaluation mode, have running
    statistics and follow, alone, a layer that FOLDS knows; nn.Identity takes their place. The model
    computes the same up to rounding. Into a quaternion weight goes what multiplies by a quaternion
    from the left (such as one scale for the four components); whitening, which mixes the components
    otherwise, goes into real weights, unless they are sparse or have groups. What was left, and
    why, is told by the logger "sparseq" (INFO). Sparse layers between which nothing is left run as
    one kernel, see `SparseSequential`.

    Which module follows which is found by torch.fx, or where that fails in the order of each
    nn.Sequential, see `adjacent_pairs`. A Linear is taken to have its features in dimension 1, as
    the normalization has.

    Args:
        model: any module, left as it is.

    Returns:
        The copy, in the modes of the model.

    Source: Jacob et al. 2018, section 3.2, for real layers.
    """
    folded = copy.deepcopy(model)
    reasons = {}
    for first, second in adjacent_pairs(model, _is_pair):
        layer, norm = folded.get_submodule(first), folded.get_submodule(second)
        reasons[second] = _fold(layer, norm)
        if reasons[second] is None:
            _log.info("fold_batchnorm took %s into %s", second, first)
            parent, _, name = second.rpartition(".")
            setattr(folded.get_submodule(parent), name, nn.Identity().train(norm.training))
    for name, module in folded.named_modules():
        if type(module) in NORMS:
            reason = reasons.get(name) or "it follows no layer alone that it could go into"
            _log.info("fold_batchnorm left %s: %s", name or "the model", reason)
    chain_sequentials(folded)
    return folded


def _is_pair(layer: nn.Module, norm: nn.Module) -> bool:
    return type(layer) in FOLDS and type(norm) in NORMS


@torch.no_grad()
def _fold(layer: Any, norm: Any) -> str | None:
    """Fold in place; returns why not."""
    size = layer.out_features if hasattr(layer, "out_features") else layer.out_channels
    if norm.training or norm.running_mean is None:
        return "it is in training mode" if norm.training else "it has no running statistics"
    if norm.num_features != size:
        return f"it has {norm.num_features} features, the layer {size}"
    affine = affine_of(norm)
    weight = FOLDS[type(layer)](layer, affine)
    if weight is None:
        return f"a {type(layer).__name__} cannot hold what it does to the components"
    old = next(layer.parameters())
    old.copy_(weight)
    bias = affine.shift if layer.bias is None else affine.rows(layer.bias.double()) + affine.shift
    if layer.bias is None:
        layer.bias = nn.Parameter(bias.to(old.dtype), requires_grad=old.requires_grad)
    else:
        layer.bias.copy_(bias)
    return None


def affine_of(norm: Any) -> Affine:
    """What a normalization by running statistics does to features."""
    mean = norm.running_mean.double()
    weight = None if norm.weight is None else norm.weight.double()
    matrix, bias = None, torch.zeros_like(mean) if norm.bias is None else norm.bias.double()
    if isinstance(norm, QBatchNorm) and norm.mode == "whiten":
        inverse = inverse_cholesky(norm.running_cov.double(), norm.eps)
        matrix = inverse if weight is None else matmul(weight, inverse)
        scale = matrix.diagonal(dim1=0, dim2=1).t().flatten()
        plain = torch.diag_embed(matrix.diagonal(dim1=0, dim2=1)).movedim(0, -1)
        matrix = None if torch.equal(plain, matrix) else matrix
    else:
        scale = (norm.running_var.double() + norm.eps).rsqrt()
        scale = scale if weight is None else scale * weight
    linear = Affine(matrix, scale, bias)
    return Affine(matrix, scale, bias - linear.rows(mean))


def _largest(tensor: Tensor) -> Tensor:
    return tensor.abs().max() if tensor.numel() else tensor.new_zeros(())


def _dense(layer: Any, affine: Affine) -> Tensor | None:
    """Weight (out, in / groups, ...); a quaternion's rows may lie in several groups."""
    if affine.matrix is not None and getattr(layer, "groups", 1) > 1:
        return None
    return affine.rows(layer.weight.double())


def _transposed(layer: Any, affine: Affine) -> Tensor | None:
    """Weight (in, out / groups, ...)."""
    if affine.matrix is not None and layer.groups > 1:
        return None
    rows = layer.weight.double().unflatten(0, (layer.groups, -1)).transpose(1, 2)
    return affine.rows(rows.flatten(0, 1)).view(rows.shape).transpose(1, 2).flatten(0, 1)


def _quaternion(layer: Any, affine: Affine) -> Tensor | None:
    """Weight (4, out / 4, ...): A L(w) = L(A w) where A = L(a)."""
    left = affine.quaternion()
    return None if left is None else quaternion_rows(left, layer.weight.double())


def _quaternion_transposed(layer: Any, affine: Affine) -> Tensor | None:
    """Weight (4, in / 4, out / 4 / groups, ...)."""
    left = affine.quaternion()
    if left is None:
        return None
    rows = layer.weight.double().unflatten(1, (layer.groups, -1)).transpose(2, 3)
    new = quaternion_rows(left, rows.flatten(1, 2)).view(rows.shape)
    return new.transpose(2, 3).flatten(1, 2)


def _sparse(layer: Any, affine: Affine) -> Tensor | None:
    """Values (nnz) or blocks (nnz, rows, columns) in the rows of a pattern."""
    if affine.matrix is not None:
        return None
    values, rows = layer.values.double(), layer.pattern.rows()
    if values.dim() == 1:
        return values * affine.scale[rows]
    return values * affine.scale.view(-1, values.shape[1])[rows][:, :, None]


def _sparse_quaternion(layer: Any, affine: Affine) -> Tensor | None:
    """Values (nnz, 4), or (nnz) single components in rows component by component."""
    left = affine.quaternion()
    values, rows = layer.values.double(), layer.pattern.rows()
    if left is None:
        return None
    if values.dim() == 2:
        return torch.einsum("abe,eb->ea", left[:, :, rows], values)
    if left[1:, 0].any():  # another component of a kept one may not be kept
        return None
    return values * left[0, 0][rows % left.shape[2]]


# layer type -> (layer, affine) -> its new weight or values, or None where it cannot hold them
FOLDS: dict[type[nn.Module], Callable[[Any, Affine], Tensor | None]] = {
    **dict.fromkeys((nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d), _dense),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), _transposed),
    **dict.fromkeys((QLinear, QConv1d, QConv2d, QConv3d), _quaternion),
    **dict.fromkeys((QConvTranspose1d, QConvTranspose2d, QConvTranspose3d), _quaternion_transposed),
    **dict.fromkeys((SparseLinear, SparseConv1d, SparseConv2d, SparseConv3d), _sparse),
    **dict.fromkeys((ExpanderLinear, ExpanderConv1d, ExpanderConv2d), _sparse),
    **dict.fromkeys(
        (SparseQLinear, SparseQConv1d, SparseQConv2d, SparseQConv3d), _sparse_quaternion
    ),
    **dict.fromkeys((ExpanderQLinear, ExpanderQConv1d, ExpanderQConv2d), _sparse_quaternion),
}
