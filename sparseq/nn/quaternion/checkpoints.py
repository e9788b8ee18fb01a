"""Conversion of checkpoints of other quaternion libraries."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from sparseq.errors import argument_error, require, unknown_name

COMPONENTS = ("r_weight", "i_weight", "j_weight", "k_weight")
ORDERS = ["in_out", "out_in"]
ROTATION = ("zero_kernel", "scale_param")


def convert_htorch(
    state_dict: Mapping[str, Tensor], *, conv: str = "in_out", transposed: Collection[str] = ()
) -> dict[str, Tensor]:
    """Convert the state_dict of a model with hTorch or Orkis quaternion layers to sparseq's layers.

    `x.r_weight`, `x.i_weight`, `x.j_weight`, `x.k_weight` of shape (in / 4, out / 4) become
    `x.weight` of shape (4, out / 4, in / 4); in both the weight is the left factor, so the function
    is the same. In convolutions the kernel sizes follow these two dimensions. All other entries,
    such as biases and real layers, are unchanged.

    Args:
        state_dict: name -> tensor.
        conv: order of the first two dimensions of a convolution: "in_out" as in hTorch,
            (in / 4, out / 4, *kernel), or "out_in" as in Orkis, (out / 4, in / 4, *kernel).
        transposed: names of the transposed convolutions, (in / 4, out / 4, *kernel) in both.

    Returns:
        A new dict for the same model made of `QLinear`, `QConv2d` and so on; unchanged tensors are
        shared with the old one.

    Raises:
        ValueError: a layer with a missing component, with components of different shapes or dtypes,
            with a bias that does not fit, of rotations, or with a kernel of more than three
            dimensions; an unknown order.
    """
    if conv not in ORDERS:
        raise unknown_name("order of a convolution's sizes", conv, ORDERS)
    layers = dict.fromkeys(_layer_of(key) for key in state_dict if _leaf(key) in COMPONENTS)
    converted: dict[str, Tensor] = {}
    for key, tensor in state_dict.items():
        layer = _layer_of(key)
        if layer not in layers or _leaf(key) not in COMPONENTS:
            converted[key] = tensor
        elif f"{layer}weight" not in converted:
            is_transposed = layer.rstrip(".") in transposed
            converted[f"{layer}weight"] = _weight(layer, state_dict, conv, is_transposed)
    return converted


def _leaf(key: str) -> str:
    return key.rpartition(".")[2]


def _layer_of(key: str) -> str:
    """The prefix of the layer, with the dot; empty if the model is a single layer."""
    return key[: len(key) - len(_leaf(key))]


def _weight(layer: str, state_dict: Mapping[str, Tensor], conv: str, transposed: bool) -> Tensor:
    """The four components of one layer, checked, in the order of sparseq's weights."""
    op, name = "convert_htorch", layer.rstrip(".") or "the layer"
    parts = _components(op, layer, name, state_dict)
    is_linear = parts[0].dim() == 2
    require(
        parts[0].dim() in (2, 3, 4, 5),
        op,
        name,
        "must be a linear layer or convolution, components of (in / 4, out / 4, *kernel)",
        tuple(parts[0].shape),
    )
    in_first = transposed or is_linear or conv == "in_out"
    bias, width = state_dict.get(f"{layer}bias"), 4 * parts[0].shape[1 if in_first else 0]
    if bias is not None and bias.shape != (width,):
        raise argument_error(op, f"{name} bias", f"must have shape ({width},)", tuple(bias.shape))
    if in_first and not transposed:
        parts = [part.transpose(0, 1) for part in parts]
    return torch.stack(parts)


def _components(op: str, layer: str, name: str, state_dict: Mapping[str, Tensor]) -> list[Tensor]:
    missing = [part for part in COMPONENTS if layer + part not in state_dict]
    if missing:
        raise argument_error(op, name, f"must have {', '.join(COMPONENTS)}", f"no {missing[0]}")
    for key in (*ROTATION, "weight"):
        require(
            layer + key not in state_dict,
            op,
            name,
            "must be a plain quaternion layer, without rotation or scale",
            f"a {key}",
        )
    parts = [state_dict[layer + part] for part in COMPONENTS]
    types = {(tuple(part.shape), part.dtype) for part in parts}
    rule = "must have components of one shape and dtype"
    require(len(types) == 1, op, name, rule, sorted(map(str, types)))
    return parts
