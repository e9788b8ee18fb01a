"""Seeded random layers of every kind, with inputs: odd sizes, groups, strides, batches, dtypes."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import sparseq
from sparseq.nn import ExpanderQConv2d, SparseSequential
from tests.ops.cases import DTYPES

MOST_WORK = 3e8  # multiplications of the dense twin's forward pass


@dataclass(frozen=True)
class Case:
    """A layer with an input and the gradient of its output, all of one dtype."""

    name: str
    layer: Any
    x: Tensor
    dy: Tensor

    def run(self) -> dict[str, Tensor]:
        """The output, and the gradients of the input and of all parameters."""
        x = self.x.detach().requires_grad_()
        y = self.layer(x)
        names, parameters = zip(*self.layer.named_parameters(), strict=True)
        gradients = torch.autograd.grad(y, (x, *parameters), self.dy)
        return {"y": y.detach(), "x": gradients[0], **dict(zip(names, gradients[1:], strict=True))}

    def inference(self) -> Tensor:
        """The output without gradients: other kernels may serve."""
        with torch.no_grad():
            result: Tensor = self.layer(self.x)
        return result


def random_case(
    seed: int, dtype: torch.dtype | None = None, kinds: Sequence[str] | None = None
) -> Case:
    """The case of a seed, of one dtype and of some kinds only if asked for."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    kind = draw.choice(sorted(KINDS if kinds is None else kinds))
    layer, size = KINDS[kind](draw)
    dtype = draw.choice(DTYPES) if dtype is None else dtype
    layer = layer.to(dtype)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, dtype=torch.float64))
    x = torch.randn(_batch(draw, layer, size), *size, dtype=torch.float64).to(dtype)
    with torch.no_grad():
        y = layer(x)
    dy = torch.randn(y.shape, dtype=torch.float64).to(dtype)
    return Case(f"seed {seed}: {layer} on {tuple(x.shape)}, {dtype}", layer, x, dy)


def _batch(draw: random.Random, layer: nn.Module, size: tuple[int, ...]) -> int:
    """1 to 300, fewer where that takes long."""
    with torch.no_grad():
        probe = layer(torch.zeros(2, *size, dtype=next(layer.parameters()).dtype))
    work = probe.numel() / 2 * max(size[0], 1) * draw.choice((1, 9))
    most = int(max(2, min(300, MOST_WORK / max(work, 1))))
    return draw.choice((1, 2, 3, draw.randint(1, most), draw.randint(1, most), most))


def _quaternions(draw: random.Random, most: int = 40) -> int:
    return 4 * draw.choice((1, 2, 3, 5, draw.randint(1, most), draw.randint(1, most)))


def _kept(weight: Tensor, draw: random.Random, whole: bool = False) -> Tensor:
    """A mask of a weight; whole quaternions if asked for."""
    part = weight[:1] if whole else weight
    mask = torch.rand(part.shape) < draw.choice((0.02, 0.1, 0.3, 0.9))
    return mask.expand(weight.shape)


def _linear(draw: random.Random) -> tuple[Any, tuple[int, ...]]:
    dense = nn.Linear(draw.randint(1, 200), draw.randint(1, 200), draw.random() < 0.7)
    layer = sparseq.SparseLinear.from_dense(dense, _kept(dense.weight, draw))
    return layer, (dense.in_features,)


def _quaternion_linear(draw: random.Random) -> tuple[Any, tuple[int, ...]]:
    algorithm = draw.choice(("auto", "8", "16"))
    dense = sparseq.QLinear(_quaternions(draw), _quaternions(draw), algorithm=algorithm)
    return dense, (dense.in_features,)


def _sparse_quaternion_linear(draw: random.Random) -> tuple[Any, tuple[int, ...]]:
    dense, size = _quaternion_linear(draw)
    mask = _kept(dense.weight, draw, draw.random() < 0.5)
    return sparseq.SparseQLinear.from_dense(dense, mask), size


def _expander_linear(draw: random.Random) -> tuple[Any, tuple[int, ...]]:
    graph = draw.choice(("regular", "xnet", "block(4)", "group(2, xnet)", "block(8)"))
    sizes = 8 * draw.randint(1, 20), 8 * draw.randint(1, 20)
    return sparseq.ExpanderLinear(*sizes, 8, graph, seed=1), (sizes[0],)


def _expander_quaternion_linear(draw: random.Random) -> tuple[Any, tuple[int, ...]]:
    sizes = 4 * draw.randint(2, 20), 4 * draw.randint(2, 20)
    return sparseq.ExpanderQLinear(*sizes, 2, "xnet", seed=1), (sizes[0],)


def _chain(draw: random.Random) -> tuple[Any, tuple[int, ...]]:
    sizes = [draw.randint(1, 120) for _ in range(4)]
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        dense = nn.Linear(inputs, outputs)
        layers += [sparseq.SparseLinear.from_dense(dense, _kept(dense.weight, draw)), nn.ReLU()]
    return SparseSequential(*layers), (sizes[0],)


def _conv_chain(draw: random.Random) -> tuple[Any, tuple[int, ...]]:
    channels = [draw.randint(1, 20) for _ in range(3)]
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(channels):
        dense = nn.Conv2d(inputs, outputs, 3, padding=1)
        layers += [sparseq.SparseConv2d.from_dense(dense, _kept(dense.weight, draw)), nn.ReLU()]
    return SparseSequential(*layers), (channels[0], 8, draw.choice((8, 16)))


def _settings(draw: random.Random, dims: int) -> tuple[dict[str, Any], tuple[int, ...]]:
    """Kernel, stride, padding and dilation, and an image that is large enough."""
    most = {1: 33, 2: 15, 3: 7}[dims]
    kernel = [draw.choice((1, 2, 3, 3, 5)) for _ in range(dims)]
    if draw.random() < 0.6:
        kernel = [draw.choice((1, 3, 3))] * dims
    dilation = [draw.choice((1, 1, 1, 2)) for _ in range(dims)]
    padding = [draw.choice((0, k // 2, k // 2)) for k in kernel]
    least = [
        max(1, d * (k - 1) + 1 - 2 * p) for k, d, p in zip(kernel, dilation, padding, strict=True)
    ]
    stride = [draw.choice((1, 1, 2, 3))] * dims
    size = tuple(n + draw.randint(0, most) for n in least)
    if draw.random() < 0.2:
        size = (*size[:-1], 1) if least[-1] == 1 else size
    return {"kernel_size": kernel, "stride": stride, "padding": padding, "dilation": dilation}, size


def _channels(draw: random.Random, unit: int) -> tuple[int, int, int]:
    groups = draw.choice((1, 1, 1, 2, 3, 4))
    sizes = [unit * groups * draw.choice((1, 2, 3, 5, 8, 9, 16, 17)) for _ in range(2)]
    return sizes[0], sizes[1], groups


def _dense_conv(
    draw: random.Random, kinds: tuple[Any, ...], unit: int
) -> tuple[Any, tuple[int, ...]]:
    dims = draw.choice((1, 2, 2, 3))
    settings, size = _settings(draw, dims)
    inputs, outputs, groups = _channels(draw, unit)
    bias = draw.random() < 0.8
    layer = kinds[dims - 1](inputs, outputs, **settings, groups=groups, bias=bias)
    return layer, (inputs, *size)


def _conv(draw: random.Random) -> tuple[Any, tuple[int, ...]]:
    dense, size = _dense_conv(draw, (nn.Conv1d, nn.Conv2d, nn.Conv3d), 1)
    kind = getattr(sparseq, f"Sparse{type(dense).__name__}")
    return kind.from_dense(dense, _kept(dense.weight, draw)), size


QCONVS = (sparseq.QConv1d, sparseq.QConv2d, sparseq.QConv3d)
QCONVS_TRANSPOSED = (sparseq.QConvTranspose1d, sparseq.QConvTranspose2d, sparseq.QConvTranspose3d)


def _quaternion_conv(draw: random.Random) -> tuple[Any, tuple[int, ...]]:
    layer, size = _dense_conv(draw, QCONVS, 4)
    layer.algorithm = draw.choice(("auto", "auto", "8", "16"))
    return layer, size


def _sparse_quaternion_conv(draw: random.Random) -> tuple[Any, tuple[int, ...]]:
    dense, size = _dense_conv(draw, QCONVS, 4)
    kind = getattr(sparseq, f"Sparse{type(dense).__name__}")
    return kind.from_dense(dense, _kept(dense.weight, draw, draw.random() < 0.5)), size


def _transposed_conv(draw: random.Random) -> tuple[Any, tuple[int, ...]]:
    layer, size = _dense_conv(draw, QCONVS_TRANSPOSED, 4)
    smallest = zip(size[1:], layer.kernel_size, layer.padding, strict=True)
    return layer, (size[0], *(n + 2 * p + k for n, k, p in smallest))


def _expander_conv(draw: random.Random) -> tuple[Any, tuple[int, ...]]:
    kind = draw.choice((sparseq.ExpanderConv2d, ExpanderQConv2d))
    sizes = 8 * draw.randint(1, 6), 8 * draw.randint(1, 6)
    stride = draw.choice((1, 2))
    layer = kind(*sizes, 3, 2, "xnet", stride=stride, padding=1, seed=1)
    return layer, (sizes[0], draw.randint(1, 20), draw.randint(1, 20))


def _norm(draw: random.Random) -> tuple[Any, tuple[int, ...]]:
    dims = draw.choice((1, 2, 3))
    features = _quaternions(draw)
    kind = (sparseq.QBatchNorm1d, sparseq.QBatchNorm2d, sparseq.QBatchNorm3d)[dims - 1]
    return kind(features), (features, *(draw.randint(1, 30 // dims) for _ in range(dims)))


KINDS: dict[str, Callable[[random.Random], tuple[Any, tuple[int, ...]]]] = {
    maker.__name__: maker
    for maker in (
        _linear,
        _quaternion_linear,
        _sparse_quaternion_linear,
        _expander_linear,
        _expander_quaternion_linear,
        _chain,
        _conv_chain,
        _conv,
        _quaternion_conv,
        _sparse_quaternion_conv,
        _transposed_conv,
        _expander_conv,
        _norm,
    )
}
