"""`radix`: the layers of a RadiX-Net."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparseq.graphs.catalog import GRAPHS, Graph
from sparseq.graphs.circulant import cyclic
from sparseq.graphs.edges import Edges


@GRAPHS.register("radix")
@dataclass(frozen=True)
class Radix(Graph):
    """Node v of the larger side meets v + j d^l (mod n), j = 0..d-1, of the smaller side's n.

    d = min(degree, n) is the radix and l = seed mod L the place, L being the largest number with
    d^L <= n: there are only L such graphs. Layers with seeds 0..L-1 make one net, in which, where
    n = d^L, exactly one path leads from every input to every output. Where n divides the larger
    side, this is the Kronecker product with a row or column of ones that the source takes.

    Source: Kepner & Robinett 2019, "RadiX-Net: structured sparse matrices for deep neural
    networks", equations 1 to 3, with all radices of a net equal.
    """

    def draw(self, n_in: int, n_out: int, degree: int, seed: int) -> Edges:
        small = min(n_in, n_out)
        radix = min(degree, small)
        stride = radix ** (seed % _places(radix, small))
        return cyclic(n_in, n_out, np.arange(radix) * stride, str(self))


def _places(radix: int, nodes: int) -> int:
    """Largest L with radix^L <= nodes; 1 for a radix of 1."""
    places = 1
    while radix > 1 and radix ** (places + 1) <= nodes:
        places += 1
    return places
