"""`xnet`: every input is connected to random outputs."""

from __future__ import annotations

from dataclasses import dataclass

from sparseq.graphs.catalog import GRAPHS, Graph
from sparseq.graphs.edges import EDGE_BYTES, Edges
from sparseq.graphs.sampling import distinct, stream


@GRAPHS.register("xnet")
@dataclass(frozen=True)
class XNet(Graph):
    """Each input has edges to min(degree, n_out) distinct outputs, chosen uniformly.

    Outputs have n_in degree / n_out edges on average; some may have none.

    Source: Prabhu, Varma & Namboodiri 2018, "Deep expander networks", definition 2.
    """

    @property
    def per_input(self) -> bool:
        return True

    def work(self, n_in: int, n_out: int, degree: int) -> int:
        return n_in * (2 * n_out + EDGE_BYTES * min(degree, n_out))  # a matrix of bools, and ids

    def draw(self, n_in: int, n_out: int, degree: int, seed: int) -> Edges:
        chosen = distinct(stream("xnet", seed), n_in, n_out, min(degree, n_out))
        return Edges.from_matrix(chosen, str(self))
