"""Sparse quaternion linear layers: only the kept components or quaternions take memory."""

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
    check_pattern,
    checked_mask,
    empty_pattern,
    stored_weights,
    with_store,
)
from sparseq.nn.twins import match_twin
from sparseq.ops.sparse_hamilton import compact_weight, sparse_hamilton

GRANULARITIES = ["component", "quaternion"]


def fold_kept_quaternions(layer: Any, affine: Affine) -> Tensor | None:
    """Fold into kept quaternions (nnz, 4), or kept components (nnz) of the matrix (4 m, k)."""
    product = affine.left_product()
    if product is None:
        return None
    values: Tensor = layer.kept_values().double()
    rows = layer.pattern.rows()
    if values.dim() == 2:
        return torch.einsum("abe,eb->ea", product[:, :, rows], values)
    if product[1:, 0].any():  # would mix a kept component into dropped ones
        return None
    return values * product[0, 0][rows % product.shape[2]]


def _arguments(layer: SparseQLinear) -> dict[str, Any]:
    """The constructor's arguments in a file, where the pattern is part of the state."""
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

    With m = out_features / 4 and k = in_features / 4, the kept entries are single components
    ("component": the pattern is that of the weight (4, m, k) as a matrix (4 m, k), values are
    (nnz)) or quaternions ("quaternion": the pattern is (m, k), values are (nnz, 4)). State_dicts
    are loaded as in `SparseLinear`.

    Args:
        in_features, out_features: real sizes of x and y, divisible by 4.
        pattern: of shape (4 m, k) or (m, k), depending on the granularity.
        values: kept weights in CSR order, copied; if None, drawn as by "he" of `quaternion_init_`
            with the number of kept inputs of each output quaternion as fan_in.
        bias: add a bias of (out_features), initially zero.
        granularity: "component" or "quaternion".
        device, dtype: of the parameters; by default those of `values`, or the pattern's device and
            torch's default dtype.

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
        shape, of = (rows, in_features // 4), f" for {granularity} granularity"
        check_pattern("SparseQLinear", pattern, shape, of)
        self.in_features, self.out_features = in_features, out_features
        self.granularity = granularity
        self._register(pattern, values, bias, device, dtype)
        if values is None:
            self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the values as by "he", with the number of kept inputs as fan_in; zero the bias."""
        draw_kept_(self, self.out_features // 4, generator)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        return self.store.product(self, sparse_hamilton, x)

    @classmethod
    def from_dense(
        cls, module: QLinear, mask: Tensor | None = None, granularity: str | None = None
    ) -> SparseQLinear:
        """A layer with the kept weights of a dense one; `to_dense` restores these exactly.

        Args:
            module: a `QLinear`; it is not modified.
            mask: bool of the weight's shape (4, m, k), True = keep; by default keeps components
                other than 0 or, with granularity "quaternion", quaternions other than 0.
            granularity: "component" or "quaternion"; if None, "quaternion" if the mask keeps or
                drops the four components of each quaternion together, else "component".

        Raises:
            ValueError: another type of layer, a mask of another shape or dtype, or a mask that
                splits quaternions, with granularity "quaternion".
        """
        pattern, values, granularity = kept_entries(cls, module, QLinear, mask, granularity)
        sizes = (module.in_features, module.out_features)
        layer = cls(*sizes, pattern, values, module.bias is not None, granularity=granularity)
        match_twin(layer, module)
        return layer

    def to_dense(self) -> QLinear:
        """The `QLinear` with zeros at the dropped entries; parameters are copied."""
        return quaternion_linear_of(self.dense_weight().detach(), self)

    def dense_weight(self) -> Tensor:
        """(4, m, k), zero at dropped entries; differentiable in the kept ones."""
        return compact_weight(self.kept_values(), self._pattern_tensors())

    def extra_repr(self) -> str:
        """Sizes, the kept fraction and the granularity."""
        return f"{super().extra_repr()}, granularity={self.granularity}"

    def _entry_shape(self) -> tuple[int, ...]:
        return () if self.granularity == "component" else (4,)

    def _matrix(self, weight: Tensor) -> Tensor:
        self._check_weight(weight, (4, self.out_features // 4, self.in_features // 4))
        return entries_of(weight, self.granularity)


def check_granularity(granularity: str) -> None:
    """ValueError unless a granularity is one of GRANULARITIES."""
    if granularity not in GRANULARITIES:
        raise unknown_name("granularity", granularity, GRANULARITIES)


def granularity_of(op: str, keep: Tensor, requested: str | None) -> str:
    """The requested granularity, checked against the mask, or by default that of the mask."""
    if requested is not None:
        check_granularity(requested)
    keeps_quaternions = requested != "component" and bool((keep == keep[:1]).all())
    require(
        keeps_quaternions or requested != "quaternion",
        op,
        "mask",
        "must keep or drop whole quaternions for quaternion granularity",
        "one that splits some",
    )
    return "quaternion" if keeps_quaternions else "component"


def kept_entries(
    cls: type[nn.Module],
    module: Any,
    dense_class: type[nn.Module],
    mask: Tensor | None,
    granularity: str | None,
) -> tuple[CSRPattern, Tensor, str]:
    """Pattern, values and granularity for `cls.from_dense(module, mask, granularity)`."""
    op = f"{cls.__name__}.from_dense"
    keep = checked_mask(op, module, dense_class, mask).flatten(2)
    if mask is None and granularity == "quaternion":
        keep = keep.any(dim=0).expand_as(keep)
    granularity = granularity_of(op, keep, granularity)
    pattern = CSRPattern.from_mask(keep[0] if granularity == "quaternion" else keep.flatten(0, 1))
    values = pattern.gather(entries_of(module.weight.detach().flatten(2), granularity))
    return pattern, values, granularity


@torch.no_grad()
def draw_kept_(layer: Any, outputs: int, generator: torch.Generator | None) -> None:
    """Draw values as by "he", with the kept inputs of each output quaternion; zero the bias."""
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    values = layer.kept_values()
    if values.is_meta:
        return
    rows, modulus = layer.pattern.rows(), max(outputs, 1)
    drawn = draw_quaternions((len(rows),), values, generator)
    counts = torch.bincount(rows % modulus, minlength=outputs)
    if layer.granularity == "quaternion":
        drawn = drawn.t() * (counts[rows] * 2).rsqrt()[:, None]
    else:
        components = drawn.gather(0, (rows // modulus)[None])[0]
        drawn = components * (counts[rows % modulus] / 2).rsqrt()
    layer.store.write_(layer, drawn)


def entries_of(weight: Tensor, granularity: str) -> Tensor:
    """A weight (4, m, k) as a matrix of entries: (4 m, k), or (m, k, 4) for quaternions."""
    return weight.flatten(0, 1) if granularity == "component" else weight.permute(1, 2, 0)
