"""Residual networks (He et al. 2016), real or quaternion."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from torch import nn

from sparseq.errors import unknown_name
from sparseq.models.catalog import Builder
from sparseq.models.layers import Layers, check_classes, check_images
from sparseq.nn.residual import Residual

STEMS = ["auto", "imagenet", "cifar"]
# images up to this size get the CIFAR stem, which keeps their resolution
LARGEST_CIFAR = 64


@dataclass(frozen=True)
class Plan:
    """The shape of a residual network.

    Attributes:
        name: of the model.
        blocks: number of blocks in each stage.
        widths: channels of each stage, before expansion.
        expansion: 1 for basic blocks (two 3x3 convolutions); above 1 for bottleneck blocks (1x1,
            3x3, 1x1), which output that many times the stage's channels.
    """

    name: str
    blocks: tuple[int, ...]
    widths: tuple[int, ...] = (64, 128, 256, 512)
    expansion: int = 1


def builder_of(plan: Plan) -> Builder:
    """The builder of a plan's network, for the registry of models."""

    def build(
        algebra: str = "real",
        in_shape: tuple[int, ...] = (3, 32, 32),
        num_classes: int = 10,
        seed: int = 0,
        stem: str = "auto",
        graph: str = "",
        degree: int = 3,
    ) -> nn.Module:
        """See `residual_network`."""
        layers = Layers(algebra, seed, graph, degree)
        return residual_network(plan, layers, in_shape, num_classes, stem)

    return build


def residual_network(
    plan: Plan, layers: Layers, in_shape: tuple[int, ...], num_classes: int, stem: str = "auto"
) -> nn.Sequential:
    """Stem, stages of blocks, global average pooling, and a real output layer.

    The first block of every stage but the first has stride 2. Shortcuts between different shapes
    are 1x1 convolutions with normalization. Convolutions have no bias. Bottleneck blocks stride in
    their 3x3 convolution.

    Args:
        plan: the shape.
        layers: creates the layers; if it has a graph, all convolutions of the blocks are on
            graphs, 1x1 ones included. Quaternion networks convert RGB and gray images first, so
            that they accept the same images as real ones.
        in_shape: (channels, height, width).
        num_classes: width of the output.
        stem: "imagenet" (7x7 of stride 2 and a pooling), "cifar" (3x3), or "auto" (the latter for
            images of at most 64x64).

    Raises:
        ValueError: an unknown stem, or examples that are not images.

    Source: He et al. 2016, "Deep residual learning for image recognition", table 1, section 4.2.
    """
    check_images(plan.name, in_shape)
    check_classes(plan.name, num_classes)
    if stem not in STEMS:
        raise unknown_name(f"{plan.name} stem", stem, STEMS)
    small = max(in_shape[1:]) <= LARGEST_CIFAR if stem == "auto" else stem == "cifar"
    first, channels = layers.images(in_shape[0])
    parts = OrderedDict({**first, **_stem(layers, channels, plan.widths[0], small)})
    channels = plan.widths[0]
    for stage, (count, width) in enumerate(zip(plan.blocks, plan.widths, strict=True), start=1):
        blocks = []
        for number in range(count):
            stride = 2 if stage > 1 and number == 0 else 1
            blocks.append(_block(layers, channels, width, plan.expansion, stride))
            channels = width * plan.expansion
        parts[f"stage{stage}"] = nn.Sequential(*blocks)
    parts["average"], parts["flatten"] = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    parts["out"] = layers.output(channels, num_classes)
    return nn.Sequential(parts)


def _stem(layers: Layers, channels: int, width: int, small: bool) -> dict[str, nn.Module]:
    size, stride = (3, 1) if small else (7, 2)
    conv = layers.conv(channels, width, size, stride, size // 2, bias=False)
    parts = {"stem": conv, "stem_norm": layers.norm(width), "stem_relu": nn.ReLU()}
    return parts if small else {**parts, "pool": nn.MaxPool2d(3, 2, padding=1)}


def _block(layers: Layers, channels: int, width: int, expansion: int, stride: int) -> Residual:
    out = width * expansion
    if expansion == 1:
        shapes = [(channels, width, 3, stride), (width, out, 3, 1)]
    else:
        shapes = [(channels, width, 1, 1), (width, width, 3, stride), (width, out, 1, 1)]
    main: OrderedDict[str, nn.Module] = OrderedDict()
    for number, (inputs, outputs, size, step) in enumerate(shapes, start=1):
        if main:
            main[f"relu{number - 1}"] = nn.ReLU()
        main[f"conv{number}"] = layers.conv(
            inputs, outputs, size, step, size // 2, bias=False, sparse=True
        )
        main[f"norm{number}"] = layers.norm(outputs)
    shortcut: nn.Module = nn.Identity()
    if stride > 1 or channels != out:
        conv = layers.conv(channels, out, 1, stride, 0, bias=False, sparse=True)
        shortcut = nn.Sequential(OrderedDict(conv=conv, norm=layers.norm(out)))
    return Residual(nn.Sequential(main), shortcut)
