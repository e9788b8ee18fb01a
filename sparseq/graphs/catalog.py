"""The registry of graphs, and their names: "regular", "block(16)", "block(16, xnet)"."""

from __future__ import annotations

import ast
import dataclasses
from typing import Any

from sparseq.errors import argument_error, require
from sparseq.graphs.edges import EDGE_BYTES, Edges
from sparseq.graphs.limit import drawn_before, spend
from sparseq.registry import Registry


class Graph:
    """A kind of graph: a dataclass with its parameters as fields and a `draw` method.

    Subclasses are registered with `@GRAPHS.register`.
    """

    @property
    def per_input(self) -> bool:
        """Whether `degree` is that of the inputs; otherwise it is that of the larger side."""
        return False

    def edges(self, n_in: int, n_out: int, degree: int, seed: int = 0) -> Edges:
        """Draw the graph of a seed; the same on every platform.

        Args:
            n_in, n_out: numbers of inputs and outputs, at least 1.
            degree: edges per node of the side that the graph defines, at least 1; clamped to the
                number of nodes on the other side.
            seed: any integer.

        Raises:
            ValueError: an invalid size, degree or seed, a requirement of the graph is not met, or
                drawing it would be too much work (`sparseq.graphs.limit`).
        """
        sizes = {"n_in": n_in, "n_out": n_out, "degree": degree}
        for name, size in sizes.items():
            require(
                is_integer(size) and size >= 1,
                f"graph {self}",
                name,
                "must be an integer of at least 1",
                size,
            )
        require(is_integer(seed), f"graph {self}", "seed", "must be an integer", seed)
        key, drawn = (str(self), n_in, n_out, degree, seed), drawn_before()
        if key not in drawn:
            spend(str(self), self.work(n_in, n_out, degree))
            drawn[key] = self.draw(n_in, n_out, degree, seed)
        edges: Edges = drawn[key]
        return edges

    def work(self, n_in: int, n_out: int, degree: int) -> int:
        """About how many bytes `draw` writes, see `sparseq.graphs.limit`."""
        return EDGE_BYTES * n_in * n_out

    def draw(self, n_in: int, n_out: int, degree: int, seed: int) -> Edges:
        """`edges` for arguments that are already checked."""
        raise NotImplementedError

    def __str__(self) -> str:
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        texts = [_argument(field, getattr(self, field.name)) for field in fields]
        arguments = ", ".join(filter(None, texts))
        return f"{_name(type(self))}({arguments})" if arguments else _name(type(self))


GRAPHS: Registry[type[Graph]] = Registry("graph")


def graph_of(graph: str | Graph) -> Graph:
    """A graph from its name.

    Args:
        graph: a registered name, followed by its parameters in parentheses, if any: "regular",
            "block(16)", "block(16, xnet)", "regular(tries=10)". A `Graph` is returned unchanged.

    Raises:
        ValueError: an unknown name, or parameters that the graph does not accept.
    """
    if isinstance(graph, Graph):
        return graph
    try:
        tree = ast.parse(str(graph).strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # of null bytes, and deep ones
        tree = ast.Constant(None)
    return _build(tree, str(graph))


def draw_edges(graph: str | Graph, n_in: int, n_out: int, degree: int, seed: int = 0) -> Edges:
    """Draw a graph by name; arguments and errors as in `Graph.edges`."""
    return graph_of(graph).edges(n_in, n_out, degree, seed)


def is_integer(value: object) -> bool:
    """Whether the value is an int and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def _build(node: ast.expr, text: str) -> Graph:
    call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
    if not isinstance(call.func, ast.Name):
        raise argument_error("graph", "name", "must be like regular or block(16, xnet)", repr(text))
    kind = GRAPHS.get(call.func.id)
    positional = [_value(argument, text) for argument in call.args]
    keywords = {str(pair.arg): _value(pair.value, text) for pair in call.keywords}
    try:
        return kind(*positional, **keywords)
    except TypeError:
        fields = ", ".join(field.name for field in dataclasses.fields(kind))  # type: ignore[arg-type]
        rule = f"must have the parameters of {call.func.id}: {fields or 'none'}"
        raise argument_error("graph", "name", rule, repr(text)) from None


def _value(node: ast.expr, text: str) -> Any:
    return node.value if isinstance(node, ast.Constant) else _build(node, text)


def _name(kind: type[Graph]) -> str:
    names = [name for name in GRAPHS.names() if GRAPHS.get(name) is kind]
    return names[0] if names else kind.__name__


def _argument(field: dataclasses.Field[Any], value: Any) -> str:
    """One parameter in a graph's name; empty if it has its default."""
    if field.default is dataclasses.MISSING:
        return str(value)
    return "" if value == field.default else f"{field.name}={value}"
