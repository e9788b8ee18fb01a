"""`SparseSequential`: at inference, sparse layers in a row run as one kernel."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from sparseq.nn.inference.eligibility import is_plain, is_recorded
from sparseq.nn.inference.runs import Run, find_runs, has_hooks
from sparseq.nn.layer_types import layer_type


@layer_type(container=True, arguments=lambda container: {})
class SparseSequential(nn.Sequential):
    """nn.Sequential that takes each run of sparse layers through one kernel.

    A run is SparseLinear and ReLU (`ops.spmm_chain`), or SparseConv2d or ExpanderConv2d with zero
    padding, ReLU, and MaxPool2d over squares that do not overlap (`ops.sparse_conv_chain`). What
    lies between the layers of a run stays in the kernel's layout, and bias, ReLU and pooling cost
    no pass of their own. That is done on CPU tensors where no gradient is recorded and where it was
    measured to pay (bench/ops/spmm_chain.py, bench/ops/sparse_conv_chain.py); in training, under
    autocast, while compiling or exporting, and where a module of the run has hooks, the modules run
    one by one. Both ways agree to rounding. A Dropout in evaluation mode and an Identity do not end
    a run. `compress` makes it of nn.Sequential, `to_dense` undoes it; the state_dict is the same.
    """

    def forward(self, input: Any) -> Any:
        """As nn.Sequential."""
        if not is_plain(input):
            return super().forward(input)
        for item in self._runs():
            if not isinstance(item, Run) or _is_taken(item, input):
                input = item(input)
                continue
            for module in item.modules:
                input = module(input)
        return input

    def _runs(self) -> list[Any]:
        """`find_runs`, found anew when the modules, their mode or their hooks are others."""
        modules = self._modules.values()
        state = [(module, module.training, has_hooks(module)) for module in modules]  # type: ignore[union-attr]
        kept = self.__dict__.get("_found")
        if kept is None or kept[0] != state:
            kept = (state, find_runs(list(modules)))
            self.__dict__["_found"] = kept
        return kept[1]

    def __getstate__(self) -> dict[str, Any]:
        """Without the runs that were found."""
        return {key: value for key, value in self.__dict__.items() if key != "_found"}


def chain_sequentials(model: nn.Module) -> None:
    """Make every nn.Sequential that has a run a SparseSequential, in place."""
    for module in model.modules():
        if type(module) is nn.Sequential and any(map(_is_worth, find_runs(list(module)))):
            module.__class__ = SparseSequential


def unchain_sequentials(model: nn.Module) -> None:
    """Make every SparseSequential an nn.Sequential again, in place."""
    for module in model.modules():
        if type(module) is SparseSequential:
            module.__dict__.pop("_found", None)
            module.__class__ = nn.Sequential  # type: ignore[assignment]


def _is_worth(item: Any) -> bool:
    return isinstance(item, Run) and len(item.modules) > 1


def _is_taken(run: Run, x: Tensor) -> bool:
    """Whether one kernel runs it."""
    return len(run.modules) > 1 and run.pays(x) and not is_recorded(x, run.modules)
