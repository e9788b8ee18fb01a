"""Twins: layers that compute the same function with another representation of the weight."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from sparseq.nn.layer_types import weight_parameters


def match_twin(layer: nn.Module, twin: Any) -> None:
    """Copy the bias, the gradient flags and the mode of a layer's twin to the layer, in place."""
    is_trained = all(parameter.requires_grad for parameter in weight_parameters(twin))
    for parameter in weight_parameters(layer):
        parameter.requires_grad_(is_trained)
    if twin.bias is not None:
        bias = twin.bias.detach().clone()
        layer.bias = nn.Parameter(bias, requires_grad=twin.bias.requires_grad)
    layer.train(twin.training)


def linear_of(weight: Tensor, twin: Any) -> nn.Linear:
    """An `nn.Linear` with this weight, and the bias, gradient flags and mode of its twin."""
    rows, columns = weight.shape
    layer = nn.Linear(columns, rows, twin.bias is not None, device="meta")
    layer.weight = nn.Parameter(weight)
    match_twin(layer, twin)
    return layer


def conv_of(conv_class: type[nn.Module], weight: Tensor, twin: Any) -> Any:
    """A real convolution with this weight, and the settings, bias and flags of its twin.

    Args:
        conv_class: nn.Conv1d to nn.ConvTranspose3d.
        weight: of the shape that this class has with `groups=1`.
        twin: a layer with the attributes of this class.
    """
    names = ("stride", "padding", "dilation", "padding_mode", "output_padding")
    settings = {name: getattr(twin, name) for name in names if hasattr(twin, name)}
    layer = conv_class(
        twin.in_channels,
        twin.out_channels,
        twin.kernel_size,
        bias=twin.bias is not None,
        device="meta",
        **settings,
    )
    layer.weight = nn.Parameter(weight)
    match_twin(layer, twin)
    return layer
