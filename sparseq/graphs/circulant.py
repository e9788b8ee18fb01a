"""`circulant`: the same few steps from every node."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparseq.graphs.catalog import GRAPHS, Graph
from sparseq.graphs.edges import Edges
from sparseq.graphs.sampling import permutations, stream


@GRAPHS.register("circulant")
@dataclass(frozen=True)
class Circulant(Graph):
    """Node v of the larger side meets v + s_1, ..., v + s_d (mod n) of the smaller side's n nodes.

    The steps s are different and random, d = min(degree, n). Neighbors read neighbors, so that a
    kernel loads with unit stride. Nodes of the smaller side differ by at most d edges, and by none
    where n divides the larger side.
    """

    def draw(self, n_in: int, n_out: int, degree: int, seed: int) -> Edges:
        small = min(n_in, n_out)
        steps = permutations(stream("circulant", seed), small)[: min(degree, small)]
        return cyclic(n_in, n_out, steps, str(self))


def cyclic(n_in: int, n_out: int, steps: NDArray[np.int64], graph: str) -> Edges:
    """Node v of the larger side meets v + each of the (different) steps, modulo the smaller."""
    small, large = sorted((n_in, n_out))
    far = np.sort((np.arange(large)[:, None] + steps) % small, axis=1)
    near = np.repeat(np.arange(large), len(steps))
    sides = near.astype(np.int32), far.ravel().astype(np.int32)
    edges = Edges(small, large, *sides, graph)
    return edges if n_out >= n_in else edges.reversed()
