"""Checkpoints of other quaternion libraries, brought to our names and shapes."""

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
    """The state_dict of a model with hTorch or Orkis quaternion layers, in our form.

    `x.r_weight`, `x.i_weight`, `x.j_weight`, `x.k_weight` of shape (in / 4, out / 4) become
    `x.weight` of shape (4, out / 4, in / 4); both multiply on the left, so the function stays the
    same. Convolutions have the sizes of the kernel behind these two. Every other entry, such as
    biases and real layers, passes unchanged.

    Args:
        state_dict: name -> tensor.
        conv: the order of a convolution's first two sizes: "in_out" as hTorch stores it,
            (in / 4, out / 4, *kernel), or "out_in" as Orkis does, (out / 4, in / 4, *kernel).
        transposed: names of the transposed convolutions, (in / 4, out / 4, *kernel) in both.

    Returns:
        A new dict that loads into the same model made of `QLinear`, `QConv2d` and so on; tensors
        that needed no change are shared with the old one.

    Raises:
        ValueError: a layer with a component missing, of another shape or dtype, with a bias that
            does not fit, of rotations, or with no kernel of one to three sizes; an unknown order.
    """
    if conv not in ORDERS:
        raise unknown_name("order of a convolution's sizes", conv, ORDERS)
    layers = dict.fromkeys(_layer_of(key) for key in state_dict if _leaf(key) in COMPONENTS)
    out: dict[str, Tensor] = {}
    for key, tensor in state_dict.items():
        layer = _layer_of(key)
        if layer not in layers or _leaf(key) not in COMPONENTS:
            out[key] = tensor
        elif f"{layer}weight" not in out:
            spread = layer.rstrip(".") in transposed
            out[f"{layer}weight"] = _weight(layer, state_dict, conv, spread)
    return out


def _leaf(key: str) -> str:
    return key.rpartition(".")[2]


def _layer_of(key: str) -> str:
    """The layer's prefix, with its dot; empty for a lone layer."""
    return key[: len(key) - len(_leaf(key))]


def _weight(layer: str, state_dict: Mapping[str, Tensor], conv: str, transposed: bool) -> Tensor:
    """The four components of one layer, checked, in our order."""
    op, name = "convert_htorch", layer.rstrip(".") or "the layer"
    parts = _components(op, layer, name, state_dict)
    plain = parts[0].dim() == 2
    require(
        parts[0].dim() in (2, 3, 4, 5),
        op,
        name,
        "must be a linear layer or convolution, (in / 4, out / 4, *kernel) a component",
        tuple(parts[0].shape),
    )
    turn = not transposed and (plain or conv == "in_out")
    bias, width = state_dict.get(f"{layer}bias"), 4 * parts[0].shape[1 if turn or transposed else 0]
    if bias is not None and bias.shape != (width,):
        raise argument_error(op, f"{name} bias", f"must have shape ({width},)", tuple(bias.shape))
    return torch.stack([part.transpose(0, 1) if turn else part for part in parts])


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
    kinds = {(tuple(part.shape), part.dtype) for part in parts}
    require(
        len(kinds) == 1,
        op,
        name,
        "must have components of one shape and dtype",
        sorted(map(str, kinds)),
    )
    return parts
