"""Runs of consecutive layers that one kernel can compute at inference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sparseq.nn.expander.conv import ExpanderConv2d
from sparseq.nn.inference.eligibility import has_hooks, tap_orders
from sparseq.nn.sparse.conv import SparseConv2d
from sparseq.nn.sparse.linear import SparseLinear
from sparseq.nn.vector_pool import VectorMaxPool2d, is_both
from sparseq.ops.choice import measured
from sparseq.ops.sparse_conv_chain import chain_checked
from sparseq.ops.spmm_chain import spmm_chain

POOLS = (nn.MaxPool2d, VectorMaxPool2d)
NO_OPS = (nn.Identity, nn.Dropout, nn.Dropout2d)  # in evaluation mode


class Run:
    """Consecutive sparse layers, and the modules between and after them.

    Attributes:
        layer_types: classes of the sparse layers.
        modules: all modules, in order.
        layers: the sparse layers among them.
        relu: for each layer, 1 if a ReLU follows it, else 0.
    """

    layer_types: ClassVar[tuple[type, ...]]

    def __init__(self, layer: Any) -> None:
        self.modules: list[Any] = []
        self.layers: list[Any] = []
        self.relu: list[int] = []
        self.add(layer)

    @classmethod
    def starts(cls, module: Any) -> bool:
        """Whether a module is a sparse layer of such a run."""
        return type(module) in cls.layer_types

    def accepts(self, module: Any) -> bool:
        """Whether a module may be added."""
        module_type = type(module)
        if module_type in NO_OPS:
            return module_type is nn.Identity or not module.training
        return module_type is nn.ReLU or self.starts(module)

    def add(self, module: Any) -> None:
        """Append a module that the run accepts."""
        self.modules.append(module)
        if type(module) in self.layer_types:
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

    def is_faster(self, x: Tensor) -> bool:
        """Whether one kernel was measured to be faster for this input."""
        raise NotImplementedError

    def __call__(self, x: Tensor) -> Tensor:
        """The output of the run's last module."""
        raise NotImplementedError


class LinearRun(Run):
    """SparseLinear and ReLU."""

    layer_types = (SparseLinear,)

    def is_faster(self, x: Tensor) -> bool:
        """If there are few weights, or enough examples for every thread."""
        weights = sum(layer.pattern.nnz for layer in self.layers)
        rows = x.numel() // max(x.shape[-1], 1) if x.dim() else 0
        is_faster: bool = measured().linear_chain.pays(weights, rows, torch.get_num_threads())
        return is_faster

    def __call__(self, x: Tensor) -> Tensor:
        """Through `spmm_chain`."""
        return spmm_chain(x, *self.tensors(), self.relu)


class ConvRun(Run):
    """SparseConv2d or ExpanderConv2d with zero padding, ReLU, MaxPool2d.

    Attributes:
        pool: for each layer, the side of the squares pooled after it; 1 without pooling.
        geometry: the settings of all layers, as the kernel expects them.
    """

    layer_types = (SparseConv2d, ExpanderConv2d)

    def __init__(self, layer: Any) -> None:
        self.pool: list[int] = []
        self.geometry: list[int] = []
        self._fits_by_shape: dict[tuple[int, ...], bool] = {}
        super().__init__(layer)

    @classmethod
    def starts(cls, module: Any) -> bool:
        """Whether a module is such a convolution with symmetric zero padding."""
        return type(module) in cls.layer_types and not module._pads

    def accepts(self, module: Any) -> bool:
        """Whether a module may be added; pooling may follow each convolution once."""
        if type(module) in POOLS:
            return self.pool[-1] == 1 and square_side(module) > 1
        return super().accepts(module)

    def add(self, module: Any) -> None:
        """Append a module that the run accepts."""
        super().add(module)
        if type(module) in self.layer_types:
            self.pool.append(1)
            self.geometry.extend(module._geometry.flat())
        elif type(module) in POOLS:
            self.pool[-1] = square_side(module)

    def is_faster(self, x: Tensor) -> bool:
        """If x fits the layers, and every map is small enough for the cache."""
        shape = tuple(x.shape)
        if shape not in self._fits_by_shape:
            self._fits_by_shape[shape] = self._fits(shape)
        return self._fits_by_shape[shape]

    def _fits(self, shape: Sequence[int]) -> bool:
        if len(shape) != 4 or shape[1] != self.layers[0].in_channels or 0 in shape:
            return False
        size, largest = list(shape[2:]), math.prod(shape[1:])
        for layer, side in zip(self.layers, self.pool, strict=True):
            size = layer._geometry.output_size(size)
            largest = max(largest, layer.out_channels * size[0] * size[1])
            size = [n // side for n in size]
            if min(size) < 1 or not measured().conv_chain.fits(largest):
                return False
        return True

    def __call__(self, x: Tensor) -> Tensor:
        """Through `sparse_conv_chain`."""
        orders = tap_orders(self.layers)
        return chain_checked(x, *self.tensors(), orders, self.geometry, self.relu, self.pool)


def square_side(pool: Any) -> int:
    """Side of the squares of a max pooling over non-overlapping squares; 0 for any other one."""
    side = pool.kernel_size if isinstance(pool.kernel_size, int) else pool.kernel_size[0]
    is_tiling = is_both(pool.kernel_size, side) and is_both(pool.stride, side)
    is_plain = is_both(pool.padding, 0) and is_both(pool.dilation, 1) and not pool.ceil_mode
    return int(side) if is_tiling and is_plain and not pool.return_indices else 0


def find_runs(modules: Sequence[nn.Module | None]) -> list[Any]:
    """The modules in order, consecutive ones combined to a Run where that is possible."""
    items: list[Any] = []
    for module in modules:
        run = items[-1] if items and isinstance(items[-1], Run) else None
        if has_hooks(module):
            items.append(module)
        elif run is not None and run.accepts(module):
            run.add(module)
        else:
            run_type = next((t for t in (LinearRun, ConvRun) if t.starts(module)), None)
            items.append(module if run_type is None else run_type(module))
    return items
