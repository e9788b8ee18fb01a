"""The registry of graphs, and their names: "regular", "block(16)", "block(16, xnet)"."""

from __future__ import annotations

import ast
import dataclasses
from typing import Any

from sparseq.errors import argument_error, require
from sparseq.graphs.edges import Edges
from sparseq.registry import Registry


class Graph:
    """A kind of graph. Its parameters are the fields of the dataclass it is.

    A new one is a dataclass under `@GRAPHS.register`, with `draw`.
    """

    @property
    def per_input(self) -> bool:
        """Whether the degree is that of the inputs; else it is that of the larger side."""
        return False

    def edges(self, n_in: int, n_out: int, degree: int, seed: int = 0) -> Edges:
        """The graph of a seed; the same on every platform.

        Args:
            n_in, n_out: numbers of inputs and outputs, at least 1.
            degree: edges per node, of which side the graph says; at least 1. More than there are
                nodes on the other side means all of them.
            seed: any integer.

        Raises:
            ValueError: sizes, a degree or a seed that are none; what the graph itself demands.
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
        return self.draw(n_in, n_out, degree, seed)

    def draw(self, n_in: int, n_out: int, degree: int, seed: int) -> Edges:
        """What `edges` returns, of arguments that are checked."""
        raise NotImplementedError

    def __str__(self) -> str:
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        texts = [_argument(field, getattr(self, field.name)) for field in fields]
        inner = ", ".join(filter(None, texts))
        return f"{_name(type(self))}({inner})" if inner else _name(type(self))


GRAPHS: Registry[type[Graph]] = Registry("graph")


def graph_of(graph: str | Graph) -> Graph:
    """A graph from its name.

    Args:
        graph: a registered name, with its parameters in brackets where it has any: "regular",
            "block(16)", "block(16, xnet)", "regular(tries=10)". A `Graph` is returned as it is.

    Raises:
        ValueError: an unknown name, or parameters that the graph does not take.
    """
    if isinstance(graph, Graph):
        return graph
    try:
        tree = ast.parse(str(graph).strip(), mode="eval").body
    except SyntaxError:
        tree = ast.Constant(None)
    return _build(tree, str(graph))


def draw_edges(graph: str | Graph, n_in: int, n_out: int, degree: int, seed: int = 0) -> Edges:
    """The edges of a graph given by name; arguments and errors as in `Graph.edges`."""
    return graph_of(graph).edges(n_in, n_out, degree, seed)


def is_integer(value: object) -> bool:
    """Whether it is an int, and no bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def _build(node: ast.expr, text: str) -> Graph:
    call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
    if not isinstance(call.func, ast.Name):
        raise argument_error("graph", "name", "must be like regular or block(16, xnet)", repr(text))
    kind = GRAPHS.get(call.func.id)
    positional = [_value(argument, text) for argument in call.args]
    named = {str(pair.arg): _value(pair.value, text) for pair in call.keywords}
    try:
        return kind(*positional, **named)
    except TypeError:
        fields = ", ".join(field.name for field in dataclasses.fields(kind))  # type: ignore[arg-type]
        rule = f"must have the parameters of {call.func.id}: {fields or 'none'}"
        raise argument_error("graph", "name", rule, repr(text)) from None


def _value(node: ast.expr, text: str) -> Any:
    return node.value if isinstance(node, ast.Constant) else _build(node, text)


def _name(kind: type[Graph]) -> str:
    known = [name for name in GRAPHS.names() if GRAPHS.get(name) is kind]
    return known[0] if known else kind.__name__


def _argument(field: dataclasses.Field[Any], value: Any) -> str:
    """One parameter of a graph's name; nothing if it is the default."""
    if field.default is dataclasses.MISSING:
        return str(value)
    return "" if value == field.default else f"{field.name}={value}"
