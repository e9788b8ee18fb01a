"""The layers of the models: real or quaternion, with weights drawn from one seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from sparseq.errors import require, unknown_name
from sparseq.nn.expander.conv import ExpanderConv2d, ExpanderQConv2d
from sparseq.nn.expander.linear import ExpanderLinear, ExpanderQLinear
from sparseq.nn.quaternion.color import ImageToQuaternion
from sparseq.nn.quaternion.conv import QConv2d
from sparseq.nn.quaternion.linear import QLinear
from sparseq.nn.quaternion.norm import QBatchNorm2d
from sparseq.nn.vector_pool import VectorMaxPool2d
from sparseq.seeds import derive_seed, derived_generator

ALGEBRAS = ["real", "quaternion"]
RealLayer = nn.Linear | nn.Conv2d | nn.ConvTranspose2d


class Layers:
    """Creates the layers of one model; the weights depend on the order of the calls.

    Weights are drawn from the He distribution (variance 2 / fan-in; for quaternion layers see
    `sparseq.nn.quaternion.init`), biases are zero. The global random state is neither read nor
    changed. Under `torch.device("meta")` the layers allocate no data.

    Args:
        algebra: "real" or "quaternion".
        seed: of all weights and graphs.
        graph: name of a graph (see `sparseq.graphs`), or "" for none. Layers requested with
            `sparse=True` become expander layers, each on its own graph of that name.
        degree: of the graphs; a degree above the number of nodes on the other side means all.

    Raises:
        ValueError: an unknown algebra.
    """

    def __init__(self, algebra: str, seed: int, graph: str = "", degree: int = 0) -> None:
        if algebra not in ALGEBRAS:
            raise unknown_name("algebra", algebra, ALGEBRAS)
        self.algebra, self.generator = algebra, derived_generator("weights", seed)
        self.graph, self.degree, self._seed, self._graphs = graph, degree, seed, 0

    def linear(
        self, in_features: int, out_features: int, bias: bool = True, sparse: bool = False
    ) -> nn.Module:
        """A fully connected layer of the algebra; on a graph if `sparse` and a graph is set."""
        if sparse and self.graph:
            layer_type = ExpanderQLinear if self.algebra == "quaternion" else ExpanderLinear
            return layer_type(in_features, out_features, bias=bias, **self._next_graph())
        if self.algebra == "quaternion":
            return QLinear(in_features, out_features, bias, generator=self.generator)
        return self.output(in_features, out_features, bias)

    def output(self, in_features: int, out_features: int, bias: bool = True) -> nn.Module:
        """A fully connected layer that is always real."""
        return self._real(nn.Linear, in_features, out_features, bias=bias)

    def conv(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        padding: int = 1,
        bias: bool = True,
        sparse: bool = False,
    ) -> nn.Module:
        """A convolution of the algebra; on a graph if `sparse` and a graph is set."""
        if sparse and self.graph:
            layer_type = ExpanderQConv2d if self.algebra == "quaternion" else ExpanderConv2d
            return layer_type(
                in_channels,
                out_channels,
                kernel_size,
                stride=stride,
                padding=padding,
                bias=bias,
                **self._next_graph(),
            )
        geometry = (in_channels, out_channels, kernel_size, stride, padding)
        if self.algebra == "quaternion":
            return QConv2d(*geometry, bias=bias, generator=self.generator)
        return self._real(nn.Conv2d, *geometry, bias=bias)

    def conv_transpose(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int, padding: int = 1
    ) -> nn.Module:
        """A transposed convolution, always real."""
        geometry = (in_channels, out_channels, kernel_size, stride, padding)
        return self._real(nn.ConvTranspose2d, *geometry, bias=True)

    def norm(self, channels: int) -> nn.Module:
        """Batch normalization of the algebra; the quaternion one whitens the four components."""
        return QBatchNorm2d(channels) if self.algebra == "quaternion" else nn.BatchNorm2d(channels)

    def pool(self) -> nn.MaxPool2d:
        """2x2 max pooling; vectorized on graphs, where torch's pooling would dominate the time."""
        return VectorMaxPool2d(2) if self.graph else nn.MaxPool2d(2)

    def images(self, channels: int) -> tuple[dict[str, nn.Module], int]:
        """The first modules of an image model, by name, and the number of channels they output.

        Real models use the images as they are. Quaternion models convert gray and RGB images to
        quaternions, so that both algebras accept the same images; for other images the number of
        channels must be divisible by 4.
        """
        if self.algebra == "quaternion" and channels in (1, 3):
            return {"quaternions": ImageToQuaternion()}, 4
        return {}, channels

    def _next_graph(self) -> dict[str, Any]:
        """Arguments of the next expander layer: its graph and generators."""
        self._graphs += 1
        seed = derive_seed("graph", self._seed, self._graphs)
        return {
            "degree": self.degree,
            "graph": self.graph,
            "seed": seed,
            "generator": self.generator,
        }

    def _real(self, layer_type: Callable[..., RealLayer], *geometry: int, bias: bool) -> nn.Module:
        # torch's own initialization would draw from the global generator
        device = torch.get_default_device()
        layer = layer_type(*geometry, bias=bias, device="meta").to_empty(device=device)
        if device.type != "meta":
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=self.generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        return layer


def check_classes(model: str, num_classes: int) -> None:
    """ValueError unless there is at least one class."""
    require(num_classes >= 1, model, "num_classes", "must be at least 1", num_classes)


def check_images(model: str, in_shape: tuple[int, ...], smallest: int = 1) -> None:
    """ValueError unless the examples are images that are large enough for the model."""
    fits = len(in_shape) == 3 and in_shape[0] >= 1 and min(in_shape[1:]) >= smallest
    rule = f"must be (channels, height, width) of at least {smallest}x{smallest} pixels"
    require(fits, model, "in_shape", rule, tuple(in_shape))
