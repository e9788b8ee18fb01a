"""Layers of an nn.Sequential that one kernel would compute if they were sparse."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from sparseq.nn.computed import plain_layer
from sparseq.nn.inference.chain import SparseSequential, chain_sequentials
from sparseq.nn.inference.eligibility import has_hooks
from sparseq.nn.inference.runs import Run, find_runs

SEQUENTIALS = (nn.Sequential, SparseSequential)


@dataclass(frozen=True)
class Chain:
    """Consecutive modules of one nn.Sequential.

    Attributes:
        modules: their paths, in order.
        layers: the paths of those that may become sparse.
    """

    modules: tuple[str, ...]
    layers: tuple[str, ...]


def sequential_paths(model: nn.Module) -> list[str]:
    """Paths of the modules whose children may run as one kernel."""
    return [path for path, module in model.named_modules() if type(module) in SEQUENTIALS]


def find_chains(
    model: nn.Module, sequentials: Sequence[str], twins: Mapping[str, nn.Module]
) -> Iterator[Chain]:
    """The chains that a model would have if each layer of `twins` were the twin named there.

    A chain with a shared module is left out: its calls cannot be told apart.

    Args:
        model: any module, in the mode in which it will run.
        sequentials: paths of the nn.Sequential modules to search.
        twins: path -> sparse twin.
    """
    uses = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    for path in sequentials:
        names = list(model.get_submodule(path)._modules)
        paths = [f"{path}.{name}" if path else name for name in names]
        modules = {each: model.get_submodule(each) for each in paths}
        hooked = {each for each, module in modules.items() if has_hooks(plain_layer(module))}
        sparse = [m if each in hooked else twins.get(each, m) for each, m in modules.items()]
        for run in _split(paths, find_runs(sparse)):
            layers = tuple(each for each in run if each in twins)
            if layers and all(uses[id(modules[each])] == 1 for each in run):
                yield Chain(tuple(run), layers)


def _split(paths: list[str], items: list[object]) -> Iterator[list[str]]:
    """The paths of every run of several modules."""
    start = 0
    for item in items:
        length = len(item.modules) if isinstance(item, Run) else 1
        if length > 1:
            yield paths[start : start + length]
        start += length


def in_a_row(chain: Chain, module_at: Callable[[str], nn.Module]) -> nn.Module:
    """The modules of a chain as `compress` would put them: chained where they can be."""
    row = nn.Sequential(*map(module_at, chain.modules)).eval()
    chain_sequentials(row)
    return row
