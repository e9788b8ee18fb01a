"""`radix`: the layers of a RadiX-Net."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparseq.graphs.catalog import GRAPHS, Graph
from sparseq.graphs.circulant import cyclic
from sparseq.graphs.edges import EDGE_BYTES, Edges


@GRAPHS.register("radix")
@dataclass(frozen=True)
class Radix(Graph):
    """Node v of the larger side has edges to v + j d^l (mod n), j = 0..d-1, n the smaller size.

    d = min(degree, n) is the radix and l = seed mod L the digit, L being the largest integer with
    d^L <= n: there are only L such graphs. Layers with seeds 0..L-1 form one net, in which, where
    n = d^L, exactly one path leads from every input to every output. Where n divides the larger
    size, the graph is the source's Kronecker product with a row or column of ones.

    Source: Kepner & Robinett 2019, "RadiX-Net: structured sparse matrices for deep neural
    networks", eq. 1 to 3, with all radices of a net equal.
    """

    def work(self, n_in: int, n_out: int, degree: int) -> int:
        return EDGE_BYTES * max(n_in, n_out) * min(degree, n_in, n_out)

    def draw(self, n_in: int, n_out: int, degree: int, seed: int) -> Edges:
        small = min(n_in, n_out)
        radix = min(degree, small)
        stride = radix ** (seed % _digits(radix, small))
        return cyclic(n_in, n_out, np.arange(radix) * stride, str(self))


def _digits(radix: int, nodes: int) -> int:
    """Largest L with radix^L <= nodes; 1 for a radix of 1."""
    digits = 1
    while radix > 1 and radix ** (digits + 1) <= nodes:
        digits += 1
    return digits
