"""Masks from graphs: each layer keeps the weights on the edges of its own graph."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from sparseq.graphs import Graph, draw_edges
from sparseq.pruning.prunable import entries_of, prunable_parameters, quaternion_names
from sparseq.seeds import derive_seed


def graph_masks(
    model: nn.Module, graph: str | Graph, degree: int, seed: int, exclude: str | Iterable[str]
) -> dict[str, Tensor]:
    """Parameter name -> bool tensor of the parameter's shape, see `Mask.from_graph`."""
    quaternion, masks = quaternion_names(model), {}
    inputs_first = {name for name, entry in entries_of(model) if entry.inputs_first}
    for name, weight in prunable_parameters(model, exclude).items():
        component = weight[0] if name in quaternion else weight
        first, second = component.shape[:2]
        layer_seed = derive_seed("Mask.from_graph", seed, name)
        n_in, n_out = (first, second) if name in inputs_first else (second, first)
        matrix = torch.from_numpy(draw_edges(graph, n_in, n_out, degree, layer_seed).matrix())
        matrix = matrix.t() if name in inputs_first else matrix
        slices = matrix.reshape(first, second, *[1] * (component.dim() - 2))
        masks[name] = slices.expand(weight.shape).to(weight.device)
    return masks
