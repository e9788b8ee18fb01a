"""`SparseSequential`: at inference, sparse layers in a row run as one kernel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparseq.nn.sparse import SparseLinear
from sparseq.ops.spmm_chain import spmm_chain

FEW = 60_000  # kept weights of a run up to which the calls cost more than the products
MANY = 500_000  # from here on the weights of a run crowd its activations out of the cache
ROWS = 32  # examples for each thread from which on whole tiles keep it busy


class SparseSequential(nn.Sequential):
    """nn.Sequential that takes each run of SparseLinear and ReLU through `ops.spmm_chain`.

    What lies between the layers of a run stays in the kernel's layout, and bias and ReLU cost no
    pass of their own. That is done on CPU tensors where no gradient is recorded and where it was
    measured to pay (bench/ops/spmm_chain.py); in training, under autocast, while compiling or
    exporting, and where a module of the run has hooks, the modules run one by one. Both ways agree
    to rounding. A Dropout in evaluation mode and an Identity do not end a run. `compress` makes it
    of nn.Sequential, `to_dense` undoes it; the state_dict is the same.
    """

    def forward(self, input: Any) -> Any:
        """As nn.Sequential."""
        if _one_by_one(input):
            return super().forward(input)
        for run in runs(list(self._modules.values())):
            if len(run) > 1 and _pays(run, input) and not _records_gradients(run, input):
                input = spmm_chain(input, *chain_arguments(run))
                continue
            for module in run:
                input = module(input)
        return input


def chain_sequentials(model: nn.Module) -> None:
    """Make every nn.Sequential that has a run a SparseSequential, in place."""
    for module in model.modules():
        if type(module) is nn.Sequential and any(len(run) > 1 for run in runs(list(module))):
            module.__class__ = SparseSequential


def unchain_sequentials(model: nn.Module) -> None:
    """Make every SparseSequential an nn.Sequential again, in place."""
    for module in model.modules():
        if type(module) is SparseSequential:
            module.__class__ = nn.Sequential  # type: ignore[assignment]


def runs(modules: Sequence[nn.Module | None]) -> Iterator[list[Any]]:
    """The modules in order, in lists: runs that one kernel can take, and each other one alone."""
    run: list[Any] = []
    for module in modules:
        fits = type(module) is SparseLinear or (bool(run) and _passes(module))
        if fits and not _has_hooks(module):
            run.append(module)
            continue
        if run:
            yield run
        run = []
        yield [module]
    if run:
        yield run


def _passes(module: Any) -> bool:
    """Whether a module may follow a sparse layer within a run."""
    kind = type(module)
    return kind is nn.ReLU or kind is nn.Identity or (kind is nn.Dropout and not module.training)


def _is_sparse(module: Any) -> bool:
    return type(module) is SparseLinear


def _has_hooks(module: Any) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _one_by_one(x: Any) -> bool:
    return (
        torch.compiler.is_compiling()
        or torch._C._is_any_autocast_enabled()
        or not isinstance(x, Tensor)
        or not x.is_cpu
    )


def _pays(run: Sequence[Any], x: Tensor) -> bool:
    weights = sum(module._buffers["perm"].shape[0] for module in run if _is_sparse(module))
    if weights <= FEW:
        return True
    rows = x.numel() // max(x.shape[-1], 1) if x.dim() else 0
    return weights <= MANY and rows >= ROWS * torch.get_num_threads()


def _records_gradients(run: Sequence[Any], x: Tensor) -> bool:
    if not torch.is_grad_enabled():
        return False
    own = (parameter for module in run for parameter in module._parameters.values())
    return x.requires_grad or any(tensor is not None and tensor.requires_grad for tensor in own)


def chain_arguments(
    run: Sequence[Any],
) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[int]]:
    """values, biases, patterns and relu of a run, as `spmm_chain` takes them.

    Straight from the modules' dicts, as it runs every call.
    """
    values: list[Tensor] = []
    biases: list[Tensor] = []
    patterns: list[Tensor] = []
    relu: list[int] = []
    for module in run:
        if type(module) is SparseLinear:
            own: Any = module._parameters
            kept, bias = own["values"], own["bias"]
            values.append(kept)
            biases.append(kept.new_empty(0) if bias is None else bias)
            patterns.extend(module._pattern_tensors())
            relu.append(0)
        elif type(module) is nn.ReLU:
            relu[-1] = 1
    return values, biases, patterns, relu
