"""Expander linear layers: the weights are those on the edges of a graph drawn from a seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from sparseq.graphs import Edges, Graph
from sparseq.nn.expander.layer import ExpanderLayer, expander_type
from sparseq.nn.quaternion.linear import QLinear, check_quaternion_sizes, quaternion_linear_of
from sparseq.nn.sparse.linear import fold_kept_rows
from sparseq.nn.sparse.quaternion_linear import fold_kept_quaternions
from sparseq.nn.twins import linear_of
from sparseq.ops.block_mm import block_mm, matrix_of_blocks
from sparseq.ops.sparse_hamilton import compact_weight, sparse_hamilton
from sparseq.ops.spmm import dense_matrix, spmm

# operators that compute a real layer, by the names that `op_of` returns
PRODUCTS: dict[str, Callable[..., Tensor]] = {"spmm": spmm, "block_mm": block_mm}


def op_of(edges: Edges) -> str:
    """Name of the operator for a graph: `block_mm` if it consists of blocks, else `spmm`."""
    return "spmm" if edges.block == (1, 1) else "block_mm"


@expander_type(twin=nn.Linear, fold=fold_kept_rows)
class ExpanderLinear(ExpanderLayer):
    """Linear layer on the edges of a graph, y = A x + b; a twin of `nn.Linear`.

        y[n, o] = b[o] + sum over the edges (o, i) of values[edge] * x[n, i]

    The entries of the state_dict are `values` and `bias`; the graph is drawn from its seed.

    Args:
        in_features, out_features: sizes of x and y.
        degree: edges per input or output node, depending on the graph.
        graph: name of a graph, such as "regular", "xnet" or "block(16)"; see `sparseq.graphs`.
        seed: of the graph; should be different for each layer of a model.
        bias: add a bias of (out_features), initially zero.
        init: "he", N(0, 2 / fan_in) where fan_in is the number of edges of each output;
            "dense_fan", the same with fan_in = in_features (Stewart et al. 2023).
        device, dtype: of the parameters; torch's defaults.
        generator: source of the initial values; torch's default generator if None.

    Attributes:
        values: (edges) parameter, sorted by output and then input; (blocks, rows, columns) for
            graphs that consist of blocks.

    Raises:
        ValueError: an unknown graph or init; sizes or a degree that the graph does not allow.

    Source: Prabhu, Varma & Namboodiri 2018, "Deep expander networks".
    """

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        return self.store.product(self, PRODUCTS[self.op], x)

    def to_dense(self) -> nn.Linear:
        """The `nn.Linear` with zeros off the edges; parameters are copied."""
        return linear_of(self.dense_weight().detach(), self)

    def dense_weight(self) -> Tensor:
        """(out_features, in_features), zero off the edges; differentiable in the kept entries."""
        matrix = matrix_of_blocks if self._entry_shape() else dense_matrix
        return matrix(self.kept_values(), self._pattern_tensors())

    def _choose_block(self, edges: Edges) -> tuple[int, int]:
        self.op = op_of(edges)
        return edges.block

    def _entry_shape(self) -> tuple[int, ...]:
        return () if self.block == (1, 1) else self.block

    def _matrix(self, weight: Tensor) -> Tensor:
        self._check_weight(weight, (self.out_features, self.in_features))
        if not self._entry_shape():
            return weight
        rows, columns = self.block
        blocks: Tensor = weight.unflatten(0, (-1, rows)).unflatten(2, (-1, columns))
        return blocks.transpose(1, 2)


@expander_type(twin=QLinear, fold=fold_kept_quaternions)
class ExpanderQLinear(ExpanderLayer):
    """Quaternion linear layer on the edges of a graph, y = W (x) x + b; a twin of `QLinear`.

    An edge is a quaternion weight between an input and an output quaternion: in_features and
    out_features are numbers of real features, divisible by 4, while the degree and the blocks of
    the graph count quaternions. The other arguments are those of `ExpanderLinear`; init is "he" of
    `quaternion_init_` with fan_in the number of edges of each output, or "dense_fan", the same with
    fan_in = in_features / 4.

    Attributes:
        values: (edges, 4) parameter, components r, i, j, k.

    Raises:
        ValueError: as `ExpanderLinear`; sizes not divisible by 4.
    """

    unit: ClassVar[int] = 4
    op = "sparse_hamilton"

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        return self.store.product(self, sparse_hamilton, x)

    def to_dense(self) -> QLinear:
        """The `QLinear` with zeros off the edges; parameters are copied."""
        return quaternion_linear_of(self.dense_weight().detach(), self)

    def dense_weight(self) -> Tensor:
        """(4, m, k), zero off the edges; differentiable in the kept entries."""
        return compact_weight(self.kept_values(), self._pattern_tensors())

    def mask(self) -> Tensor:
        """(4, m, k) bool, True at the edges."""
        keep = super().mask()
        return keep.expand(4, *keep.shape).contiguous()

    def _draw(self, graph: str | Graph) -> Edges:
        sizes = {"in_features": self.in_features, "out_features": self.out_features}
        check_quaternion_sizes("ExpanderQLinear", **sizes)
        return super()._draw(graph)

    def _drawn_values(self, generator: torch.Generator | None) -> Tensor:
        return self._drawn_quaternions(generator)

    def _entry_shape(self) -> tuple[int, ...]:
        return (4,)

    def _matrix(self, weight: Tensor) -> Tensor:
        self._check_weight(weight, (4, self.out_features // 4, self.in_features // 4))
        return weight.permute(1, 2, 0)
