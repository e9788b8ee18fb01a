"""`circulant`: every node has its edges at the same few offsets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparseq.graphs.catalog import GRAPHS, Graph
from sparseq.graphs.edges import EDGE_BYTES, Edges
from sparseq.graphs.sampling import permutations, stream


@GRAPHS.register("circulant")
@dataclass(frozen=True)
class Circulant(Graph):
    """Node v of the larger side has edges to v + s_1, ..., v + s_d (mod n), n the smaller size.

    The offsets s are distinct and random, d = min(degree, n). Adjacent nodes read adjacent nodes,
    so that a kernel loads with unit stride. The degrees on the smaller side differ by at most d,
    and are equal where n divides the size of the larger side.
    """

    def work(self, n_in: int, n_out: int, degree: int) -> int:
        return EDGE_BYTES * max(n_in, n_out) * min(degree, n_in, n_out)

    def draw(self, n_in: int, n_out: int, degree: int, seed: int) -> Edges:
        small = min(n_in, n_out)
        offsets = permutations(stream("circulant", seed), small)[: min(degree, small)]
        return cyclic(n_in, n_out, offsets, str(self))


def cyclic(n_in: int, n_out: int, offsets: NDArray[np.int64], graph: str) -> Edges:
    """Edges from node v of the larger side to v + each (distinct) offset, modulo the smaller."""
    small, large = sorted((n_in, n_out))
    far = np.sort((np.arange(large)[:, None] + offsets) % small, axis=1)
    near = np.repeat(np.arange(large), len(offsets))
    sides = near.astype(np.int32), far.ravel().astype(np.int32)
    edges = Edges(small, large, *sides, graph)
    return edges if n_out >= n_in else edges.reversed()
