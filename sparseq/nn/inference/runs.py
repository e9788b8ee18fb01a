"""Runs of layers that one kernel can take at inference: found once, asked at every call."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sparseq.nn.expander.conv import ExpanderConv2d
from sparseq.nn.inference.eligibility import tap_orders
from sparseq.nn.sparse.conv import SparseConv2d
from sparseq.nn.sparse.linear import SparseLinear
from sparseq.nn.vector_pool import VectorMaxPool2d, is_both
from sparseq.ops.choice import measured
from sparseq.ops.sparse_conv_chain import chain_checked
from sparseq.ops.spmm_chain import spmm_chain

POOLS = (nn.MaxPool2d, VectorMaxPool2d)
PASSED = (nn.Identity, nn.Dropout, nn.Dropout2d)  # do nothing in evaluation mode


class Run:
    """Sparse layers in a row, with what stands between them."""

    kinds: ClassVar[tuple[type, ...]]

    def __init__(self, layer: Any) -> None:
        self.modules: list[Any] = []
        self.layers: list[Any] = []
        self.relu: list[int] = []
        self.add(layer)

    @classmethod
    def starts(cls, module: Any) -> bool:
        """Whether a module is a layer of such a run."""
        return type(module) in cls.kinds

    def takes(self, module: Any) -> bool:
        """Whether a module may follow."""
        kind = type(module)
        if kind in PASSED:
            return kind is nn.Identity or not module.training
        return kind is nn.ReLU or self.starts(module)

    def add(self, module: Any) -> None:
        """Append a module that the run takes."""
        self.modules.append(module)
        if type(module) in self.kinds:
            self.layers.append(module)
            self.relu.append(0)
        elif type(module) is nn.ReLU:
            self.relu[-1] = 1

    def tensors(self) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """values, biases and patterns, as the kernels take them: straight from the dicts."""
        values: list[Tensor] = []
        biases: list[Tensor] = []
        patterns: list[Tensor] = []
        for layer in self.layers:
            kept, bias = layer.kept_values(), layer._parameters["bias"]
            values.append(kept)
            biases.append(kept.new_empty(0) if bias is None else bias)
            patterns.extend(layer._pattern_tensors())
        return values, biases, patterns

    def pays(self, x: Tensor) -> bool:
        """Whether one kernel was measured to be quicker for this input."""
        raise NotImplementedError

    def __call__(self, x: Tensor) -> Tensor:
        """The output of the run's last module."""
        raise NotImplementedError


class LinearRun(Run):
    """SparseLinear and ReLU."""

    kinds = (SparseLinear,)

    def pays(self, x: Tensor) -> bool:
        """Few weights, or not too many and enough examples for every thread."""
        weights = sum(layer._buffers["perm"].shape[0] for layer in self.layers)
        rows = x.numel() // max(x.shape[-1], 1) if x.dim() else 0
        return measured().linear_chain.pays(weights, rows, torch.get_num_threads())

    def __call__(self, x: Tensor) -> Tensor:
        """Through `spmm_chain`."""
        return spmm_chain(x, *self.tensors(), self.relu)


class ConvRun(Run):
    """SparseConv2d or ExpanderConv2d with zero padding, ReLU, MaxPool2d."""

    kinds = (SparseConv2d, ExpanderConv2d)

    def __init__(self, layer: Any) -> None:
        self.pool: list[int] = []
        self.numbers: list[int] = []
        self._fitting: dict[tuple[int, ...], bool] = {}  # by the shape of x
        super().__init__(layer)

    @classmethod
    def starts(cls, module: Any) -> bool:
        """A convolution that pads with zeros, on both sides alike."""
        return type(module) in cls.kinds and not module._pads

    def takes(self, module: Any) -> bool:
        """Also a pooling, one behind each convolution."""
        if type(module) in POOLS:
            return self.pool[-1] == 1 and pooled_side(module) > 1
        return super().takes(module)

    def add(self, module: Any) -> None:
        """Append a module that the run takes."""
        super().add(module)
        if type(module) in self.kinds:
            self.pool.append(1)
            self.numbers.extend(module._geometry.flat())
        elif type(module) in POOLS:
            self.pool[-1] = pooled_side(module)

    def pays(self, x: Tensor) -> bool:
        """Where x fits the layers, and no map is so large that it is far from the cache."""
        shape = tuple(x.shape)
        if shape not in self._fitting:
            self._fitting[shape] = self._fits(shape)
        return self._fitting[shape]

    def _fits(self, shape: Sequence[int]) -> bool:
        if len(shape) != 4 or shape[1] != self.layers[0].in_channels or 0 in shape:
            return False
        size, most = list(shape[2:]), math.prod(shape[1:])
        for layer, side in zip(self.layers, self.pool, strict=True):
            size = layer._geometry.output_size(size)
            most = max(most, layer.out_channels * size[0] * size[1])
            size = [n // side for n in size]
            if min(size) < 1 or not measured().conv_chain.fits(most):
                return False
        return True

    def __call__(self, x: Tensor) -> Tensor:
        """Through `sparse_conv_chain`."""
        values, biases, patterns = self.tensors()
        return chain_checked(
            x, values, biases, patterns, tap_orders(self.layers), self.numbers, self.relu, self.pool
        )


def pooled_side(pool: Any) -> int:
    """Side of the squares of a pooling that takes their largest and lets none overlap, else 0."""
    side = pool.kernel_size if isinstance(pool.kernel_size, int) else pool.kernel_size[0]
    squares = is_both(pool.kernel_size, side) and is_both(pool.stride, side)
    plain = is_both(pool.padding, 0) and is_both(pool.dilation, 1) and not pool.ceil_mode
    return int(side) if squares and plain and not pool.return_indices else 0


def find_runs(modules: Sequence[nn.Module | None]) -> list[Any]:
    """The modules in order: each by itself, or as a Run of at least one sparse layer."""
    found: list[Any] = []
    for module in modules:
        free = not has_hooks(module)
        if found and isinstance(found[-1], Run) and free and found[-1].takes(module):
            found[-1].add(module)
            continue
        kind = next((kind for kind in (LinearRun, ConvRun) if free and kind.starts(module)), None)
        found.append(module if kind is None else kind(module))
    return found


def has_hooks(module: Any) -> bool:
    """Whether a module has hooks that a call through a kernel would pass over."""
    return bool(module._forward_hooks or module._forward_pre_hooks)
