"""`SparseSequential`: at inference, consecutive sparse layers run as one kernel."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from sparseq.nn.inference.eligibility import has_hooks, is_eager_cpu_tensor, is_recorded
from sparseq.nn.inference.runs import Run, find_runs
from sparseq.nn.layer_types import layer_type


@layer_type(container=True, arguments=lambda container: {})
class SparseSequential(nn.Sequential):
    """nn.Sequential that computes each run of sparse layers by one kernel.

    A run consists of SparseLinear and ReLU (`ops.spmm_chain`), or of SparseConv2d or ExpanderConv2d
    with zero padding, ReLU, and MaxPool2d over non-overlapping squares (`ops.sparse_conv_chain`).
    Tensors between the layers of a run stay in the kernel's layout, and bias, ReLU and pooling are
    part of its epilogue. The kernel runs on CPU tensors if no gradient is recorded and if it was
    measured to be faster (bench/ops/spmm_chain.py, bench/ops/sparse_conv_chain.py); in training,
    under autocast, during compilation or export, and if a module of the run has hooks, the modules
    run one by one. Both ways agree to rounding. A Dropout in evaluation mode and an Identity do not
    end a run. `compress` converts nn.Sequential to it, `to_dense` undoes this; the state_dict is
    the same.
    """

    def forward(self, input: Any) -> Any:
        """As nn.Sequential."""
        if not is_eager_cpu_tensor(input):
            return super().forward(input)
        for item in self._runs():
            if not isinstance(item, Run) or _runs_as_one(item, input):
                input = item(input)
                continue
            for module in item.modules:
                input = module(input)
        return input

    def _runs(self) -> list[Any]:
        """`find_runs`, cached until the modules, their modes or their hooks change."""
        modules = list(self._modules.values())
        state = [(module, module.training, has_hooks(module)) for module in modules]
        cached: tuple[Any, list[Any]] | None = self.__dict__.get("_cached_runs")
        if cached is None or cached[0] != state:
            cached = (state, find_runs(modules))
            self.__dict__["_cached_runs"] = cached
        return cached[1]

    def __getstate__(self) -> dict[str, Any]:
        """Without the cached runs."""
        return {key: value for key, value in self.__dict__.items() if key != "_cached_runs"}


def chain_sequentials(model: nn.Module) -> None:
    """Make every nn.Sequential that has a run a SparseSequential, in place."""
    for module in model.modules():
        if type(module) is nn.Sequential and any(map(_is_chain, find_runs(list(module)))):
            module.__class__ = SparseSequential


def unchain_sequentials(model: nn.Module) -> None:
    """Make every SparseSequential an nn.Sequential again, in place."""
    for module in model.modules():
        if type(module) is SparseSequential:
            module.__dict__.pop("_cached_runs", None)
            module.__class__ = nn.Sequential  # type: ignore[assignment]


def _is_chain(item: Any) -> bool:
    return isinstance(item, Run) and len(item.modules) > 1


def _runs_as_one(run: Run, x: Tensor) -> bool:
    """Whether one kernel computes a run."""
    return _is_chain(run) and run.is_faster(x) and not is_recorded(x, run.modules)
