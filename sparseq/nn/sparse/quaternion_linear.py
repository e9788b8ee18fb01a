"""Sparse quaternion linear layers: only the kept components or whole quaternions exist."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sparseq.errors import require, unknown_name
from sparseq.formats import CSRPattern
from sparseq.nn.affine import Affine
from sparseq.nn.layer_types import layer_type
from sparseq.nn.quaternion.init import draw_quaternions
from sparseq.nn.quaternion.linear import QLinear, check_quaternion_sizes, quaternion_linear_of
from sparseq.nn.sparse.patterned import (
    PatternedLayer,
    build_with_store,
    checked_mask,
    empty_pattern,
    stored_weights,
    with_store,
)
from sparseq.nn.twins import match_twin
from sparseq.ops.sparse_hamilton import compact_weight, sparse_hamilton

GRANULARITIES = ["component", "quaternion"]


def fold_kept_quaternions(layer: Any, affine: Affine) -> Tensor | None:
    """Entries (nnz, 4), or (nnz) single components in rows component by component."""
    left = affine.quaternion()
    values, rows = layer.kept_values().double(), layer.pattern.rows()
    if left is None:
        return None
    if values.dim() == 2:
        return torch.einsum("abe,eb->ea", left[:, :, rows], values)
    if left[1:, 0].any():  # another component of a kept one may not be kept
        return None
    return values * left[0, 0][rows % left.shape[2]]


def _arguments(layer: SparseQLinear) -> dict[str, Any]:
    """Sizes, granularity, and whether there is a bias; the pattern comes with the state."""
    sizes = {"in_features": layer.in_features, "out_features": layer.out_features}
    bias = {} if layer.bias is not None else {"bias": False}
    return with_store({**sizes, **bias, "granularity": layer.granularity}, layer)


def _build(
    in_features: int, out_features: int, granularity: str, bias: bool = True
) -> SparseQLinear:
    rows = out_features if granularity == "component" else out_features // 4
    pattern = empty_pattern(rows, in_features // 4)
    return SparseQLinear(in_features, out_features, pattern, bias=bias, granularity=granularity)


@layer_type(
    twin=QLinear,
    op="sparse_hamilton",
    fold=fold_kept_quaternions,
    weights=stored_weights,
    break_even=("QLinear by component", "QLinear by quaternion"),
    arguments=_arguments,
    build=build_with_store(_build),
)
class SparseQLinear(PatternedLayer):
    """Sparse quaternion linear layer, y = W (x) x + b; the twin of `QLinear`.

    With m = out_features / 4 and k = in_features / 4, kept are single components ("component":
    the pattern is of the weight (4, m, k) seen as (4 m, k), values are (nnz)) or whole quaternions
    ("quaternion": the pattern is (m, k), values are (nnz, 4)). State_dicts load as in
    `SparseLinear`.

    Args:
        in_features, out_features: real sizes of x and y, divisible by 4.
        pattern: of shape (4 m, k) or (m, k), by the granularity.
        values: kept weights in CSR order, copied; None draws them as "he" of `quaternion_init_`,
            by the true number of inputs of each output quaternion.
        bias: add a bias of (out_features), zeros at the start.
        granularity: "component" or "quaternion".
        device, dtype: of the parameters; by default those of values, else the pattern's device.

    Raises:
        ValueError: sizes not divisible by 4, an unknown granularity, a pattern or values of
            another shape.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        pattern: CSRPattern,
        values: Tensor | None = None,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        granularity: str = "component",
    ) -> None:
        super().__init__()
        check_quaternion_sizes("SparseQLinear", in_features=in_features, out_features=out_features)
        check_granularity(granularity)
        rows = out_features if granularity == "component" else out_features // 4
        require(
            pattern.shape == (rows, in_features // 4),
            "SparseQLinear",
            "pattern",
            f"must have shape {(rows, in_features // 4)} for {granularity} granularity",
            pattern.shape,
        )
        self.in_features, self.out_features = in_features, out_features
        self.granularity = granularity
        self._register(pattern, values, bias, device, dtype)
        if values is None:
            self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the values anew, by the true number of inputs, and zero the bias."""
        draw_kept_(self, self.out_features // 4, generator)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        return self.store.product(self, sparse_hamilton, x)

    @classmethod
    def from_dense(
        cls, module: QLinear, mask: Tensor | None = None, granularity: str | None = None
    ) -> SparseQLinear:
        """The kept weights of a quaternion layer; `to_dense` is the exact inverse on these.

        Args:
            module: a `QLinear`, left as it is.
            mask: bool of the weight's shape (4, m, k), True = keep; by default what is not 0.
            granularity: "component", "quaternion" or None, which is "quaternion" when the mask
                keeps or drops every quaternion whole. "quaternion" without a mask keeps every
                quaternion that is not 0.

        Raises:
            ValueError: another kind of layer, a mask of another shape or dtype, or one that
                splits quaternions where they are to be kept whole.
        """
        pattern, values, granularity = kept_entries(cls, module, QLinear, mask, granularity)
        sizes = (module.in_features, module.out_features)
        layer = cls(*sizes, pattern, values, module.bias is not None, granularity=granularity)
        match_twin(layer, module)
        return layer

    def to_dense(self) -> QLinear:
        """The `QLinear` with zeros at the dropped places; parameters are copied."""
        return quaternion_linear_of(self.dense_weight().detach(), self)

    def dense_weight(self) -> Tensor:
        """(4, m, k), zero where nothing is kept; differentiable in `values`."""
        return compact_weight(self.kept_values(), self._pattern_tensors())

    def extra_repr(self) -> str:
        """Sizes, the kept fraction and the granularity."""
        return f"{super().extra_repr()}, granularity={self.granularity}"

    def _entry_shape(self) -> tuple[int, ...]:
        return () if self.granularity == "component" else (4,)

    def _matrix(self, weight: Tensor) -> Tensor:
        shape = (4, self.out_features // 4, self.in_features // 4)
        require(
            weight.shape == shape,
            "SparseQLinear",
            "weight",
            f"must have shape {shape}",
            tuple(weight.shape),
        )
        return entries_of(weight, self.granularity)


def check_granularity(granularity: str) -> None:
    """ValueError unless it is one of GRANULARITIES."""
    if granularity not in GRANULARITIES:
        raise unknown_name("granularity", granularity, GRANULARITIES)


def granularity_of(op: str, keep: Tensor, wanted: str | None) -> str:
    """The granularity asked for, checked against the mask, or the one the mask has."""
    if wanted is not None:
        check_granularity(wanted)
    whole = wanted != "component" and bool((keep == keep[:1]).all())
    require(
        whole or wanted != "quaternion",
        op,
        "mask",
        "must keep or drop every quaternion whole for quaternion granularity",
        "one that splits some",
    )
    return "quaternion" if whole else "component"


def kept_entries(
    cls: type[nn.Module],
    module: Any,
    kind: type[nn.Module],
    mask: Tensor | None,
    granularity: str | None,
) -> tuple[CSRPattern, Tensor, str]:
    """Pattern, values and granularity of what `cls.from_dense` keeps of a quaternion layer."""
    op = f"{cls.__name__}.from_dense"
    keep = checked_mask(op, module, kind, mask).flatten(2)
    if mask is None and granularity == "quaternion":
        keep = keep.any(dim=0).expand_as(keep)
    granularity = granularity_of(op, keep, granularity)
    pattern = CSRPattern.from_mask(keep[0] if granularity == "quaternion" else keep.flatten(0, 1))
    values = pattern.gather(entries_of(module.weight.detach().flatten(2), granularity))
    return pattern, values, granularity


@torch.no_grad()
def draw_kept_(layer: Any, outputs: int, generator: torch.Generator | None) -> None:
    """Draw values by the true number of inputs of each of the output quaternions; zero the bias."""
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    values = layer.kept_values()
    if values.is_meta:
        return
    rows, least = layer.pattern.rows(), max(outputs, 1)
    drawn = draw_quaternions((len(rows),), values, generator)
    counts = torch.bincount(rows % least, minlength=outputs)
    if layer.granularity == "quaternion":
        drawn = drawn.t() * (counts[rows] * 2).rsqrt()[:, None]
    else:
        component = drawn.gather(0, (rows // least)[None])[0]
        drawn = component * (counts[rows % least] / 2).rsqrt()
    layer.store.write_(layer, drawn)


def entries_of(weight: Tensor, granularity: str) -> Tensor:
    """A (4, m, k) weight as the matrix of entries: (4 m, k), or (m, k, 4) for quaternions."""
    return weight.flatten(0, 1) if granularity == "component" else weight.permute(1, 2, 0)
