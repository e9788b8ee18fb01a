"""The layers, sizes, maps and batches of the break-even sweep."""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from bench.baselines import agrees
from bench.cases import name_of, normal, random_mask
from sparseq.nn import (
    QConv2d,
    QLinear,
    SparseConv2d,
    SparseLinear,
    SparseQConv2d,
    SparseQLinear,
)

Shape = tuple[int, ...]  # inputs and outputs, and of a convolution kernel and map
# in a bucket of equally many weights, on equal maps, the worst shape counts
LINEAR = [
    (32, 16),
    (100, 10),
    (100, 12),
    (64, 64),
    (784, 12),
    (128, 128),
    (512, 32),
    (32, 512),
    (64, 300),
    (300, 100),
    (256, 256),
    (1024, 64),
    (64, 1024),
    (512, 512),
    (2048, 128),
    (128, 2048),
    (1024, 1024),
    (2048, 2048),
]
# on each map what networks for 32x32 images have there, from small to large
CONV_3X3 = [
    (3, 64, 3, 32),
    (4, 64, 3, 32),
    (16, 16, 3, 32),
    (64, 64, 3, 32),
    (32, 32, 3, 16),
    (64, 128, 3, 16),
    (128, 128, 3, 16),
    (64, 64, 3, 8),
    (256, 256, 3, 8),
    (128, 128, 3, 4),
    (512, 512, 3, 4),
    (128, 128, 3, 2),
    (512, 512, 3, 2),
]
CONV_1X1 = [
    (64, 64, 1, 32),
    (64, 256, 1, 32),
    (64, 128, 1, 16),
    (512, 128, 1, 16),
    (128, 256, 1, 8),
    (256, 1024, 1, 8),
    (256, 512, 1, 4),
    (2048, 512, 1, 4),
]
BATCHES = {"forward": [1, 4, 16, 64, 256, 512], "training": [16, 64, 512]}
IMAGES = {"forward": [1, 8, 32], "training": [1, 8, 32]}
DENSITIES = [0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7]
LINEAR_KINDS = ["Linear", "QLinear by component", "QLinear by quaternion"]
CONV_KINDS = [
    "Conv2d 3x3",
    "Conv2d 3x3 by slice",
    "Conv2d 1x1",
    "QConv2d 3x3 by component",
    "QConv2d 3x3 by quaternion",
    "QConv2d 1x1 by component",
    "QConv2d 1x1 by quaternion",
]
KINDS = LINEAR_KINDS + CONV_KINDS
GROUPS = {"linear": LINEAR_KINDS, "conv": CONV_KINDS}
THREADS = [1, 2]
GATE = 16  # rows of x that the gate looks at
GATE_IMAGES = 2


def twins(kind: str, shape: Shape, density: float) -> tuple[nn.Module, nn.Module]:
    """A sparse layer of that density, and the dense layer it competes with."""
    make = real_twins if kind.startswith(("Linear", "Conv2d")) else quaternion_twins
    return make(kind, shape, density)


def real_twins(kind: str, shape: Shape, density: float) -> tuple[nn.Module, nn.Module]:
    """The same of real layers."""
    inputs, outputs, *rest = shape
    layer = (
        nn.Conv2d(inputs, outputs, rest[0], padding=rest[0] // 2)
        if rest
        else nn.Linear(inputs, outputs)
    )
    nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(1))
    nn.init.zeros_(layer.bias)
    columns = inputs if kind.endswith("by slice") else layer.weight[0].numel()
    keep = random_mask(outputs, columns, density)
    keep = keep.repeat_interleave(layer.weight[0].numel() // columns, 1).view_as(layer.weight)
    return (SparseConv2d if rest else SparseLinear).from_dense(layer, keep), layer


def quaternion_twins(kind: str, shape: Shape, density: float) -> tuple[nn.Module, nn.Module]:
    """The same of quaternion layers."""
    inputs, outputs, *rest = shape
    generator = torch.Generator().manual_seed(1)
    layer = (
        QConv2d(inputs, outputs, rest[0], padding=rest[0] // 2, generator=generator)
        if (rest)
        else QLinear(inputs, outputs, generator=generator)
    )
    whole = kind.endswith("by quaternion")
    keep = random_mask(outputs // 4 if whole else outputs, layer.weight[0, 0].numel(), density)
    keep = keep.view(-1, *layer.weight.shape[1:]).expand_as(layer.weight)
    granularity = "quaternion" if whole else "component"
    return (SparseQConv2d if rest else SparseQLinear).from_dense(layer, keep, granularity), layer


def operands(shape: Shape, batch: int) -> tuple[Tensor, Tensor]:
    """x and the gradient of y."""
    inputs, outputs, *rest = shape
    size = 2 * rest[1:]
    return normal(batch, inputs, *size), normal(batch, outputs, *size, seed=2)


def gate(sparse: Any, x: Tensor) -> None:
    """The sparse layer computes its dense twin's function to rounding."""
    x = x[: GATE_IMAGES if x.dim() > 2 else GATE]
    with torch.no_grad():
        agrees(sparse(x), sparse.to_dense().double()(x.double()), "sparse layer")


def case_name(shape: Shape) -> str:
    """784x300, or 64x64 on 32x32; the kind says the kernel."""
    return name_of(shape[:2]) + (f" on {shape[3]}x{shape[3]}" if len(shape) > 2 else "")


def shapes_of(kind: str) -> list[Shape]:
    """The shapes that a kind of layer can have."""
    shapes: list[Any] = LINEAR if kind in LINEAR_KINDS else CONV_1X1 if "1x1" in kind else CONV_3X3
    return [
        shape
        for shape in shapes
        if not kind.startswith("Q") or all(size % 4 == 0 for size in shape[:2])
    ]


Case = tuple[int, str, str, Shape, int]  # threads, step, kind, shape, batch


def cases(counts: list[int], steps: list[str], kinds: list[str]) -> list[Case]:
    """The grid, or the chosen part of it."""
    return [
        (count, step, kind, shape, batch)
        for count, step, kind in product(counts, steps, kinds)
        for shape in shapes_of(kind)
        for batch in (IMAGES if len(shape) > 2 else BATCHES)[step]
    ]
