"""Pairs of modules in a model where the output of the first is the input of the second only."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator

from torch import fx, nn

from sparseq.nn.computed import copy_model
from sparseq.nn.inference.chain import unchain_sequentials
from sparseq.nn.inference.eligibility import has_hooks
from sparseq.nn.layer_types import type_of

IsPair = Callable[[nn.Module, nn.Module], bool]


def adjacent_pairs(model: nn.Module, is_pair: IsPair) -> list[tuple[str, str]]:
    """Names of modules (a, b) where the output of a is used by b and by nothing else.

    Modules that torch.fx can trace are read from its graph. In others, each child is searched
    separately, and the modules of an nn.Sequential are taken to follow each other. Excluded are
    modules and parameters that are used twice, modules with hooks, and modules whose parameters are
    read by other modules.

    Args:
        model: any module; it is not modified.
        is_pair: whether two modules are of the wanted types.
    """
    model = copy_model(model)  # tracing runs its code
    unchain_sequentials(model)
    candidates = set(_used_once(model))
    return [
        (a, b)
        for a, b in _pairs(model, "")
        if {a, b} <= candidates and is_pair(model.get_submodule(a), model.get_submodule(b))
    ]


def _used_once(model: nn.Module) -> Iterator[str]:
    """Names of the modules without hooks that are not shared, nor any of their parameters."""
    modules = list(model.named_modules(remove_duplicate=False))
    names = Counter(id(module) for _, module in modules)
    parameters = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    for name, module in modules:
        unshared = all(parameters[id(p)] == 1 for p in module.parameters(recurse=False))
        if names[id(module)] == 1 and unshared and not has_hooks(module):
            yield name


class _Tracer(fx.Tracer):
    """Treats every registered layer as a leaf, and traces into containers."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        is_layer = type_of(type(m)) is not None and not isinstance(m, nn.Sequential)
        return is_layer or super().is_leaf_module(m, module_qualified_name)


def _pairs(module: nn.Module, prefix: str) -> Iterator[tuple[str, str]]:
    try:
        graph = _Tracer().trace(module)
    except Exception:  # a model's own code may raise anything when called with a proxy
        children = list(module.named_children())
        if isinstance(module, nn.Sequential):
            names = [prefix + name for name, _ in children]
            yield from itertools.pairwise(names)
        for name, child in children:
            yield from _pairs(child, f"{prefix}{name}.")
        return
    for a, b in _graph_pairs(graph):
        yield prefix + a, prefix + b


def _graph_pairs(graph: fx.Graph) -> Iterator[tuple[str, str]]:
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    read = {str(node.target).rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}
    for node in graph.nodes:
        source = node.args[0] if node.op == "call_module" and len(node.args) == 1 else None
        if not isinstance(source, fx.Node) or source.op != "call_module" or node.kwargs:
            continue
        pair = str(source.target), str(node.target)
        if len(source.users) == 1 and all(calls[n] == 1 and n not in read for n in pair):
            yield pair
