"""A layer of every type that sparseq.nn registers, and an input for it; a new type adds its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparseq.nn import (
    ExpanderConv1d,
    ExpanderConv2d,
    ExpanderLinear,
    ExpanderQConv1d,
    ExpanderQConv2d,
    ExpanderQLinear,
    ImageToQuaternion,
    QBatchNorm1d,
    QBatchNorm2d,
    QBatchNorm3d,
    QConv1d,
    QConv2d,
    QConv3d,
    QConvTranspose1d,
    QConvTranspose2d,
    QConvTranspose3d,
    QDropout,
    QLinear,
    QMaxPool2d,
    QModReLU,
    QuaternionToReal,
    Residual,
    SparseSequential,
    VectorMaxPool2d,
)
from sparseq.nn.layer_types import sparse_type


@dataclass(frozen=True)
class Sample:
    """A layer with 8 input features or channels, and the shape of an input."""

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]

    def layer(self, dtype: torch.dtype = torch.float32) -> Any:
        """The layer in evaluation mode, with parameters that are nowhere 0."""
        torch.manual_seed(0)
        layer = self.build().to(dtype).eval()
        for parameter in layer.parameters():
            nn.init.normal_(parameter)
        return layer

    def x(self, dtype: torch.dtype = torch.float32, seed: int = 1) -> Tensor:
        """An input."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(self.shape, generator=generator, dtype=torch.float64).to(dtype)


def sparse(twin: Any) -> Any:
    """The sparse layer with about half of a dense layer's weights, single entries of them."""
    keep = torch.rand(twin.weight.shape, generator=torch.Generator().manual_seed(3)) < 0.5
    entry: Any = sparse_type(type(twin))
    return entry.layer.from_dense(twin, keep)


def _samples() -> Iterator[Sample]:
    yield Sample("SparseLinear", lambda: sparse(nn.Linear(8, 12)), (3, 8))
    yield Sample("SparseQLinear", lambda: sparse(QLinear(8, 12)), (3, 8))
    yield Sample("QLinear", lambda: QLinear(8, 12), (3, 8))
    yield Sample("ExpanderLinear", lambda: ExpanderLinear(8, 12, 3, "xnet"), (3, 8))
    yield Sample("ExpanderLinear of blocks", lambda: ExpanderLinear(8, 12, 4, "block(4)"), (3, 8))
    yield Sample("ExpanderQLinear", lambda: ExpanderQLinear(8, 12, 1), (3, 8))
    convolutions = [
        (nn.Conv1d, QConv1d, QConvTranspose1d, QBatchNorm1d),
        (nn.Conv2d, QConv2d, QConvTranspose2d, QBatchNorm2d),
        (nn.Conv3d, QConv3d, QConvTranspose3d, QBatchNorm3d),
    ]
    for dims, (real, quaternion, transposed, norm) in enumerate(convolutions, 1):
        shape = (3, 8, *(5, 4, 3)[:dims])
        for twin in (real, quaternion):
            name = f"Sparse{twin.__name__}"
            yield Sample(name, lambda twin=twin: sparse(twin(8, 4, 3, padding=1)), shape)
        dense = quaternion
        yield Sample(dense.__name__, lambda t=dense: t(8, 4, 3, stride=2, padding=1), shape)
        yield Sample(transposed.__name__, lambda t=transposed: t(8, 4, 3, stride=2), shape)
        yield Sample(norm.__name__, lambda t=norm: t(8), shape)
        yield Sample(f"{norm.__name__} of parts", lambda t=norm: t(8, mode="split"), shape)
    circular = nn.Conv2d(8, 4, 3, padding=1, padding_mode="circular")
    yield Sample("SparseConv2d, circular", lambda: sparse(circular), (3, 8, 5, 4))
    for dims, expanders in (
        (1, (ExpanderConv1d, ExpanderQConv1d)),
        (2, (ExpanderConv2d, ExpanderQConv2d)),
    ):
        for expander in expanders:
            shape = (3, 8, *(5, 4)[:dims])
            yield Sample(expander.__name__, lambda t=expander: t(8, 8, 3, 1, seed=1), shape)
    yield Sample("QMaxPool2d", lambda: QMaxPool2d(2), (3, 8, 4, 4))
    yield Sample("VectorMaxPool2d", lambda: VectorMaxPool2d(2), (3, 8, 4, 4))
    yield Sample("QModReLU", lambda: QModReLU(8), (3, 8, 5))
    yield Sample("QuaternionToReal", lambda: QuaternionToReal(), (3, 8, 5))
    yield Sample("QDropout", lambda: QDropout(), (3, 8, 5))
    yield Sample("ImageToQuaternion", lambda: ImageToQuaternion(), (2, 3, 4, 5))
    yield Sample("Residual", lambda: Residual(QLinear(8, 8), nn.Identity()), (3, 8))
    yield Sample("SparseSequential", _sequential, (3, 8))


def _sequential() -> nn.Module:
    return SparseSequential(sparse(nn.Linear(8, 12)), nn.ReLU(), sparse(nn.Linear(12, 4)))


LAYERS = {sample.name: sample for sample in _samples()}
