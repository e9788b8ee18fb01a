"""Which module of a model feeds which other one, and nothing else."""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from collections.abc import Callable, Iterator

from torch import fx, nn

from sparseq.nn.inference.chain import unchain_sequentials
from sparseq.nn.layer_types import type_of

IsPair = Callable[[nn.Module, nn.Module], bool]


def adjacent_pairs(model: nn.Module, is_pair: IsPair) -> list[tuple[str, str]]:
    """Names of modules (a, b) where b takes the output of a, that no one else takes.

    What torch.fx can trace is read from its graph; in what it cannot, each child is looked at by
    itself, and the modules of an nn.Sequential follow each other. Modules and parameters that are
    used twice, modules with hooks, and modules whose parameters are read from outside are left out.

    Args:
        model: any module, left as it is.
        is_pair: whether two modules are of the kinds looked for.
    """
    model = copy.deepcopy(model)  # tracing runs its code
    unchain_sequentials(model)
    single = set(_used_once(model))
    return [
        (a, b)
        for a, b in _pairs(model, "")
        if {a, b} <= single and is_pair(model.get_submodule(a), model.get_submodule(b))
    ]


def _used_once(model: nn.Module) -> Iterator[str]:
    """Modules without hooks that have one name, and whose parameters have one."""
    modules = list(model.named_modules(remove_duplicate=False))
    names = Counter(id(module) for _, module in modules)
    parameters = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    for name, module in modules:
        hooked = module._forward_hooks or module._forward_pre_hooks
        alone = all(parameters[id(p)] == 1 for p in module.parameters(recurse=False))
        if names[id(module)] == 1 and alone and not hooked:
            yield name


class _Tracer(fx.Tracer):
    """Layers, ours too, stay whole; containers are looked into."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        known = type_of(type(m))
        whole = known is not None and not isinstance(m, nn.Sequential)
        return whole or super().is_leaf_module(m, module_qualified_name)


def _pairs(module: nn.Module, prefix: str) -> Iterator[tuple[str, str]]:
    try:
        graph = _Tracer().trace(module)
    except Exception:  # whatever a model's own code raises when it meets a proxy
        children = list(module.named_children())
        if isinstance(module, nn.Sequential):
            names = [prefix + name for name, _ in children]
            yield from itertools.pairwise(names)
        for name, child in children:
            yield from _pairs(child, f"{prefix}{name}.")
        return
    for a, b in _of_graph(graph):
        yield prefix + a, prefix + b


def _of_graph(graph: fx.Graph) -> Iterator[tuple[str, str]]:
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    read = {str(node.target).rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}
    for node in graph.nodes:
        source = node.args[0] if node.op == "call_module" and len(node.args) == 1 else None
        if not isinstance(source, fx.Node) or source.op != "call_module" or node.kwargs:
            continue
        pair = str(source.target), str(node.target)
        if len(source.users) == 1 and all(calls[n] == 1 and n not in read for n in pair):
            yield pair
