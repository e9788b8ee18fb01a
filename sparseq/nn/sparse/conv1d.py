"""The linear layer of GPT-2 in `transformers`, with a weight (inputs, outputs); its sparse twin.

Imported only once such a layer is seen, as it needs that library.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from sparseq.formats import CSRPattern
from sparseq.nn.layer_types import layer_type
from sparseq.nn.sparse.linear import SparseLinear
from sparseq.nn.sparse.patterned import (
    build_with_store,
    checked_mask,
    empty_pattern,
    stored_weights,
    with_store,
)
from sparseq.nn.twins import match_twin

layer_type(weights=("weight",), inputs_first=True)(Conv1D)


def _arguments(layer: SparseConv1D) -> dict[str, Any]:
    return with_store({"nf": layer.out_features, "nx": layer.in_features}, layer)


def _build(nf: int, nx: int) -> SparseConv1D:
    return SparseConv1D(nx, nf, empty_pattern(nf, nx))


@layer_type(
    twin=Conv1D,
    op="spmm",
    weights=stored_weights,
    break_even=("Linear", "Linear"),
    arguments=_arguments,
    build=build_with_store(_build),
)
class SparseConv1D(SparseLinear):
    """`SparseLinear` as the twin of `transformers.pytorch_utils.Conv1D`, y = x W + b.

    Arguments, attributes and state are those of `SparseLinear`; only the dense twin differs, and
    with it `weight`, which is (in_features, out_features).
    """

    @classmethod
    def from_dense(cls, module: Any, mask: Tensor | None = None) -> SparseConv1D:
        """As `SparseLinear.from_dense`, from a Conv1D and a mask of its weight's shape."""
        keep = checked_mask("SparseConv1D.from_dense", module, Conv1D, mask)
        pattern = CSRPattern.from_mask(keep.t())
        layer = cls(module.nx, module.nf, pattern, pattern.gather(module.weight.detach().t()))
        match_twin(layer, module)
        return layer

    def to_dense(self) -> Any:
        """The Conv1D with zeros at the dropped entries; parameters are copied."""
        layer = Conv1D(self.out_features, self.in_features)
        layer.weight = nn.Parameter(self.dense_weight().detach().contiguous())
        match_twin(layer, self)
        return layer

    def dense_weight(self) -> Tensor:
        """(in_features, out_features), zero at dropped entries; differentiable in the kept ones."""
        return super().dense_weight().t()

    def _matrix(self, weight: Tensor) -> Tensor:
        self._check_weight(weight, (self.in_features, self.out_features))
        return weight.t()
