"""`sparse_conv`, its transpose and the gradient of its values on the layers of VGG16 for CIFAR.

The baseline is torch's dense convolution in fp32, NCHW or channels last, whichever is the quicker;
the weight's layout is prepared, that of x is not.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.baselines import Call, agrees
from bench.cases import normal, random_pattern
from bench.timing import fastest
from sparseq.formats import CSRPattern
from sparseq.ops.sparse_conv import ConvGeometry, conv_weight, sparse_conv

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
FORMATS = {"NCHW": torch.contiguous_format, "channels last": torch.channels_last}
GATE = 4  # images that the gate looks at

over_layers = pytest.mark.parametrize("layer", LAYERS, ids="{0[0]}-{0[1]}@{0[2]}".format)
over_batches = pytest.mark.parametrize("batch", [1, 32], ids="batch-{}".format)
over_densities = pytest.mark.parametrize("density", [0.1, 0.05, 0.01], ids="density-{}".format)


def dense_call(kind: str, x: Tensor, dy: Tensor, weight: Tensor) -> Call:
    """The quicker of torch's two layouts: forward, or one of its gradients."""
    backward = torch.ops.aten.convolution_backward.default
    rest = ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)
    mask = [kind == "dx", kind == "dv", False]

    def in_format(form: torch.memory_format) -> Call:
        prepared = weight.contiguous(memory_format=form)
        if kind == "forward":
            return lambda: F.conv2d(x, prepared, padding=1)
        return lambda: backward(dy, x, prepared, None, *rest, mask)[mask.index(True)]

    forms: dict[str, Callable[[], Tensor]] = {name: in_format(f) for name, f in FORMATS.items()}
    return forms[fastest(forms)]


def our_call(kind: str, x: Tensor, dy: Tensor, values: Tensor, pattern: CSRPattern) -> Call:
    """The same of the sparse operators."""
    tensors, numbers = pattern.tensors, GEOMETRY.flat()
    if kind == "forward":
        return lambda: sparse_conv(x, values, tensors, None, GEOMETRY)
    if kind == "dx":
        return lambda: sparse_conv(dy, values, tensors, None, GEOMETRY, transposed=True)
    return lambda: torch.ops.sparseq.sparse_conv_dv.default(dy, x, tensors, numbers)


def gate(kind: str, x: Tensor, dy: Tensor, values: Tensor, pattern: CSRPattern) -> None:
    """Our result on a few images is that of the dense convolution in float64."""
    weight = conv_weight(values.double(), pattern.tensors, (3, 3))
    got = our_call(kind, x, dy, values, pattern)()
    exact = dense_call(kind, x.double(), dy.double(), weight)()
    if kind == "dv":
        exact = pattern.gather(exact.flatten(1))
    agrees(got, exact, f"sparse_conv {kind}")


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
    sides = {
        "sparseq": our_call(kind, x, dy, values, pattern),
        "dense fp32": dense_call(kind, x, dy, conv_weight(values, pattern.tensors, (3, 3))),
    }
    case = f"{channels}-{outputs} 3x3 at {size}x{size}"
    op = "sparse_conv_dv" if kind == "dv" else "sparse_conv"
    race(sides, op, suite="sparse_conv", subject=kind, case=case, batch=batch, density=density)
