"""Expander convolutions: an edge of the graph between channels is a slice of the kernel."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sparseq.formats import CSRPattern
from sparseq.graphs import Edges, Graph
from sparseq.nn.conv_padding import SETTINGS
from sparseq.nn.expander.layer import ExpanderLayer, expander_type, pattern_of
from sparseq.nn.quaternion.conv import QConv1d, QConv2d
from sparseq.nn.quaternion.linear import check_quaternion_sizes
from sparseq.nn.sparse.conv_nd import SparseConvNd
from sparseq.nn.sparse.linear import fold_kept_rows
from sparseq.nn.sparse.quaternion_conv import SparseQConvNd
from sparseq.nn.sparse.quaternion_linear import fold_kept_quaternions
from sparseq.ops.geometry import Sizes
from sparseq.ops.sparse_conv import conv_weight


class ExpanderConvNd(SparseConvNd, ExpanderLayer):
    """Base class of the expander convolutions: settings of a dense twin, channels as nodes."""

    __constants__: ClassVar[list[str]] = [
        *("in_channels", "out_channels", *SETTINGS, "degree", "graph", "seed"),
    ]
    op = "sparse_conv"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        degree: int,
        graph: str | Graph = "regular",
        *,
        seed: int = 0,
        stride: Sizes = 1,
        padding: Sizes | str = 0,
        dilation: Sizes = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        init: str = "he",
        device: Any = None,
        dtype: torch.dtype | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        nn.Module.__init__(self)
        if self.unit > 1:
            sizes = {"in_channels": in_channels, "out_channels": out_channels}
            check_quaternion_sizes(type(self).__name__, **sizes)
        self._adopt_settings(
            (in_channels, out_channels),
            kernel_size=kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=1,
            padding_mode=padding_mode,
        )
        self._set_graph(graph, degree, seed, init)
        self._set_parameters(bias, device, dtype, generator)

    @property
    def edges(self) -> Edges:
        """The edges between channels."""
        taps, (rows, columns) = self._geometry.taps, self.pattern.shape
        outputs = self.pattern.rows()[::taps].to("cpu", torch.int32).numpy()
        inputs = (self.pattern.columns()[::taps] // taps).to("cpu", torch.int32).numpy()
        return Edges(columns // taps, rows, outputs, inputs, self.graph)

    def mask(self) -> Tensor:
        """Bool of the shape of the dense twin's weight, True where a weight is kept."""
        mask: Tensor = self.pattern.mask().unflatten(1, (-1, *self.kernel_size))
        return mask

    def extra_repr(self) -> str:
        """The constructor's arguments, the kept fraction and the graph."""
        graph = f"degree={self.degree}, graph={self.graph}, seed={self.seed}"
        return f"{SparseConvNd.extra_repr(self)}, {graph}"

    def dense_weight(self) -> Tensor:
        """The twin's weight, zero off the edges; differentiable in the kept entries."""
        return conv_weight(self.kept_values(), self._pattern_tensors(), self.kernel_size)

    def _sizes(self) -> str:
        kernel = "x".join(map(str, self.kernel_size))
        return f"{self.in_channels} to {self.out_channels} channels, kernel {kernel}"

    def _nodes(self) -> tuple[int, int]:
        return self.in_channels // self.unit, self.out_channels // self.unit

    def _pattern_of(self, edges: Edges) -> CSRPattern:
        return pattern_of(edges.expanded(1, self._geometry.taps))

    def _matrix(self, weight: Tensor) -> Tensor:
        self._check_weight(weight, (self.out_channels, self.in_channels, *self.kernel_size))
        return weight.flatten(1)


class _ExpanderConv(ExpanderConvNd):
    """Convolution on the edges of a graph between channels; a twin of torch.nn's.

        y[n, o] = b[o] + sum over the edges (o, c) of x[n, c] convolved with the slice values[edge]

    The entries of the state_dict are `values` and `bias`; the graph is drawn from its seed.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, bias, padding_mode: as in
            the layer of torch.nn; groups are not available.
        degree: edges per input or output channel, depending on the graph.
        graph: name of a graph, such as "regular" or "xnet"; see `sparseq.graphs`.
        seed: of the graph; should be different for each layer of a model.
        init: "he", N(0, 2 / fan_in) where fan_in is the number of kept weights of each output;
            "dense_fan", the same with fan_in = in_channels * taps (Stewart et al. 2023).
        device, dtype: of the parameters; torch's defaults.
        generator: source of the initial values; torch's default generator if None.

    Attributes:
        values: (edges * kernel taps) parameter, sorted by output, input and tap.

    Raises:
        ValueError: an unknown graph or init; channels or a degree that the graph does not allow;
            settings that torch.nn's layer refuses.

    Source: Prabhu, Varma & Namboodiri 2018, "Deep expander networks"; Stewart et al. 2023.
    """


class _ExpanderQConv(SparseQConvNd, ExpanderConvNd):
    """Quaternion convolution on the edges of a graph, y = W (x) x + b; a twin of the dense one.

    An edge is a quaternion slice of the kernel between an input and an output quaternion channel:
    in_channels and out_channels are numbers of real channels, divisible by 4, while the degree
    counts quaternions. The other arguments are those of `ExpanderConv2d`; init is "he" of
    `quaternion_init_` with fan_in the number of kept quaternion weights of each output, or
    "dense_fan", the same with fan_in = in_channels / 4 * taps.

    Attributes:
        values: (edges * kernel taps, 4) parameter, components r, i, j, k.

    Raises:
        ValueError: as `ExpanderConv2d`; channels not divisible by 4.
    """

    unit: ClassVar[int] = 4
    granularity = "quaternion"

    def mask(self) -> Tensor:
        """(4, m, k, *kernel) bool, True at the edges."""
        keep = super().mask()
        return keep.expand(4, *keep.shape).contiguous()

    def _drawn_values(self, generator: torch.Generator | None) -> Tensor:
        return self._drawn_quaternions(generator)


@expander_type(twin=nn.Conv1d, fold=fold_kept_rows)
class ExpanderConv1d(_ExpanderConv):
    __doc__ = f"Over one spatial dimension; twin of nn.Conv1d.\n\n{_ExpanderConv.__doc__}"
    dims, dense = 1, nn.Conv1d


@expander_type(twin=nn.Conv2d, fold=fold_kept_rows)
class ExpanderConv2d(_ExpanderConv):
    __doc__ = f"Over two spatial dimensions; twin of nn.Conv2d.\n\n{_ExpanderConv.__doc__}"
    dims, dense = 2, nn.Conv2d


@expander_type(twin=QConv1d, fold=fold_kept_quaternions)
class ExpanderQConv1d(_ExpanderQConv):
    __doc__ = f"Over one spatial dimension; twin of QConv1d.\n\n{_ExpanderQConv.__doc__}"
    dims, dense = 1, QConv1d


@expander_type(twin=QConv2d, fold=fold_kept_quaternions)
class ExpanderQConv2d(_ExpanderQConv):
    __doc__ = f"Over two spatial dimensions; twin of QConv2d.\n\n{_ExpanderQConv.__doc__}"
    dims, dense = 2, QConv2d
