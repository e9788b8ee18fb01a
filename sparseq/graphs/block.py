"""`block(b)`: a graph between blocks of neurons."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fractions import Fraction

from sparseq.errors import require
from sparseq.graphs.catalog import GRAPHS, Graph, graph_of, is_integer
from sparseq.graphs.edges import Edges
from sparseq.graphs.regular import Regular


@GRAPHS.register("block")
@dataclass(frozen=True)
class Block(Graph):
    """Every edge of a graph between blocks becomes size x size edges between neurons.

    `degree` counts neurons, as in every graph: the graph between blocks has degree / size.

    Attributes:
        size: inputs and outputs per block; divides n_in, n_out and the degree.
        of: the graph between blocks.
    """

    size: int
    of: Graph = field(default=Regular())

    def __post_init__(self) -> None:
        check_parameters("block", self.size, self.of)

    @property
    def per_input(self) -> bool:
        return self.of.per_input

    def work(self, n_in: int, n_out: int, degree: int) -> int:
        return 0  # the graph between blocks and its expansion count for themselves

    def draw(self, n_in: int, n_out: int, degree: int, seed: int) -> Edges:
        return tiled(self, (self.size, self.size), (n_in, n_out), degree, seed)


def check_parameters(name: str, size: object, of: object) -> None:
    """ValueError unless `size` is a positive integer and `of` a graph."""
    require(
        isinstance(size, int) and is_integer(size) and size >= 1,
        f"graph {name}",
        "size",
        "must be an integer of at least 1",
        size,
    )
    require(isinstance(of, Graph), f"graph {name}", "of", "must be a graph", of)


def tiled(
    graph: Graph, block: tuple[int, int], sizes: tuple[int, int], degree: int, seed: int
) -> Edges:
    """`graph.of` drawn between blocks of (outputs, inputs); each edge becomes a complete block."""
    of: Graph = graph.of  # type: ignore[attr-defined]
    for name, size, unit in zip(("n_out", "n_in"), sizes[::-1], block, strict=True):
        require(size % unit == 0, f"graph {graph}", name, f"must be a multiple of {unit}", size)
    grid = sizes[0] // block[1], sizes[1] // block[0]
    drawn = of.edges(*grid, _grid_degree(graph, of, block, sizes, degree), seed)
    # the name of what was drawn, in which `of` needs no search
    named = replace(graph, of=graph_of(drawn.graph))  # type: ignore[type-var]
    return drawn.expanded(*block, graph=str(named))


def _grid_degree(
    graph: Graph, of: Graph, block: tuple[int, int], sizes: tuple[int, int], degree: int
) -> int:
    """The degree between blocks that gives the requested number of edges between neurons."""
    (n_in, n_out), (rows, columns) = sizes, block
    limit, per_degree = n_out, Fraction(1, rows)
    if not of.per_input:
        limit = min(sizes)
        larger = max(n_in // columns, n_out // rows)
        per_degree = Fraction(max(sizes), rows * columns * larger)
    grid_degree = min(degree, limit) * per_degree
    require(
        grid_degree.denominator == 1,
        f"graph {graph}",
        "degree",
        f"must be a multiple of {per_degree.denominator}",
        degree,
    )
    return int(grid_degree)
