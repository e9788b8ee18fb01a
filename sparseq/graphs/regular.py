"""`regular` (RReg): simple random graphs of exact degrees, the best of several."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sparseq.errors import require
from sparseq.graphs.catalog import GRAPHS, Graph, is_integer
from sparseq.graphs.edges import EDGE_BYTES, Edges
from sparseq.graphs.expansion import Subsets, draw_subsets, neighborhoods, padded
from sparseq.graphs.sampling import Bits, bits, integers, permutations, stream

Neighbors = NDArray[np.int64]
CELLS_AT_ONCE = 1 << 22  # cells of the adjacency matrices in memory at a time


@GRAPHS.register("regular")
@dataclass(frozen=True)
class Regular(Graph):
    """Each node of the larger side has d = min(degree, n) edges, n the size of the smaller side.

    The degrees on the smaller side are equal or differ by one; no edge is double. Of `tries` such
    graphs, the one with the largest estimated `expansion` is kept, as in the source; as the degrees
    are equal, the estimates differ by chance only (see `expansion`).

    Attributes:
        tries: number of graphs drawn.
        samples: number of sets in the estimate of the expansion.
        pick: number of the single try to draw, without a search.

    Source: Stewart et al. 2023, "Data-free model pruning at initialization via expanders"; drawn
    by the configuration model (Bollobas 1980), with double edges removed by switching.
    """

    tries: int = 100
    samples: int = 1000
    pick: int | None = None

    def __post_init__(self) -> None:
        for name in ("tries", "samples"):
            value = getattr(self, name)
            require(
                is_integer(value) and value >= 1,
                "graph regular",
                name,
                "must be an integer of at least 1",
                value,
            )
        require(
            self.pick is None or (is_integer(self.pick) and self.pick >= 0),
            "graph regular",
            "pick",
            "must be the number of a try",
            self.pick,
        )

    def work(self, n_in: int, n_out: int, degree: int) -> int:
        degree, nodes = min(degree, n_in, n_out), n_in + n_out
        edges = max(n_in, n_out) * degree
        one = 2 * n_in * n_out + EDGE_BYTES * edges  # a count per cell, and ids
        if self.pick is not None or self.tries == 1 or degree == min(n_in, n_out):
            return one
        # a byte holds 8 sets of nodes, or the sets that an edge reaches
        searched = one + self.samples * edges // 4
        return one + self.samples * nodes + self.tries * searched

    def draw(self, n_in: int, n_out: int, degree: int, seed: int) -> Edges:
        small, large = sorted((n_in, n_out))
        degree = min(degree, small)
        sizes = (large, small, degree)
        pick = self._best(sizes, seed) if self.pick is None else self.pick
        far = next(_drawn(sizes, seed, [pick]))
        near = np.repeat(np.arange(large, dtype=np.int32), degree)
        name = str(replace(Regular(), pick=pick))
        edges = Edges(small, large, near, far.ravel().astype(np.int32), name)
        return edges if n_out >= n_in else edges.reversed()

    def _best(self, sizes: tuple[int, int, int], seed: int) -> int:
        """Number of the try with the largest estimated expansion, the first in case of a tie."""
        large, small, degree = sizes
        if self.tries == 1 or degree == small:
            return 0
        near = draw_subsets(large, self.samples, "regular", "large", seed)
        far = draw_subsets(small, self.samples, "regular", "small", seed)
        graphs = _drawn(sizes, seed, range(self.tries))
        return int(np.argmax([_expansion(graph, small, near, far) for graph in graphs]))


def _expansion(graph: Neighbors, small: int, near: Subsets, far: Subsets) -> int:
    """Sum of |N(S)| / |S| over the sets of both sides, in integers (see `neighborhoods`)."""
    large, degree = graph.shape
    ids = graph.ravel().astype(np.min_scalar_type(small))  # 16 bits sort fastest
    near_ids = np.argsort(ids, kind="stable") // degree
    reverse = padded(np.bincount(ids, minlength=small), near_ids, large)
    return neighborhoods(far, graph) + neighborhoods(near, reverse)


def _drawn(sizes: tuple[int, int, int], seed: int, tries: range | list[int]) -> Iterator[Neighbors]:
    """Graphs of the tries: (large, degree), the sorted neighbors of each node of the larger side.

    A try depends on its number alone, not on the tries that are drawn with it.
    """
    large, small, degree = sizes
    step = max(CELLS_AT_ONCE // (large * small), 1)
    for first in range(0, len(tries), step):
        keys = [stream("regular", seed, number) for number in tries[first : first + step]]
        yield from _simple_graphs(np.stack(keys), large, small, degree)


def _simple_graphs(key: Bits, large: int, small: int, degree: int) -> Neighbors:
    """(keys, large, degree): one graph for each key of (keys, 1)."""
    if degree == 0:
        return np.zeros((len(key), large, 0), np.int64)
    if 2 * degree > small:  # fewer edges are missing than present: draw the missing ones
        missing = _simple_graphs(key, large, small, small - degree)
        is_edge = np.ones((len(key), large, small), np.bool_)
        np.put_along_axis(is_edge, missing, False, axis=2)
        return np.nonzero(is_edge)[2].reshape(len(key), large, degree)
    stubs = large * degree
    # shuffled stubs modulo `small`: how often each label occurs differs by at most one
    labels, order = permutations(key, small), _shuffled(key, small, stubs)
    far = np.take_along_axis(labels, order % small, axis=1).reshape(len(key), large, degree)
    far = np.sort(far, axis=2)
    _switch_doubles(far, key, small)
    return np.sort(far, axis=2)


def _shuffled(key: Bits, start: int, length: int) -> NDArray[np.int64]:
    """(keys, length) random permutations of 0..length-1; the counters begin at `start`."""
    low = np.uint64(32)
    drawn = bits(key, start + np.arange(length))
    # a sort of numbers that contain their index is faster than an argsort
    drawn = (drawn >> low << low) | np.arange(length, dtype=np.uint64)
    return (np.sort(drawn, axis=1) & np.uint64(2**32 - 1)).astype(np.int64)


def _switch_doubles(far: Neighbors, key: Bits, small: int) -> None:
    """Remove the double edges of graphs, in place, without changing any degree.

    In every round each surplus edge (u, a) proposes to a random edge (v, b) of its graph to become
    (u, b) and (v, a). Proposals that would double an edge or conflict with another are dropped.

    Args:
        far: (graphs, large, degree), rows sorted.
    """
    _, large, degree = far.shape
    stubs, flat = large * degree, far.reshape(-1)
    count = _edge_counts(flat.reshape(-1, degree), small)
    surplus = 1 + np.flatnonzero(flat[1:] == flat[:-1])
    surplus = surplus[surplus % degree > 0]
    start = small + stubs
    while len(surplus):
        graph = surplus // stubs
        drawn = integers(key[graph, 0], start + surplus % stubs, stubs)
        _switch(flat, count, surplus, graph * stubs + drawn, (degree, small))
        surplus = surplus[count[surplus // degree * small + flat[surplus]] > 1]
        start += stubs


def _edge_counts(far: Neighbors, small: int) -> NDArray[np.uint16]:
    """(rows * small): the multiplicity of each edge; rows are sorted."""
    cells = (np.arange(len(far))[:, None] * small + far).ravel()
    first = np.flatnonzero(np.diff(cells, prepend=-1))
    count = np.zeros(len(far) * small, np.uint16)
    count[cells[first]] = np.diff(first, append=len(cells))
    return count


def _switch(
    flat: Neighbors,
    count: NDArray[np.uint16],
    edge: NDArray[np.int64],
    partner: NDArray[np.int64],
    shape: tuple[int, int],
) -> None:
    """Perform the proposals that create two new edges and conflict with no other."""
    degree, small = shape
    new = edge // degree * small + flat[partner], partner // degree * small + flat[edge]
    absent = (count[new[0]] == 0) & (count[new[1]] == 0)
    claims = np.stack([edge, partner, len(flat) + new[0], len(flat) + new[1]])[:, absent]
    unopposed = _unique(claims.ravel()).reshape(claims.shape).all(axis=0)
    edge, partner = claims[:2, unopposed]
    for end in (edge, partner):
        np.subtract.at(count, end // degree * small + flat[end], 1)
    count[claims[2:, unopposed] - len(flat)] += np.uint16(1)
    flat[edge], flat[partner] = flat[partner], flat[edge]


def _unique(numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each number occurs exactly once."""
    order = np.argsort(numbers)
    ordered = numbers[order]
    change = np.concatenate([[True], ordered[1:] != ordered[:-1], [True]])
    unique = np.empty(len(numbers), np.bool_)
    unique[order] = change[1:] & change[:-1]
    return unique
