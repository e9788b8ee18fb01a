"""How well a graph spreads: vertex expansion by sampling, and the spectral gap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparseq.errors import argument_error, require
from sparseq.graphs.edges import Edges
from sparseq.graphs.sampling import bits, integers, stream

FRACTION = 32  # bits behind the point of the sums, which are integers: equal on every platform
CHUNK = 1 << 20  # numbers drawn at a time
LOOK_EVERY = 8  # neighbors between two looks at what is settled


@dataclass(frozen=True, eq=False)
class Subsets:
    """Random sets of the nodes of one side, all at once, from the smallest to the largest.

    Attributes:
        members: (nodes + 1, bytes) uint8; bit j of a row: whether set j has the node. The last
            row is that of a node in no set. Bits behind the last set are 1.
        weights: (bytes, 256) int64: sum of 2^FRACTION / |S| over the sets whose bits are set in a
            byte, by the place and the value of the byte.
    """

    members: NDArray[np.uint8]
    weights: NDArray[np.int64]


def draw_subsets(nodes: int, samples: int, *parts: int | str) -> Subsets:
    """`samples` sets, |S| uniform in 1..ceil(nodes / 2), each S uniform among those of its size."""
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
        subsets: of the one side, of n nodes.
        neighbors: (nodes, width), those of each node of the other side; n where there is none.
    """
    if neighbors.shape[1] == 0:
        return 0
    # a node is in N(S) if one of its neighbors is in S
    reached = subsets.members[neighbors[:, 0]]
    open_bytes = reached.shape[1]
    for column in range(1, neighbors.shape[1]):
        if column % LOOK_EVERY == 0:  # large sets reach everything soon
            (unsettled,) = np.nonzero((reached[:, :open_bytes] != 255).any(axis=0))
            open_bytes = int(unsettled.max(initial=-1)) + 1
        found = np.take(subsets.members, neighbors[:, column], axis=0)
        reached[:, :open_bytes] |= found[:, :open_bytes]
    return int(subsets.weights[np.arange(reached.shape[1]), reached].sum())


def padded(
    degrees: NDArray[np.integer], ids: NDArray[np.integer], nodes: int
) -> NDArray[np.integer]:
    """(rows, largest degree): the ids of each row in order, then `nodes`."""
    there = np.arange(degrees.max(initial=0)) < degrees[:, None]
    neighbors = np.full(there.shape, nodes)
    neighbors[there] = ids
    return neighbors


def edges_of(graph: Any) -> Edges:
    """The edges of a drawn graph, of an expander layer, or of a layer with a sparse pattern."""
    found = graph if isinstance(graph, Edges) else getattr(graph, "edges", None)
    if isinstance(found, Edges):
        return found
    pattern = getattr(graph, "pattern", None)
    if pattern is None:
        raise argument_error(
            "expansion", "graph", "must be edges or a layer that has them", type(graph).__name__
        )
    n_out, n_in = pattern.shape
    ends = (ids.cpu().numpy().astype(np.int32) for ids in (pattern.rows(), pattern.col_idx))
    return Edges(n_in, n_out, *ends)


def expansion(graph: Any, samples: int = 1000, seed: int = 0) -> float:
    """Estimated vertex expansion: mean of (|N(S_L)| / |S_L| + |N(S_R)| / |S_R|) / 2.

    Args:
        graph: `Edges`, or a layer with a graph or a sparse pattern.
        samples: sets drawn of each side, |S| uniform in 1..ceil(n / 2).
        seed: of the sets.

    Returns:
        The estimate; larger is better. It is the measure by which `regular` chooses. What it
        estimates depends on the degrees of the nodes alone, as a random set misses a node of d
        edges with a probability that only d decides: `spectral_gap` also sees how they are joined.

    Raises:
        ValueError: samples below 1, or something that is no graph.

    Source: Stewart et al. 2023, section 3.
    """
    require(samples >= 1, "expansion", "samples", "must be at least 1", samples)
    edges = edges_of(graph)
    back = edges.reversed()
    left = draw_subsets(edges.n_in, samples, "left", seed)
    right = draw_subsets(edges.n_out, samples, "right", seed)
    total = neighborhoods(left, padded(edges.out_degrees(), edges.inputs, edges.n_in))
    total += neighborhoods(right, padded(edges.in_degrees(), back.inputs, edges.n_out))
    return total / (2 * samples << FRACTION)


def spectral_gap(graph: Any) -> float:
    """1 - s_2, s_2 the second singular value of D_out^-1/2 A D_in^-1/2, whose first is 1.

    Args:
        graph: `Edges`, or a layer with a graph or a sparse pattern.

    Returns:
        0 (falls apart into pieces) to 1 (complete); 1 where one side has a single node.

    Raises:
        ValueError: something that is no graph.
    """
    edges = edges_of(graph)
    scale = np.sqrt(edges.out_degrees()[edges.outputs] * edges.in_degrees()[edges.inputs])
    matrix = np.zeros((edges.n_out, edges.n_in))
    matrix[edges.outputs, edges.inputs] = 1 / scale
    values = np.linalg.svd(matrix, compute_uv=False)
    return max(float(1 - values[1]), 0.0) if len(values) > 1 else 1.0
