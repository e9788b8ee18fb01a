"""`block(b)`: a graph between blocks of neurons."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from sparseq.errors import require
from sparseq.graphs.catalog import GRAPHS, Graph, graph_of, is_integer
from sparseq.graphs.edges import Edges
from sparseq.graphs.random import Random
from sparseq.graphs.regular import Regular
from sparseq.graphs.xnet import XNet

PER_INPUT = (Random, XNet)  # graphs whose degree is that of an input; else of the larger side


@GRAPHS.register("block")
@dataclass(frozen=True)
class Block(Graph):
    """Every edge of a graph between blocks becomes size x size edges between neurons.

    `degree` counts neurons as everywhere: the graph between blocks has degree / size.

    Attributes:
        size: inputs, and outputs, of a block; divides n_in, n_out and the degree.
        of: graph between the blocks.
    """

    size: int
    of: Graph = field(default=Regular())

    def __post_init__(self) -> None:
        check_parameters("block", self.size, self.of)

    def draw(self, n_in: int, n_out: int, degree: int, seed: int) -> Edges:
        return tiled(self, (self.size, self.size), (n_in, n_out), degree, seed)


def check_parameters(name: str, size: object, of: object) -> None:
    """ValueError unless they are a size and a graph."""
    require(isinstance(size, int) and is_integer(size) and size >= 1, f"graph {name}", "size",
            "must be an integer of at least 1", size)
    require(isinstance(of, Graph), f"graph {name}", "of", "must be a graph", of)


def tiled(
    graph: Graph, block: tuple[int, int], sizes: tuple[int, int], degree: int, seed: int
) -> Edges:
    """The edges of `graph.of` between blocks of (outputs, inputs), each as a whole block."""
    of: Graph = graph.of  # type: ignore[attr-defined]
    for name, size, unit in zip(("n_out", "n_in"), sizes[::-1], block, strict=True):
        require(size % unit == 0, f"graph {graph}", name, f"must be a multiple of {unit}", size)
    n_in, n_out = sizes
    grid = n_in // block[1], n_out // block[0]
    limit = n_out if isinstance(of, PER_INPUT) else min(sizes)
    edges, unit = min(degree, limit), block[0]
    if not isinstance(of, PER_INPUT):
        edges, unit = edges * max(sizes), block[0] * block[1] * max(grid)
    rule = f"must give a whole degree between blocks of {block[0]} x {block[1]}"
    require(edges % unit == 0, f"graph {graph}", "degree", rule, degree)
    drawn = of.edges(*grid, edges // unit, seed)
    again = replace(graph, of=graph_of(drawn.graph))  # type: ignore[type-var]
    return drawn.expanded(*block, graph=str(again))
