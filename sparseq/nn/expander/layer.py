"""What the expander layers share: a pattern that is a graph, drawn again from its seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sparseq.errors import require, unknown_name
from sparseq.formats import CSRPattern
from sparseq.graphs import Edges, Graph, draw_edges
from sparseq.nn.layer_types import constructor_arguments, layer_type
from sparseq.nn.quaternion.init import draw_quaternions
from sparseq.nn.sparse.patterned import (
    PatternedLayer,
    build_with_store,
    stored_weights,
    with_store,
)

EXPANDER_INITS = ["he", "dense_fan"]


class ExpanderLayer(PatternedLayer):
    """A layer whose pattern is a graph.

    The state_dict holds `values` and `bias` alone; that the graph is the same is checked by the
    metadata a state_dict carries. That of the dense twin (`weight`) loads through the pattern.

    Attributes:
        graph: name that draws the layer's graph without a search, see `sparseq.graphs.Edges`.
        degree, seed, init: as given.
        block: (rows, columns) of an entry of the pattern; (1, 1) is a single edge.
        op: name of the operator that computes the layer.
    """

    __constants__: ClassVar[list[str]] = ["in_features", "out_features", "degree", "graph", "seed"]
    unit: ClassVar[int] = 1  # real features of a node
    block: tuple[int, int]
    op: str

    def __init__(
        self,
        in_features: int,
        out_features: int,
        degree: int,
        graph: str | Graph = "regular",
        *,
        seed: int = 0,
        bias: bool = True,
        init: str = "he",
        device: Any = None,
        dtype: torch.dtype | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self._take_graph(graph, degree, seed, init)
        self._fill(bias, device, dtype, generator)

    def _take_graph(self, graph: str | Graph, degree: int, seed: int, init: str) -> None:
        """Draw the graph between the layer's nodes and enter its pattern."""
        if init not in EXPANDER_INITS:
            raise unknown_name(f"{type(self).__name__} init", init, EXPANDER_INITS)
        self.degree, self.seed, self.init = degree, seed, init
        edges = self._draw(graph)
        self.graph, self.block = edges.graph, self._choose(edges)
        self._register_pattern(self._pattern_of(edges))

    def _fill(
        self, bias: bool, device: Any, dtype: torch.dtype | None, generator: torch.Generator | None
    ) -> None:
        """Enter values and bias, and draw them."""
        device = torch.get_default_device() if device is None else device
        self._register(self.pattern, None, bias, device, dtype)
        self.reset_parameters(generator)

    @property
    def edges(self) -> Edges:
        """The edges between outputs and inputs (quaternions in a quaternion layer)."""
        rows, columns = self.pattern.shape
        outputs = self.pattern.rows().to("cpu", torch.int32).numpy()
        inputs = self.col_idx.cpu().numpy()
        return Edges(columns, rows, outputs, inputs, self.graph).expanded(*self.block)

    @property
    def identity(self) -> str:
        """What makes two layers' graphs the same."""
        return f"{self.graph} of degree {self.degree}, seed {self.seed}, {self._sizes()}"

    def mask(self) -> Tensor:
        """Bool of the dense twin's weight's shape, True where a weight is kept."""
        rows, columns = self.block
        return self.pattern.mask().repeat_interleave(rows, 0).repeat_interleave(columns, 1)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the values anew and zero the bias."""
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        if not self.kept_values().is_meta:
            self.store.write_(self, self._drawn_values(generator))

    def extra_repr(self) -> str:
        """Sizes, the kept fraction and the graph."""
        graph = f"degree={self.degree}, graph={self.graph}, seed={self.seed}"
        return f"{super().extra_repr()}, {graph}"

    def _choose(self, edges: Edges) -> tuple[int, int]:
        """The block of the layer's entries, and with it the op, for a graph."""
        return 1, 1

    def _drawn_values(self, generator: torch.Generator | None) -> Tensor:
        """Real entries from N(0, 2 / fan_in)."""
        values = self.kept_values()
        device = values.device if generator is None else generator.device
        drawn = torch.randn(values.shape, generator=generator, device=device)
        scale = (2 / self._fan_in()).sqrt().view(-1, *[1] * len(self._entry_shape()))
        return drawn.to(values.device) * scale

    def _drawn_quaternions(self, generator: torch.Generator | None) -> Tensor:
        """Quaternion entries of the He distribution."""
        values = self.kept_values()
        drawn = draw_quaternions((len(values),), values, generator)
        return drawn.t() * (2 * self._fan_in()).rsqrt()[:, None]

    def _sizes(self) -> str:
        """What the graph connects, in words."""
        return f"{self.in_features} to {self.out_features} features"

    def _nodes(self) -> tuple[int, int]:
        """Inputs and outputs of the graph."""
        return self.in_features // self.unit, self.out_features // self.unit

    def _draw(self, graph: str | Graph) -> Edges:
        return draw_edges(graph, *self._nodes(), self.degree, self.seed)

    def _pattern_of(self, edges: Edges) -> CSRPattern:
        """The pattern of the entries on a graph's edges."""
        return pattern_of(edges, self.block)

    def _fan_in(self) -> Tensor:
        """(entries): nodes that the output of an entry reads, as often as it reads them."""
        counts = self.row_ptr.diff()[self.pattern.rows()] * self.block[1]
        everything = self.pattern.shape[1] * self.block[1]
        return counts if self.init == "he" else counts.fill_(everything)

    def _register_pattern(self, pattern: CSRPattern) -> None:
        super()._register_pattern(pattern)
        self._non_persistent_buffers_set.update(("row_ptr", "col_idx"))

    def _place_pattern(self, pattern: CSRPattern, device: torch.device) -> None:
        """Have the pattern on a device, drawn anew where the one there was holds no data."""
        if pattern.row_ptr.is_meta:
            pattern = self._pattern_of(self._draw(self.graph))
        self._register_pattern(pattern.map(lambda tensor: tensor.to(device)))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        before = self.pattern
        super()._apply(fn, recurse)
        if self.row_ptr is not before.row_ptr and not self.row_ptr.is_meta:
            self._place_pattern(before, self.row_ptr.device)  # `to_empty` leaves anything there
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if hasattr(destination, "_metadata"):
            destination._metadata.setdefault(prefix[:-1], {})["graph"] = self.identity

    def _load_from_state_dict(
        self,
        state_dict: dict,
        prefix: str,
        local_metadata: dict,
        strict: bool,
        missing_keys: list,
        unexpected_keys: list,
        error_msgs: list,
    ) -> None:
        """Refuse the values of another graph."""
        graph = local_metadata.get("graph", self.identity)
        if graph != self.identity:
            where = f"{prefix.rstrip('.') or 'the layer'}: {type(self).__name__}"
            error_msgs.append(f"{where}: graph must be {self.identity}, got {graph}")
            return
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def _selected(self, weight: Tensor) -> dict[str, Tensor]:
        selected = super()._selected(weight)
        return {name: selected[name] for name in self.store.tensors}

    def _adopted(self, stored: dict[str, Tensor], assign: bool) -> dict[str, Tensor]:
        rule = "must hold no pattern, as the graph is the layer's own"
        pattern = stored.keys() & {"row_ptr", "col_idx"}
        require(not pattern, type(self).__name__, "state_dict", rule, ", ".join(sorted(stored)))
        first = self.store.tensors[0]
        entries = stored.get(first, getattr(self, first))
        if assign and entries.device != self.row_ptr.device:
            self._place_pattern(self.pattern, entries.device)
        return {}


def pattern_of(edges: Edges, block: tuple[int, int] = (1, 1)) -> CSRPattern:
    """The pattern of a graph's edges, or of their blocks; on the CPU."""
    grid = edges if block == (1, 1) else edges.grid()
    return CSRPattern.from_csr(
        torch.from_numpy(grid.row_ptr), torch.from_numpy(grid.inputs), grid.n_in
    )


def expander_type(**known: Any) -> Callable[[Any], Any]:
    """Registers a layer on a graph; its op is what it chose for the graph."""

    def arguments(layer: ExpanderLayer) -> dict[str, Any]:
        return with_store(constructor_arguments(layer), layer)

    def enter(kind: Any) -> Any:
        return layer_type(
            op=lambda layer: layer.op,
            weights=stored_weights,
            arguments=arguments,
            build=build_with_store(kind),
            **known,
        )(kind)

    return enter
