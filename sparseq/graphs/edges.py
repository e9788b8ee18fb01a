"""`Edges`: a drawn graph as the list of its edges."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparseq.graphs.limit import spend

Ids = NDArray[np.int32]
EDGE_BYTES = 48  # about what drawing one edge writes: ids of 64 bits, their order, the two ends


@dataclass(frozen=True, eq=False)
class Edges:
    """Distinct edges between n_in inputs and n_out outputs, sorted by output and then input.

    Attributes:
        n_in, n_out: numbers of nodes.
        outputs, inputs: (edges) int32, the two endpoints of each edge.
        graph: name that reproduces these edges from the same sizes, degree and seed without a
            search: "regular(pick=7)" is try number 7 of "regular".
        block: (rows, columns): the edges fill complete blocks of `rows` outputs by `columns`
            inputs, aligned to multiples of these.
    """

    n_in: int
    n_out: int
    outputs: Ids
    inputs: Ids
    graph: str = ""
    block: tuple[int, int] = (1, 1)

    @classmethod
    def from_matrix(cls, matrix: NDArray[np.bool_], graph: str = "") -> Edges:
        """From an (n_out, n_in) bool matrix, True = edge."""
        outputs, inputs = (ids.astype(np.int32) for ids in np.nonzero(matrix))
        return cls(matrix.shape[1], matrix.shape[0], outputs, inputs, graph)

    def __len__(self) -> int:
        return len(self.outputs)

    @property
    def density(self) -> float:
        """Number of edges divided by the n_in n_out possible ones."""
        return len(self) / (self.n_in * self.n_out)

    @property
    def row_ptr(self) -> Ids:
        """(n_out + 1) int32: the edges of output o are row_ptr[o] to row_ptr[o + 1] - 1."""
        ends = np.cumsum(self.out_degrees(), dtype=np.int32)
        return np.concatenate([np.zeros(1, np.int32), ends])

    def out_degrees(self) -> NDArray[np.int64]:
        """(n_out) int64: the number of edges of each output."""
        return np.bincount(self.outputs, minlength=self.n_out)

    def in_degrees(self) -> NDArray[np.int64]:
        """(n_in) int64: the number of edges of each input."""
        return np.bincount(self.inputs, minlength=self.n_in)

    def matrix(self) -> NDArray[np.bool_]:
        """(n_out, n_in) bool, True = edge: the inverse of `from_matrix`."""
        matrix = np.zeros((self.n_out, self.n_in), np.bool_)
        matrix[self.outputs, self.inputs] = True
        return matrix

    def reversed(self) -> Edges:
        """The same graph with inputs and outputs swapped."""
        order = np.argsort(self.inputs, kind="stable")
        sides = self.inputs[order], self.outputs[order]
        return Edges(self.n_out, self.n_in, *sides, self.graph, self.block[::-1])

    def grid(self) -> Edges:
        """The graph between blocks; the graph itself where blocks are single edges."""
        rows, columns = self.block
        corner = (self.outputs % rows == 0) & (self.inputs % columns == 0)
        outputs, inputs = self.outputs[corner] // rows, self.inputs[corner] // columns
        return Edges(self.n_in // columns, self.n_out // rows, outputs, inputs, self.graph)

    def expanded(self, rows: int, columns: int, graph: str = "") -> Edges:
        """The inverse of `grid`: each edge becomes a block of (rows, columns)."""
        n_in, n_out = self.n_in * columns, self.n_out * rows
        spend(graph or self.graph, EDGE_BYTES * len(self) * rows * columns)
        down, across = np.arange(rows)[:, None], np.arange(columns)
        outputs = self.outputs.astype(np.int64)[:, None, None] * rows + down
        ids = np.sort((outputs * n_in + self.inputs[:, None, None] * columns + across).ravel())
        ends = (ids // n_in).astype(np.int32), (ids % n_in).astype(np.int32)
        return Edges(n_in, n_out, *ends, graph or self.graph, (rows, columns))
