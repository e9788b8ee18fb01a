"""Entries of torch's own layers: which may be pruned, folded, and written to a file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from sparseq.nn.affine import Affine
from sparseq.nn.layer_types import layer_type

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
OTHERS = (
    *(nn.Bilinear, nn.Embedding, nn.Identity, nn.Flatten, nn.Unflatten, nn.LayerNorm, nn.GroupNorm),
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Mish),
    *(nn.Hardtanh, nn.Hardswish, nn.Softplus, nn.Sigmoid, nn.Tanh, nn.Softmax, nn.LogSoftmax),
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.ZeroPad2d, nn.Upsample),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
)


def fold_rows(layer: Any, affine: Affine) -> Tensor | None:
    """Fold into a weight (out, in / groups, ...); groups may split the rows of a quaternion."""
    if affine.matrix is not None and getattr(layer, "groups", 1) > 1:
        return None
    return affine.linear(layer.weight.double())


def fold_transposed(layer: Any, affine: Affine) -> Tensor | None:
    """Fold into a weight (in, out / groups, ...)."""
    if affine.matrix is not None and layer.groups > 1:
        return None
    rows = layer.weight.double().unflatten(0, (layer.groups, -1)).transpose(1, 2)
    return affine.linear(rows.flatten(0, 1)).view(rows.shape).transpose(1, 2).flatten(0, 1)


def running_affine(norm: Any) -> Affine:
    """gamma (x - mean) / sqrt(var + eps) + beta, with the running statistics."""
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight.double()
    shift = torch.zeros_like(scale) if norm.bias is None else norm.bias.double()
    return Affine(None, scale, shift).of_centered(norm.running_mean.double())


def _register(classes: Iterable[type[nn.Module]], **fields: Any) -> None:
    for layer_class in classes:
        layer_type(**fields)(layer_class)


_register((nn.Linear, *CONVOLUTIONS), weights=("weight",), fold=fold_rows)
_register(TRANSPOSED, weights=("weight",), fold=fold_transposed, inputs_first=True)
_register(NORMS, affine=running_affine)
_register(CONTAINERS, container=True, arguments=lambda container: {})
_register(OTHERS)
