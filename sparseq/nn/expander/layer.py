"""Base class of the expander layers: the pattern is a graph, drawn from a seed."""

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

    The entries of the state_dict are `values` and `bias` only; its metadata names the graph, and
    loading a state_dict with another graph is an error. From the state_dict of the dense twin
    (`weight`) the kept entries are loaded.

    Attributes:
        graph: name from which the layer's graph is drawn without a search, see
            `sparseq.graphs.Edges`.
        degree, seed, init: as passed to the constructor.
        block: (rows, columns) of an entry of the pattern; (1, 1) for a single edge.
        op: name of the operator that computes the layer.
    """

    __constants__: ClassVar[list[str]] = ["in_features", "out_features", "degree", "graph", "seed"]
    _saved_pattern: ClassVar[tuple[str, ...]] = ()
    unit: ClassVar[int] = 1  # real features per node
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
        self._set_graph(graph, degree, seed, init)
        self._set_parameters(bias, device, dtype, generator)

    def _set_graph(self, graph: str | Graph, degree: int, seed: int, init: str) -> None:
        """Draw the graph between the layer's nodes and register its pattern."""
        if init not in EXPANDER_INITS:
            raise unknown_name(f"{type(self).__name__} init", init, EXPANDER_INITS)
        self.degree, self.seed, self.init = degree, seed, init
        edges = self._draw(graph)
        self.graph, self.block = edges.graph, self._choose_block(edges)
        self._set_pattern(self._pattern_of(edges))

    def _set_parameters(
        self, bias: bool, device: Any, dtype: torch.dtype | None, generator: torch.Generator | None
    ) -> None:
        """Register values and bias, and initialize them."""
        device = torch.get_default_device() if device is None else device
        self._register(self.pattern, None, bias, device, dtype)
        self.reset_parameters(generator)

    @property
    def edges(self) -> Edges:
        """The edges between inputs and outputs (quaternions in a quaternion layer)."""
        rows, columns = self.pattern.shape
        outputs = self.pattern.rows().to("cpu", torch.int32).numpy()
        inputs = self.pattern.columns().to("cpu", torch.int32).numpy()
        return Edges(columns, rows, outputs, inputs, self.graph).expanded(*self.block)

    @property
    def identity(self) -> str:
        """A text that is equal for two layers if they have the same graph."""
        return f"{self.graph} of degree {self.degree}, seed {self.seed}, {self._sizes()}"

    def mask(self) -> Tensor:
        """Bool of the shape of the dense twin's weight, True where a weight is kept."""
        rows, columns = self.block
        return self.pattern.mask().repeat_interleave(rows, 0).repeat_interleave(columns, 1)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Initialize the values and zero the bias."""
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        if not self.kept_values().is_meta:
            self.store.write_(self, self._drawn_values(generator))

    def extra_repr(self) -> str:
        """Sizes, the kept fraction and the graph."""
        graph = f"degree={self.degree}, graph={self.graph}, seed={self.seed}"
        return f"{super().extra_repr()}, {graph}"

    def _choose_block(self, edges: Edges) -> tuple[int, int]:
        """The block size of the entries for a graph; also sets `op` if that depends on it."""
        return 1, 1

    def _drawn_values(self, generator: torch.Generator | None) -> Tensor:
        """Real entries from N(0, 2 / fan_in)."""
        values = self.kept_values()
        device = values.device if generator is None else generator.device
        drawn = torch.randn(values.shape, generator=generator, device=device)
        scale = (2 / self._fan_in()).sqrt().view(-1, *[1] * len(self._entry_shape()))
        return drawn.to(values.device) * scale

    def _drawn_quaternions(self, generator: torch.Generator | None) -> Tensor:
        """Quaternion entries as by "he" of `quaternion_init_`."""
        values = self.kept_values()
        drawn = draw_quaternions((len(values),), values, generator)
        return drawn.t() * (2 * self._fan_in()).rsqrt()[:, None]

    def _sizes(self) -> str:
        """Description of what the graph connects."""
        return f"{self.in_features} to {self.out_features} features"

    def _nodes(self) -> tuple[int, int]:
        """Numbers of input and output nodes of the graph."""
        return self.in_features // self.unit, self.out_features // self.unit

    def _draw(self, graph: str | Graph) -> Edges:
        return draw_edges(graph, *self._nodes(), self.degree, self.seed)

    def _pattern_of(self, edges: Edges) -> CSRPattern:
        """The pattern of the entries for a graph."""
        return pattern_of(edges, self.block)

    def _fan_in(self) -> Tensor:
        """(entries) the fan_in of each entry's output: its edges, or all inputs for "dense_fan"."""
        counts = self.pattern.counts()[self.pattern.rows()] * self.block[1]
        all_inputs = self.pattern.shape[1] * self.block[1]
        return counts if self.init == "he" else counts.fill_(all_inputs)

    def _move_pattern(self, device: torch.device) -> None:
        """As the base class, but draw the graph again if the layer is on the meta device."""
        if self._pattern.is_meta and device.type != "meta":
            self._set_pattern(self._pattern_of(self._draw(self.graph)))
        super()._move_pattern(device)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if hasattr(destination, "_metadata"):
            destination._metadata.setdefault(prefix[:-1], {})["graph"] = self.identity

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """As the base class, but report values of another graph as an error."""
        graph = local_metadata.get("graph", self.identity)
        if graph != self.identity:
            layer = f"{prefix.rstrip('.') or 'the layer'}: {type(self).__name__}"
            error_msgs.append(f"{layer}: graph must be {self.identity}, got {graph}")
            return
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def _adopt(self, stored: dict[str, Tensor], assign: bool) -> dict[str, Tensor]:
        rule = "must not contain a pattern, which is that of the layer's graph"
        pattern = stored.keys() & {"row_ptr", "col_idx"}
        require(not pattern, type(self).__name__, "state_dict", rule, ", ".join(sorted(stored)))
        first = self.store.tensors[0]
        entries = stored.get(first, getattr(self, first))
        if assign:
            self._move_pattern(entries.device)
        return {}


def pattern_of(edges: Edges, block: tuple[int, int] = (1, 1)) -> CSRPattern:
    """The pattern of a graph's edges, or of their blocks; on the CPU."""
    grid = edges if block == (1, 1) else edges.grid()
    return CSRPattern.from_csr(torch.from_numpy(grid.row_ptr), torch.tensor(grid.inputs), grid.n_in)


def expander_type(**fields: Any) -> Callable[[Any], Any]:
    """Class decorator that registers an expander layer; the keywords are fields of `LayerType`."""

    def arguments(layer: ExpanderLayer) -> dict[str, Any]:
        return with_store(constructor_arguments(layer), layer)

    def register(layer_class: Any) -> Any:
        return layer_type(
            op=lambda layer: layer.op,
            weights=stored_weights,
            arguments=arguments,
            build=build_with_store(layer_class),
            **fields,
        )(layer_class)

    return register
