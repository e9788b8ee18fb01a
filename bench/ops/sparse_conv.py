"""`sparse_conv`, its transpose and the gradient of its values on the layers of VGG16 for CIFAR.

The baseline is torch's dense convolution in fp32, NCHW or channels last, whichever is the quicker,
weight and images prepared, and oneDNN's own.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.baselines import Call, agrees, conv_forward_sides, conv_gradient, conv_gradient_sides
from bench.cases import headline, normal, random_pattern, useful_flop
from sparseq.formats import CSRPattern
from sparseq.ops.geometry import ConvGeometry
from sparseq.ops.sparse_conv import conv_weight, sparse_conv

# in channels, out channels, height and width
LAYERS = [
    (64, 64, 32),
    (64, 128, 16),
    (128, 128, 16),
    (128, 256, 8),
    (256, 256, 8),
    (256, 512, 4),
    (512, 512, 4),
    (512, 512, 2),
]
GEOMETRY = ConvGeometry.of((3, 3), padding=1)
GRADIENT = {"dx": "dx", "dv": "dw"}  # kind -> that of the dense convolution
GATE = 4  # images that the gate looks at

over_layers = pytest.mark.parametrize("layer", LAYERS, ids="{0[0]}-{0[1]}@{0[2]}".format)
over_batches = pytest.mark.parametrize("batch", [1, 32], ids="batch-{}".format)
over_densities = pytest.mark.parametrize("density", [0.1, 0.05, 0.01], ids="density-{}".format)


def our_call(kind: str, x: Tensor, dy: Tensor, values: Tensor, pattern: CSRPattern) -> Call:
    """The same of the sparse operators."""
    tensors, numbers = pattern._tensors, GEOMETRY.flat()
    if kind == "forward":
        return lambda: sparse_conv(x, values, tensors, None, GEOMETRY)
    if kind == "dx":
        return lambda: sparse_conv(dy, values, tensors, None, GEOMETRY, transposed=True)
    return lambda: torch.ops.sparseq.sparse_conv_dv.default(dy, x, tensors, numbers)


def gate(kind: str, x: Tensor, dy: Tensor, values: Tensor, pattern: CSRPattern) -> None:
    """Our result on a few images is that of the dense convolution in float64."""
    weight = conv_weight(values.double(), pattern.tensors, (3, 3))
    got = our_call(kind, x, dy, values, pattern)()
    x, dy = x.double(), dy.double()
    if kind == "forward":
        exact = F.conv2d(x, weight, padding=1)
    else:
        exact = conv_gradient(GRADIENT[kind], dy, x, weight)
    if kind == "dv":
        exact = pattern.gather(exact.flatten(1))
    agrees(got, exact, f"sparse_conv {kind}")


@headline(layer=(128, 128, 16), batch=32, density=0.1)
@headline(layer=(512, 512, 4), batch=1, density=0.05, kind="forward", thread_count=1)
@over_layers
@over_batches
@over_densities
@pytest.mark.parametrize("kind", ["forward", "dx", "dv"])
def test_sparse_conv(race, layer, batch, density, kind):
    channels, outputs, size = layer
    pattern = random_pattern(outputs, channels * 9, density)
    values = normal(pattern.nnz, seed=1)
    x, dy = normal(batch, channels, size, size), normal(batch, outputs, size, size, seed=2)
    gate(kind, x[:GATE], dy[:GATE], values, pattern)
    weight = conv_weight(values, pattern.tensors, (3, 3))
    sides = {"sparseq": our_call(kind, x, dy, values, pattern)}
    if kind == "forward":
        sides.update(conv_forward_sides("dense fp32", x, weight))
    else:
        sides.update(conv_gradient_sides(GRADIENT[kind], dy, x, weight))
    race(
        sides,
        "sparse_conv_dv" if kind == "dv" else "sparse_conv",
        useful_flop(pattern.nnz, batch * size**2),
        suite="sparse_conv",
        subject=kind,
        case=f"{channels}-{outputs} 3x3 at {size}x{size}",
        batch=batch,
        density=density,
    )
