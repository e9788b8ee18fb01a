"""The layers of sparseq.nn, with a common interface for the tests that apply to all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparseq.nn import ExpanderLinear, ExpanderQLinear, QLinear, SparseLinear, SparseQLinear

IN, OUT = 12, 8
PATTERN = ("row_ptr", "col_idx", "row_ptr_t", "col_idx_t", "perm")


@dataclass(frozen=True)
class Case:
    """A sparse layer type with its dense twin."""

    name: str
    dense: Callable[..., nn.Module]
    from_dense: Callable[..., Any]
    whole: bool

    def twin(self, seed: int = 0, dtype: torch.dtype = torch.float32, bias: bool = True) -> Any:
        """A dense layer with random parameters."""
        layer = self.dense(IN, OUT, bias, dtype=dtype)
        generator = torch.Generator().manual_seed(seed)
        for parameter in layer.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator, dtype=dtype)
        return layer

    def mask(self, seed: int = 0, density: float = 0.4) -> Tensor:
        """A mask of the dense layer's weight."""
        shape = self.dense(IN, OUT).weight.shape
        drawn = torch.rand(shape, generator=torch.Generator().manual_seed(100 + seed))
        return (drawn[:1].expand(shape) if self.whole else drawn) < density

    def layer(self, seed: int = 0, dtype: torch.dtype = torch.float32, bias: bool = True) -> Any:
        """A sparse layer with a random pattern and random parameters."""
        return self.from_dense(self.twin(seed, dtype, bias), self.mask(seed))


CASES = [
    Case("linear", nn.Linear, SparseLinear.from_dense, False),
    Case("component", QLinear, SparseQLinear.from_dense, False),
    Case("quaternion", QLinear, SparseQLinear.from_dense, True),
]


def snapshot(layer: nn.Module) -> dict[str, torch.Tensor]:
    """Copies of every tensor of a layer, the unsaved ones and patterns too."""
    named = [*layer.named_parameters(), *layer.named_buffers()]
    for path, module in layer.named_modules():
        pattern = getattr(module, "pattern", None)
        if pattern is not None:
            named.extend((f"{path} {name}", getattr(pattern, name)) for name in PATTERN)
    return {name: tensor.detach().clone() for name, tensor in named}


def assert_same(a: nn.Module, b: nn.Module) -> None:
    ours, theirs = snapshot(a), snapshot(b)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request) -> Case:
    return request.param


LAYERS: dict[str, Callable[[], Any]] = {
    **{case.name: case.layer for case in CASES},
    "dense quaternion": CASES[1].twin,
    "expander": lambda: ExpanderLinear(IN, OUT, 3, "xnet", seed=1),
    "expander of equal degrees": lambda: ExpanderLinear(IN, OUT, 4, seed=1),
    "expander of blocks": lambda: ExpanderLinear(IN, OUT, 4, "block(4)", seed=1),
    "expander of groups": lambda: ExpanderLinear(IN, OUT, 4, "group(2, xnet)", seed=1),
    "quaternion expander": lambda: ExpanderQLinear(IN, OUT, 1, seed=1),
}


@pytest.fixture(params=LAYERS)
def layer(request) -> Any:
    """Each layer of the package, in float32."""
    return LAYERS[request.param]()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(5, IN, generator=torch.Generator().manual_seed(7))
