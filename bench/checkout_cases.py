"""What bench/compare_checkouts.py times in a child process, printed as JSON.

Only public names of sparseq stand here, and none of bench: the same file runs against both
checkouts, which may be laid out differently. So it has its own clock too.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

import sparseq
from sparseq.formats import CSRPattern
from sparseq.ops.sparse_conv import ConvGeometry  # where older checkouts have it too
from sparseq.ops.sparse_conv_chain import tap_order

OPS = torch.ops.sparseq
TURN, LEAST = 1e-3, 5  # seconds of a sample, fewest samples
Call = Callable[[], Any]
GEOMETRY = ConvGeometry.of((3, 3), padding=1)
CONV = ([1, 1], [1, 1], [1, 1], 1, "auto")  # stride, padding, dilation, groups, algorithm
EPS = 1e-5


def _flat(geometry: ConvGeometry) -> list[int]:
    """The integers of a geometry as operators take them, by either name that it has had."""
    return geometry.flat() if hasattr(geometry, "flat") else geometry.numbers()


def draw(*shape: int) -> Tensor:
    """Seeded normal fp32."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def mask(rows: int, columns: int, density: float) -> Tensor:
    """A seeded random mask."""
    generator = torch.Generator().manual_seed(rows + columns)
    return torch.rand(rows, columns, generator=generator) < density


def pattern(rows: int, columns: int, density: float, taps: int = 1) -> CSRPattern:
    """A pattern of it, of whole kernel slices with several taps."""
    return CSRPattern.from_mask(mask(rows, columns, density).repeat_interleave(taps, 1))


def tensors_of(some: CSRPattern) -> list[Tensor]:
    """A pattern's tensors as layers pass them; the pattern must be kept."""
    return getattr(some, "_tensors", None) or some.tensors


def linear_ops(k: int, m: int, n: int, density: float) -> Iterator[tuple[str, Call]]:
    """Products with sparse matrices, at a size, a batch and a density."""
    at = f"{k}x{m} batch {n} {density:.0%}"
    x, dy = draw(n, k), draw(n, m)
    some = pattern(m, k, density)
    values = draw(some.nnz)
    yield f"spmm {at}", lambda: OPS.spmm(x, values, None, tensors_of(some), False)
    yield f"spmm transposed {at}", lambda: OPS.spmm(dy, values, None, tensors_of(some), True)
    yield f"sddmm {at}", lambda: OPS.sddmm(dy, x, tensors_of(some))
    for whole in (False, True):
        name = "whole" if whole else "components"
        quaternion = pattern(m // 4 if whole else m, k // 4, density)
        yield from sparse_hamilton(f"{name} {at}", x, dy, quaternion, whole)
    grid = pattern(m // 16, k // 16, density)
    blocks = draw(grid.nnz, 16, 16)
    yield f"block_mm {at}", lambda: OPS.block_mm(x, blocks, None, tensors_of(grid), False)
    yield (
        f"block_mm transposed {at}",
        lambda: OPS.block_mm(dy, blocks, None, tensors_of(grid), True),
    )
    yield f"block_mm dv {at}", lambda: OPS.block_mm_dv(dy, x, tensors_of(grid), 16, 16)


def sparse_hamilton(
    at: str, x: Tensor, dy: Tensor, some: CSRPattern, whole: bool
) -> Iterator[tuple[str, Call]]:
    """The sparse quaternion product and its gradients."""
    values = draw(some.nnz, 4) if whole else draw(some.nnz)
    tensors = tensors_of(some)
    yield f"sparse_hamilton {at}", lambda: OPS.sparse_hamilton(x, values, None, tensors, False)
    yield f"sparse_hamilton dx {at}", lambda: OPS.sparse_hamilton(dy, values, None, tensors, True)
    yield f"sparse_hamilton dv {at}", lambda: OPS.sparse_hamilton_dv(dy, x, tensors, whole)


def dense_hamilton(k: int, m: int, n: int) -> Iterator[tuple[str, Call]]:
    """The dense quaternion product and its gradients."""
    at, x, dy, weight = f"{k}x{m} batch {n}", draw(n, k), draw(n, m), draw(4, m // 4, k // 4)
    yield f"hamilton {at}", lambda: OPS.hamilton(x, weight, None, "auto")
    yield f"hamilton dx {at}", lambda: OPS.hamilton_dx(dy, weight, "auto")
    yield f"hamilton dw {at}", lambda: OPS.hamilton_dw(dy, x, "auto")


def spmm_chain(width: int, n: int, density: float) -> Iterator[tuple[str, Call]]:
    """Four square layers with ReLU."""
    some, x = pattern(width, width, density), draw(n, width)
    values, biases = [draw(some.nnz) / width**0.5] * 4, [draw(width)] * 4
    tensors, relu = [*tensors_of(some)] * 4, [1, 1, 1, 0]
    name = f"spmm_chain 4x{width} batch {n} {density:.0%}"
    yield name, lambda: OPS.spmm_chain(x, values, biases, tensors, relu)


def conv_ops(channels: int, side: int, n: int, density: float) -> Iterator[tuple[str, Call]]:
    """3x3 convolutions on a map."""
    at, numbers = f"{channels}ch {side}x{side} batch {n}", _flat(GEOMETRY)
    x = draw(n, channels, side, side)
    dy = x.flip(0)
    for name, some in (
        (f"{density:.0%}", pattern(channels, 9 * channels, density)),
        ("slices", pattern(channels, channels, 3 / channels, taps=9)),
    ):
        yield from sparse_conv(f"{name} {at}", x, dy, some, numbers)
    weight = draw(4, channels // 4, channels // 4, 3, 3) / channels
    sides = [side, side]
    yield f"hamilton_conv {at}", lambda: OPS.hamilton_conv(x, weight, None, *CONV)
    yield f"hamilton_conv dx {at}", lambda: OPS.hamilton_conv_dx(dy, weight, sides, *CONV)
    yield f"hamilton_conv dw {at}", lambda: OPS.hamilton_conv_dw(dy, x, [3, 3], *CONV)
    some = pattern(channels, 9 * channels, density)
    values, biases = [draw(some.nnz) / channels] * 2, [draw(channels)] * 2
    tensors, orders = [*tensors_of(some)] * 2, [*tap_order(tensors_of(some), GEOMETRY)] * 2
    rest = (values, biases, tensors, orders, 2 * numbers, [1, 1], [1, 2])
    yield f"sparse_conv_chain {at}", lambda: OPS.sparse_conv_chain(x, *rest)


def sparse_conv(
    at: str, x: Tensor, dy: Tensor, some: CSRPattern, numbers: list[int]
) -> Iterator[tuple[str, Call]]:
    """A sparse convolution and its gradients."""
    values, tensors = draw(some.nnz), tensors_of(some)
    yield (
        f"sparse_conv {at}",
        lambda: OPS.sparse_conv(x, values, None, tensors, False, numbers),
    )
    yield (
        f"sparse_conv dx {at}",
        lambda: OPS.sparse_conv(dy, values, None, tensors, True, numbers),
    )
    yield f"sparse_conv dv {at}", lambda: OPS.sparse_conv_dv(dy, x, tensors, numbers)


def map_ops(channels: int, side: int, n: int) -> Iterator[tuple[str, Call]]:
    """Pooling and normalization of maps."""
    at, x = f"{channels}ch {side}x{side} batch {n}", draw(n, channels, side, side)
    dy, quarter = x.flip(0), channels // 4
    pooled, mean = draw(n, channels, side // 2, side // 2), draw(channels)
    cov = draw(4, 4, quarter) * 0.1 + 9 * torch.eye(4)[:, :, None]
    gamma = draw(4, 4, quarter)
    yield f"max_pool {at}", lambda: OPS.max_pool(x)
    yield f"max_pool dx {at}", lambda: OPS.max_pool_dx(pooled, x)
    if hasattr(OPS, "feature_sum"):  # older checkouts have none
        yield f"feature_sum {at}", lambda: OPS.feature_sum(dy, 1)
    yield (
        f"quaternion_norm {at}",
        lambda: OPS.quaternion_norm(x, mean, gamma, mean, None, None),
    )
    yield f"quaternion_norm moments {at}", lambda: OPS.quaternion_norm_moments(x)
    yield f"quaternion_norm cross {at}", lambda: OPS.quaternion_norm_cross(dy, x, mean)
    yield (
        f"quaternion_whiten {at}",
        lambda: OPS.quaternion_whiten(x, mean, cov, gamma, mean, EPS),
    )
    yield (
        f"quaternion_whiten sums {at}",
        lambda: OPS.quaternion_whiten_sums(dy, x, mean, cov, EPS),
    )


def layers() -> Iterator[tuple[str, nn.Module, Tensor]]:
    """Name, layer and input; each is timed forward and in training."""
    wide, image = draw(64, 1024), draw(32, 128, 16, 16)
    linear, conv = nn.Linear(1024, 1024), nn.Conv2d(128, 128, 3, padding=1)
    keep = mask(1024, 1024, 0.1)
    yield "SparseLinear", sparseq.SparseLinear.from_dense(linear, keep), wide
    quaternion = sparseq.QLinear(1024, 1024)
    whole = mask(256, 256, 0.1).expand(4, -1, -1)
    sparse = sparseq.SparseQLinear.from_dense(quaternion, whole, granularity="quaternion")
    yield "QLinear", quaternion, wide
    yield "SparseQLinear", sparse, wide
    yield "ExpanderLinear", sparseq.ExpanderLinear(1024, 1024, 64, "block(16)"), wide
    keep = mask(128, 9 * 128, 0.1).view_as(conv.weight)
    yield "SparseConv2d", sparseq.SparseConv2d.from_dense(conv, keep), image
    yield "QConv2d", sparseq.QConv2d(128, 128, 3, padding=1), image
    yield "ExpanderConv2d", sparseq.ExpanderConv2d(128, 128, 3, 3, padding=1), image
    yield "QBatchNorm2d", sparseq.QBatchNorm2d(128), image


def layer_calls() -> Iterator[tuple[str, Call]]:
    """The layers, forward without a graph and with all gradients."""
    for name, layer, x in layers():
        inputs = [x.clone().requires_grad_(), *layer.parameters()]
        dy = torch.ones_like(layer(x)).detach()
        yield f"{name} forward", lambda layer=layer, x=x: _without_graph(layer, x)
        yield (
            f"{name} training",
            lambda layer=layer, inputs=inputs, dy=dy: torch.autograd.grad(
                layer(inputs[0]), inputs, dy
            ),
        )


def _without_graph(layer: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return layer(x)


def calls() -> Iterator[tuple[str, Call]]:
    """Every case, the operator or layer as the first word of its name."""
    yield from linear_ops(1024, 1024, 64, 0.1)
    yield from linear_ops(2048, 2048, 256, 0.05)
    yield from dense_hamilton(1024, 1024, 16)
    yield from dense_hamilton(2048, 2048, 256)
    yield from spmm_chain(1024, 64, 0.05)
    yield from spmm_chain(300, 16, 0.1)
    yield from conv_ops(128, 16, 16, 0.1)
    yield from conv_ops(256, 8, 1, 0.05)
    yield from map_ops(64, 32, 16)
    yield from map_ops(256, 8, 1)
    yield from layer_calls()


def microseconds(call: Call, seconds: float) -> float:
    """Median over samples of about a millisecond, after a warm-up."""
    call()
    start = perf_counter()
    call()
    repeats = max(1, int(TURN / max(perf_counter() - start, 1e-7)))
    samples: list[float] = []
    end = perf_counter() + seconds
    while perf_counter() < end or len(samples) < LEAST:
        start = perf_counter()
        for _ in range(repeats):
            call()
        samples.append((perf_counter() - start) / repeats)
    return 1e6 * median(samples)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.1, help="for each case")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("-k", dest="part", default="", help="part of the names of cases to time")
    chosen = parser.parse_args()
    times: dict[str, float] = {}
    for count in chosen.threads:
        torch.set_num_threads(count)
        for name, call in calls():
            if chosen.part in name:
                times[f"{name}, {count} thread(s)"] = microseconds(call, chosen.seconds)
    json.dump(times, sys.stdout)


if __name__ == "__main__":
    main()
