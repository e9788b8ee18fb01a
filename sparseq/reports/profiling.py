"""`profile`: measures the cost of each layer of a model next to that of its dense twin."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from sparseq.compression.break_even import density_of
from sparseq.compression.calls import Call, Replay, record_calls, tensors_in
from sparseq.compression.candidates import convert
from sparseq.compression.choice import Choice
from sparseq.compression.example import as_call, pure
from sparseq.errors import require
from sparseq.nn.computed import copy_model
from sparseq.nn.convert import dense_twin, replace_modules
from sparseq.nn.layer_types import check_module, nearest_type, sparse_type
from sparseq.nn.sparse.patterned import PatternedLayer
from sparseq.ops._backend import activate
from sparseq.reports.layer_table import LayerRow, layer_table
from sparseq.timing import Work, median_ms


@dataclass(frozen=True)
class Profile:
    """Measured costs; prints as a table.

    Attributes:
        rows: one per module with its own parameters, in the model's order.
        total: the complete model; sparse_ms is the time of the model itself, dense_ms that of the
            model with every sparse layer replaced by its dense twin.
        batch: first dimension of the input.
        device: where the model ran.
        threads: torch's CPU threads.
        repeats: samples per median.
        note: what `compress` measured for the whole model, "" if it did not.
    """

    rows: list[LayerRow]
    total: LayerRow
    batch: int
    device: str
    threads: int
    repeats: int
    note: str = ""

    def table(self) -> Table:
        """A rich table."""
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        title = f"batch {self.batch}, {self.device}, {threads}, median of {self.repeats}"
        return layer_table(self.rows, self.total, title, self.note)

    def __rich__(self) -> Table:
        return self.table()

    def __str__(self) -> str:
        text = io.StringIO()
        Console(file=text, width=120).print(self.table())
        return text.getvalue()


def profile(model: nn.Module, x: Any, repeats: int = 20) -> Profile:
    """Measure every layer of a model, and its dense twin, on the layer's own inputs.

    Dense and sparse calls are interleaved, so that the machine's load affects both alike; times
    are medians. A copy of the model runs, in evaluation mode and without gradients: mode, hooks
    and buffers of the model and torch's random state do not change.

    Args:
        model: any module.
        x: one batch, (N, ...) on the model's device; a tuple or list for several inputs, a dict
            for keyword inputs.
        repeats: samples per median, at least 1.

    Returns:
        The measurements, which print as a table.

    Raises:
        ValueError: repeats below 1, or an x without a batch dimension.
    """
    check_module("profile", model)
    require(repeats >= 1, "profile", "repeats", "must be at least 1", repeats)
    first = next(tensors_in(x), None)
    batched = first is not None and first.dim() > 0
    require(batched, "profile", "x", "must be a batch (N, ...)", type(x).__name__)
    assert first is not None
    device, choice, call = first.device, _choice_of(model), as_call("profile", x)
    with pure(training=False, device=device):
        profiled = copy_model(model).eval()
        layers = _layers(profiled)
        calls, _ = record_calls(layers, lambda: profiled(*call.args, **call.kwargs))
        rows = [
            _with_choice(_measured(path, module, calls[path], device, repeats), choice)
            for path, module in layers.items()
        ]
        total = _total(profiled, rows, call, device, repeats)
    threads, note = torch.get_num_threads(), f"compress: {choice.summary}" if choice else ""
    return Profile(rows, total, first.shape[0], str(device), threads, repeats, note)


def _choice_of(model: nn.Module) -> Choice | None:
    """What `compress` measured for a model; None if it did not measure."""
    choice = getattr(model, "compression", None)
    return choice if isinstance(choice, Choice) else None


def _layers(model: nn.Module) -> dict[str, nn.Module]:
    """Path -> module, of the modules with their own parameters."""
    return {
        path: module
        for path, module in model.named_modules()
        if any(True for _ in module.parameters(recurse=False))
    }


def _measured(
    path: str, module: nn.Module, calls: list[Call], device: torch.device, repeats: int
) -> LayerRow:
    dense, sparse = _twins(module)
    replays = [_replay(twin, calls) for twin in (dense, sparse) if twin is not None]
    times = [*median_ms(replays, device, repeats), None] if calls else [None, None]
    weights, kept = _weights(module, dense)
    kind, density = type(module).__name__, kept / max(weights, 1)
    costs = (_bytes(module), times[0], times[1], _kernel(module, device))
    is_dense = sparse is not None and sparse is not module
    reason = _times_reason(times[0], times[1]) if is_dense else ""
    return LayerRow(path or "(model)", kind, density, weights, kept, *costs, reason)


def _times_reason(dense_ms: float | None, sparse_ms: float | None) -> str:
    """What the two times of a dense layer with zeros say."""
    if dense_ms is None or sparse_ms is None:
        return "not called with this input"
    if sparse_ms < dense_ms:
        return "sparse is faster here; compress(example=...) decides by such times"
    return "dense is faster here"


def _with_choice(row: LayerRow, choice: Choice | None) -> LayerRow:
    """The row with what `compress` measured when it chose the layer's form.

    The row's own times come from other runs, on another input perhaps, so that a layer whose forms
    are about equal may come out the other way round: the reason says what was decided on.
    """
    path = "" if row.name == "(model)" else row.name
    verdict = choice.verdicts.get(path) if choice is not None else None
    if choice is None or verdict is None or not (verdict.is_dense or verdict.why):
        return row
    own = "" if verdict.times or not row.reason else f"{row.reason}; "
    return replace(row, reason=f"{own}{verdict.taken} by compress: {verdict.reason}")


def _twins(module: Any) -> tuple[nn.Module, nn.Module | None]:
    """The dense and the sparse twin of a layer; no sparse one without zeros or a sparse type."""
    if _is_sparse(module):
        return module.to_dense(), module
    if sparse_type(type(module)) is None:
        return module, None
    keep = module.weight != 0
    return module, convert(module, keep) if density_of(keep) < 1 else None


def _weights(module: Any, dense: nn.Module) -> tuple[int, int]:
    """Number of weights of the dense twin, and how many of them are kept."""
    weight = getattr(dense, "weight", None)
    if not isinstance(weight, Tensor):
        count = sum(parameter.numel() for parameter in module.parameters(recurse=False))
        return count, count
    return weight.numel(), module.nnz if _is_sparse(module) else int(weight.count_nonzero())


def _is_sparse(module: nn.Module) -> bool:
    return isinstance(module, PatternedLayer)


def _bytes(module: nn.Module) -> int:
    tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    pattern = module.pattern.nbytes if isinstance(module, PatternedLayer) else 0
    return pattern + sum(tensor.nbytes for tensor in tensors)


def _kernel(module: nn.Module, device: torch.device) -> str:
    layer_type = nearest_type(type(module))
    op = layer_type.op_of(module) if layer_type is not None else None
    return f"{op} {activate(device.type).get(op, 'reference')}" if op else "torch"


def _replay(module: nn.Module, calls: list[Call]) -> Work:
    replays = [Replay(module, call, training=False) for call in calls]
    return lambda: [replay() for replay in replays]


def _total(
    model: nn.Module, rows: list[LayerRow], call: Call, device: torch.device, repeats: int
) -> LayerRow:
    sparse = any(_is_sparse(module) for module in model.modules())
    models = [replace_modules(model, _dense_of_sparse), model] if sparse else [model]
    replays = [_replay(twin, [call]) for twin in models]
    times = [*median_ms(replays, device, repeats), None]
    kept, weights = sum(row.nnz for row in rows), sum(row.weights for row in rows)
    kind, density = type(model).__name__, kept / max(weights, 1)
    costs = (sum(row.bytes for row in rows), times[0], times[1], "")
    return LayerRow("total", kind, density, weights, kept, *costs)


def _dense_of_sparse(_: str, module: nn.Module) -> nn.Module | None:
    return dense_twin(module) if _is_sparse(module) else None
