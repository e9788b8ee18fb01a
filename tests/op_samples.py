"""Arguments to call every declared operator with; a new operator adds its own here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from sparseq.formats import CSRPattern
from sparseq.ops.geometry import ConvGeometry
from sparseq.ops.sparse_conv_chain import tap_order

Arguments = tuple[Any, ...]
Draw = Callable[..., Tensor]


def drawing(dtype: torch.dtype, requires_grad: bool = False, seed: int = 0) -> Draw:
    """draw(*shape): seeded normal tensors of that dtype."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        tensor = torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)
        return tensor.requires_grad_(requires_grad)

    return draw


def pattern(rows: int, columns: int, density: float = 0.4) -> CSRPattern:
    """A seeded pattern whose first row is empty."""
    generator = torch.Generator().manual_seed(rows * columns)
    mask = torch.rand(rows, columns, generator=generator) < density
    mask[0] = False
    return CSRPattern.from_mask(mask)


def slices(rows: int, channels: int, taps: int = 9) -> CSRPattern:
    """Whole kernel slices at the entries of `pattern`."""
    return CSRPattern.from_mask(pattern(rows, channels).mask().repeat_interleave(taps, 1))


def feature_sum(draw: Draw) -> Iterator[Arguments]:
    yield draw(3, 5, 4, 6), 1
    yield draw(2, 3, 19), 2
    yield draw(7, 5, 2), 1
    yield draw(5), 0


def hamilton(draw: Draw) -> Iterator[Arguments]:
    yield draw(3, 20), draw(4, 3, 5), draw(12), "auto"
    yield draw(2, 3, 8), draw(4, 9, 2), None, "8"
    yield draw(1, 68), draw(4, 1, 17), draw(4), "16"


def hamilton_dx(draw: Draw) -> Iterator[Arguments]:
    yield draw(3, 12), draw(4, 3, 5), "auto"
    yield draw(5, 36), draw(4, 9, 2), "8"
    yield draw(1, 4), draw(4, 1, 17), "16"


def hamilton_dw(draw: Draw) -> Iterator[Arguments]:
    yield draw(3, 12), draw(3, 20), "auto"
    yield draw(5, 36), draw(5, 8), "8"
    yield draw(2, 2, 4), draw(2, 2, 68), "16"


def hamilton_conv(draw: Draw) -> Iterator[Arguments]:
    yield draw(2, 12, 5, 6), draw(4, 2, 3, 3, 3), draw(8), [1, 1], [1, 1], [1, 1], 1, "8"
    yield draw(1, 8, 7), draw(4, 2, 1, 2), None, [2], [0], [2], 2, "16"
    volume = draw(2, 4, 3, 4, 2), draw(4, 1, 1, 1, 2, 2), draw(4)
    yield *volume, [1, 2, 1], [0, 1, 1], [1, 1, 1], 1, "8"


def hamilton_conv_dx(draw: Draw) -> Iterator[Arguments]:
    yield draw(2, 8, 5, 6), draw(4, 2, 3, 3, 3), [5, 6], [1, 1], [1, 1], [1, 1], 1, "8"
    yield draw(1, 8, 3), draw(4, 2, 1, 2), [8], [2], [0], [2], 2, "16"


def hamilton_conv_dw(draw: Draw) -> Iterator[Arguments]:
    yield draw(2, 8, 5, 6), draw(2, 12, 5, 6), [3, 3], [1, 1], [1, 1], [1, 1], 1, "8"
    yield draw(1, 8, 3), draw(1, 8, 8), [2], [2], [0], [2], 2, "16"


def max_pool(draw: Draw) -> Iterator[Arguments]:
    yield (draw(2, 3, 4, 8),)
    yield (draw(3, 5, 7),)


def max_pool_dx(draw: Draw) -> Iterator[Arguments]:
    yield draw(2, 3, 2, 4), draw(2, 3, 4, 8)
    yield draw(3, 2, 3), draw(3, 5, 7)


def spmm(draw: Draw) -> Iterator[Arguments]:
    some = pattern(7, 19)
    yield draw(3, 19), draw(some.nnz), draw(7), some.tensors, False
    yield draw(2, 3, 7), draw(some.nnz), draw(19), some.tensors, True
    none = pattern(5, 3, density=0)
    yield draw(4, 3), draw(0), None, none.tensors, False


def spmm_chain(draw: Draw) -> Iterator[Arguments]:
    first, second, third = pattern(7, 19), pattern(5, 7), pattern(4, 5)
    values = [draw(some.nnz) for some in (first, second, third)]
    biases = [draw(7), draw(0), draw(4)]
    tensors = [*first.tensors, *second.tensors, *third.tensors]
    yield draw(3, 19), values, biases, tensors, [1, 1, 0]
    yield draw(2, 3, 19), values[:1], biases[:1], list(first.tensors), [0]


def sddmm(draw: Draw) -> Iterator[Arguments]:
    some = pattern(7, 19)
    yield draw(3, 7), draw(3, 19), some.tensors
    yield draw(2, 17, 7), draw(2, 17, 19), some.tensors


def sparse_conv(draw: Draw) -> Iterator[Arguments]:
    some, plain = pattern(6, 27), ConvGeometry.of((3, 3), padding=1).flat()
    yield draw(2, 3, 5, 4), draw(some.nnz), draw(6), some.tensors, False, plain
    yield draw(1, 6, 5, 4), draw(some.nnz), draw(3), some.tensors, True, plain
    line, apart = pattern(4, 6), ConvGeometry((3,), (2,), (1,), (2,), (1,), 2).flat()
    yield draw(17, 4, 9), draw(line.nnz), None, line.tensors, False, apart
    yield draw(2, 4, 4), draw(line.nnz), None, line.tensors, True, apart
    edges = slices(4, 3)
    yield draw(2, 3, 4, 4), draw(edges.nnz), draw(4), edges.tensors, False, plain
    yield draw(2, 4, 3, 16), draw(edges.nnz), draw(3), edges.tensors, True, plain
    none, cube = pattern(5, 8, density=0), ConvGeometry.of((2, 2, 2)).flat()
    yield draw(2, 1, 3, 2, 2), draw(0), draw(5), none.tensors, False, cube


def sparse_conv_chain(draw: Draw) -> Iterator[Arguments]:
    first, second = pattern(6, 27), pattern(5, 54)
    values, biases = [draw(first.nnz), draw(second.nnz)], [draw(6), draw(0)]
    tensors = [*first.tensors, *second.tensors]
    geometry = ConvGeometry.of((3, 3), padding=1)
    orders = [*tap_order(first.tensors, geometry), *tap_order(second.tensors, geometry)]
    numbers = geometry.flat()
    yield draw(17, 3, 8, 4), values, biases, tensors, orders, 2 * numbers, [1, 0], [2, 1]
    yield draw(2, 3, 5, 7), values[:1], biases[:1], tensors[:5], [], numbers, [0], [3]


def sparse_conv_dv(draw: Draw) -> Iterator[Arguments]:
    some, plain = pattern(6, 27), ConvGeometry.of((3, 3), padding=1).flat()
    yield draw(2, 6, 5, 4), draw(2, 3, 5, 4), some.tensors, plain
    line, apart = pattern(4, 6), ConvGeometry((3,), (2,), (1,), (2,), (0,), 2).flat()
    yield draw(17, 4, 4), draw(17, 4, 9), line.tensors, apart
    edges = slices(4, 3)
    yield draw(2, 4, 4, 4), draw(2, 3, 4, 4), edges.tensors, plain
    yield draw(1, 4, 3, 16), draw(1, 3, 3, 16), edges.tensors, plain


def sparse_hamilton(draw: Draw) -> Iterator[Arguments]:
    single, whole = pattern(12, 5), pattern(3, 5)
    yield draw(3, 20), draw(single.nnz), draw(12), single.tensors, False
    yield draw(3, 12), draw(single.nnz), None, single.tensors, True
    yield draw(2, 2, 20), draw(whole.nnz, 4), draw(12), whole.tensors, False
    yield draw(3, 12), draw(whole.nnz, 4), None, whole.tensors, True


def sparse_hamilton_dv(draw: Draw) -> Iterator[Arguments]:
    yield draw(3, 12), draw(3, 20), pattern(12, 5).tensors, False
    yield draw(3, 12), draw(3, 20), pattern(3, 5).tensors, True


def block_mm(draw: Draw) -> Iterator[Arguments]:
    grid = pattern(5, 4)
    yield draw(3, 12), draw(grid.nnz, 2, 3), draw(10), grid.tensors, False
    yield draw(2, 2, 10), draw(grid.nnz, 2, 3), draw(12), grid.tensors, True
    yield draw(3, 4), draw(grid.nnz, 8, 1), None, grid.tensors, False


def block_mm_dv(draw: Draw) -> Iterator[Arguments]:
    grid = pattern(5, 4)
    yield draw(3, 10), draw(3, 12), grid.tensors, 2, 3
    yield draw(2, 2, 40), draw(2, 2, 4), grid.tensors, 8, 1


def quaternion_norm(draw: Draw) -> Iterator[Arguments]:
    yield draw(3, 12, 3, 7), draw(12), draw(4, 4, 3), draw(12), None, None
    yield draw(2, 4, 5), None, draw(4, 4, 1), None, draw(2, 4, 5), draw(4, 4, 1)
    yield draw(3, 68), None, draw(4, 4, 17), draw(68), None, None


def quaternion_norm_moments(draw: Draw) -> Iterator[Arguments]:
    yield (draw(3, 12, 3, 7),)
    yield (draw(5, 68),)


def quaternion_norm_cross(draw: Draw) -> Iterator[Arguments]:
    yield draw(3, 12, 3, 7), draw(3, 12, 3, 7), draw(12)
    yield draw(5, 68), draw(5, 68), None


def _covariances(draw: Draw, channels: int) -> Tensor:
    cov = draw(4, 4, channels)
    with torch.no_grad():
        cov += 9 * torch.eye(4, dtype=cov.dtype)[:, :, None]
    return cov


def quaternion_whiten(draw: Draw) -> Iterator[Arguments]:
    yield draw(3, 12, 3, 7), draw(12), _covariances(draw, 3), draw(4, 4, 3), draw(12), 0.1
    yield draw(3, 68), draw(68), _covariances(draw, 17), None, None, 0.1


def quaternion_whiten_sums(draw: Draw) -> Iterator[Arguments]:
    yield draw(3, 12, 3, 7), draw(3, 12, 3, 7), draw(12), _covariances(draw, 3), 0.1
    yield draw(5, 68), draw(5, 68), draw(68), _covariances(draw, 17), 0.1


def quaternion_whiten_dx(draw: Draw) -> Iterator[Arguments]:
    maps, gamma = (draw(3, 12, 3, 7), draw(3, 12, 3, 7)), draw(4, 4, 3)
    yield *maps, draw(12), _covariances(draw, 3), gamma, draw(5, 4, 3), 0.1
    yield draw(2, 68), draw(2, 68), draw(68), _covariances(draw, 17), None, draw(5, 4, 17), 0.1


def quaternion_whiten_factor(draw: Draw) -> Iterator[Arguments]:
    yield _covariances(draw, 17), 0.1


SAMPLES: dict[str, Callable[[Draw], Iterator[Arguments]]] = {
    maker.__name__: maker
    for maker in (
        block_mm,
        block_mm_dv,
        feature_sum,
        hamilton,
        hamilton_dx,
        hamilton_dw,
        hamilton_conv,
        hamilton_conv_dx,
        hamilton_conv_dw,
        max_pool,
        max_pool_dx,
        quaternion_norm,
        quaternion_norm_cross,
        quaternion_norm_moments,
        quaternion_whiten,
        quaternion_whiten_dx,
        quaternion_whiten_factor,
        quaternion_whiten_sums,
        spmm,
        spmm_chain,
        sddmm,
        sparse_conv,
        sparse_conv_chain,
        sparse_conv_dv,
        sparse_hamilton,
        sparse_hamilton_dv,
    )
}
