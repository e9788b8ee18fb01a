"""`random`: independent edges of equal probability."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparseq.graphs.catalog import GRAPHS, Graph
from sparseq.graphs.edges import EDGE_BYTES, Edges
from sparseq.graphs.sampling import bits, stream

EDGES_AT_ONCE = 1 << 20  # possible edges hashed at a time


@GRAPHS.register("random")
@dataclass(frozen=True)
class Random(Graph):
    """Each of the n_in n_out possible edges exists with probability p = min(degree / n_out, 1).

    An input has `degree` edges on average; some nodes may have none.

    Source: Stewart et al. 2023, "Data-free model pruning at initialization via expanders".
    """

    @property
    def per_input(self) -> bool:
        return True

    def work(self, n_in: int, n_out: int, degree: int) -> int:
        return n_in * (8 * n_out + EDGE_BYTES * min(degree, n_out))  # a hash per possible edge

    def draw(self, n_in: int, n_out: int, degree: int, seed: int) -> Edges:
        if degree >= n_out:
            return Edges.from_matrix(np.ones((n_out, n_in), np.bool_), str(self))
        # an integer threshold: the same edges on every platform
        threshold, key = np.uint64(degree * 2**64 // n_out), stream("random", seed)
        matrix = np.empty((n_out, n_in), np.bool_)
        step = max(EDGES_AT_ONCE // n_in, 1)
        for first in range(0, n_out, step):
            rows = np.arange(first, min(first + step, n_out))
            matrix[rows] = bits(key, rows[:, None] * n_in + np.arange(n_in)) < threshold
        return Edges.from_matrix(matrix, str(self))
