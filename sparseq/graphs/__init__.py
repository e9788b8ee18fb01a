"""L1: bipartite graphs of fixed degree. To add one, add a file here and its import below."""

from sparseq.graphs import block, circulant, group, radix, random, regular, xnet
from sparseq.graphs.catalog import GRAPHS, Graph, draw_edges, graph_of
from sparseq.graphs.edges import Edges
from sparseq.graphs.expansion import expansion, spectral_gap

__all__ = [
    "GRAPHS",
    "Edges",
    "Graph",
    "draw_edges",
    "expansion",
    "graph_of",
    "spectral_gap",
    "block",
    "circulant",
    "group",
    "radix",
    "random",
    "regular",
    "xnet",
]
