"""`group(g)`: outputs that share their inputs."""

from __future__ import annotations

from dataclasses import dataclass, field

from sparseq.graphs.block import check_parameters, tiled
from sparseq.graphs.catalog import GRAPHS, Graph
from sparseq.graphs.edges import Edges
from sparseq.graphs.regular import Regular


@GRAPHS.register("group")
@dataclass(frozen=True)
class Group(Graph):
    """Each run of `size` outputs reads one set of inputs: blocks of size x 1.

    `degree` counts neurons, as in every graph: there are as many edges as in `of` at this degree,
    so that the graph between inputs and groups has a smaller degree, which must be an integer.

    Attributes:
        size: outputs per group; divides n_out.
        of: the graph between inputs and groups.
    """

    size: int
    of: Graph = field(default=Regular())

    def __post_init__(self) -> None:
        check_parameters("group", self.size, self.of)

    @property
    def per_input(self) -> bool:
        return self.of.per_input

    def work(self, n_in: int, n_out: int, degree: int) -> int:
        return 0  # the graph between groups and its expansion count for themselves

    def draw(self, n_in: int, n_out: int, degree: int, seed: int) -> Edges:
        return tiled(self, (self.size, 1), (n_in, n_out), degree, seed)
