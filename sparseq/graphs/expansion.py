"""How well connected a graph is: sampled vertex expansion, and the spectral gap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparseq.errors import argument_error, require
from sparseq.graphs.edges import Edges
from sparseq.graphs.sampling import bits, integers, stream

FRACTION = 32  # fractional bits of the sums, which are integers to be equal on every platform
CHUNK = 1 << 20  # random numbers drawn at a time
CHECK_EVERY = 8  # neighbors between two checks of which sets already reach every node


@dataclass(frozen=True, eq=False)
class Subsets:
    """Random sets of the nodes of one side, as bit masks, sorted by size.

    Attributes:
        members: (nodes + 1, bytes) uint8; bit j of a row: whether set j contains the node. The
            last row is a node in no set, for padding. Bits after the last set are 1.
        weights: (bytes, 256) int64: sum of 2^FRACTION / |S| over the sets whose bits are set in a
            byte, by the position and the value of the byte.
    """

    members: NDArray[np.uint8]
    weights: NDArray[np.int64]


def draw_subsets(nodes: int, samples: int, *parts: int | str) -> Subsets:
    """`samples` sets, |S| uniform in 1..ceil(nodes / 2), S uniform among the sets of its size."""
    key = stream("subsets", *parts)
    sizes = np.sort(1 + integers(key, np.arange(samples), (nodes + 1) // 2))
    members = np.ones((-(-samples // 8) * 8, nodes + 1), np.bool_)
    members[:, nodes] = False
    step = max(CHUNK // nodes, 1)
    for first in range(0, samples, step):
        rows = np.arange(first, min(first + step, samples))[:, None]
        order = np.argsort(bits(key, samples + rows * nodes + np.arange(nodes)), axis=1)
        members[rows, order] = np.arange(nodes) < sizes[rows]
    packed = np.ascontiguousarray(np.packbits(members, axis=0, bitorder="little").T)
    terms = np.zeros(len(members), np.int64)
    terms[:samples] = (1 << FRACTION) // sizes
    values = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    return Subsets(packed, terms.reshape(-1, 8) @ values.T.astype(np.int64))


def neighborhoods(subsets: Subsets, neighbors: NDArray[np.integer]) -> int:
    """Sum of |N(S)| / |S| over the sets, times 2^FRACTION, an exact integer.

    Args:
        subsets: sets of the n nodes of one side.
        neighbors: (nodes, width), the neighbors of each node of the other side, padded with n.
    """
    if neighbors.shape[1] == 0:
        return 0
    # a node is in N(S) if one of its neighbors is in S
    reached = subsets.members[neighbors[:, 0]]
    open_bytes = reached.shape[1]
    for column in range(1, neighbors.shape[1]):
        if column % CHECK_EVERY == 0:  # large sets soon reach every node
            (unfinished,) = np.nonzero((reached[:, :open_bytes] != 255).any(axis=0))
            open_bytes = int(unfinished.max(initial=-1)) + 1
        members = np.take(subsets.members, neighbors[:, column], axis=0)
        reached[:, :open_bytes] |= members[:, :open_bytes]
    return int(subsets.weights[np.arange(reached.shape[1]), reached].sum())


def padded(
    degrees: NDArray[np.integer], ids: NDArray[np.integer], nodes: int
) -> NDArray[np.integer]:
    """(rows, largest degree): the ids of each row in order, padded with `nodes`."""
    is_edge = np.arange(degrees.max(initial=0)) < degrees[:, None]
    neighbors = np.full(is_edge.shape, nodes)
    neighbors[is_edge] = ids
    return neighbors


def edges_of(graph: Any) -> Edges:
    """The edges of a drawn graph, an expander layer, or a layer with a sparse pattern."""
    edges = graph if isinstance(graph, Edges) else getattr(graph, "edges", None)
    if isinstance(edges, Edges):
        return edges
    pattern = getattr(graph, "pattern", None)
    if pattern is None:
        raise argument_error(
            "expansion", "graph", "must be edges or a layer with edges", type(graph).__name__
        )
    n_out, n_in = pattern.shape
    ends = (ids.cpu().numpy().astype(np.int32) for ids in (pattern.rows(), pattern.columns()))
    return Edges(n_in, n_out, *ends)


def expansion(graph: Any, samples: int = 1000, seed: int = 0) -> float:
    """Estimated vertex expansion: mean of (|N(S_L)| / |S_L| + |N(S_R)| / |S_R|) / 2.

    Args:
        graph: `Edges`, or a layer with a graph or a sparse pattern.
        samples: number of sets drawn on each side, |S| uniform in 1..ceil(n / 2).
        seed: seed of the sets.

    Returns:
        The estimate; larger is better. `regular` picks its graph by it. Its expected value depends
        on the degrees of the nodes alone, as the probability that a random set misses a node is a
        function of its degree: `spectral_gap` also depends on how the nodes are connected.

    Raises:
        ValueError: samples below 1, or an argument that is not a graph.

    Source: Stewart et al. 2023, section 3.
    """
    require(samples >= 1, "expansion", "samples", "must be at least 1", samples)
    edges = edges_of(graph)
    swapped = edges.reversed()
    left = draw_subsets(edges.n_in, samples, "left", seed)
    right = draw_subsets(edges.n_out, samples, "right", seed)
    total = neighborhoods(left, padded(edges.out_degrees(), edges.inputs, edges.n_in))
    total += neighborhoods(right, padded(edges.in_degrees(), swapped.inputs, edges.n_out))
    return total / (2 * samples << FRACTION)


def spectral_gap(graph: Any) -> float:
    """1 - s_2, s_2 the second singular value of D_out^-1/2 A D_in^-1/2, whose first is 1.

    Args:
        graph: `Edges`, or a layer with a graph or a sparse pattern.

    Returns:
        0 (disconnected) to 1 (complete); 1 where one side has a single node.

    Raises:
        ValueError: an argument that is not a graph.
    """
    edges = edges_of(graph)
    scale = np.sqrt(edges.out_degrees()[edges.outputs] * edges.in_degrees()[edges.inputs])
    matrix = np.zeros((edges.n_out, edges.n_in))
    matrix[edges.outputs, edges.inputs] = 1 / scale
    values = np.linalg.svd(matrix, compute_uv=False)
    return max(float(1 - values[1]), 0.0) if len(values) > 1 else 1.0
