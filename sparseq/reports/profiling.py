"""`profile`: measures the cost of each layer of a model next to that of its dense twin."""

from __future__ import annotations

import copy
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from sparseq.compression.break_even import (
    break_even,
    density_of,
    is_convolution,
    is_measured,
    keeps_whole,
)
from sparseq.compression.map_sizes import output_positions
from sparseq.compression.sparsify import convert
from sparseq.errors import require
from sparseq.nn.convert import dense_twin, replace_modules
from sparseq.nn.layer_types import nearest_type, sparse_type
from sparseq.nn.sparse.patterned import PatternedLayer
from sparseq.ops._backend import activate
from sparseq.reports.layer_table import LayerRow, layer_table
from sparseq.timing import Work, median_ms


class Call(NamedTuple):
    """Arguments of one call of a layer; for convolutions, output positions of all images."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    positions: int | None


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
    """

    rows: list[LayerRow]
    total: LayerRow
    batch: int
    device: str
    threads: int
    repeats: int

    def table(self) -> Table:
        """A rich table."""
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        title = f"batch {self.batch}, {self.device}, {threads}, median of {self.repeats}"
        return layer_table(self.rows, self.total, title)

    def __rich__(self) -> Table:
        return self.table()

    def __str__(self) -> str:
        text = io.StringIO()
        Console(file=text, width=120).print(self.table())
        return text.getvalue()


def profile(model: nn.Module, x: Tensor | Sequence[Any], repeats: int = 20) -> Profile:
    """Measure every layer of a model, and its dense twin, on the layer's own inputs.

    Dense and sparse calls are interleaved, so that the machine's load affects both alike; times
    are medians. A copy of the model runs, in evaluation mode and without gradients: mode, hooks
    and buffers of the model and torch's random state do not change.

    Args:
        model: any module.
        x: one batch, (N, ...) on the model's device; a tuple or list for several inputs.
        repeats: samples per median, at least 1.

    Returns:
        The measurements, which print as a table.

    Raises:
        ValueError: repeats below 1, or an x without a batch dimension.
    """
    require(repeats >= 1, "profile", "repeats", "must be at least 1", repeats)
    batch = (x,) if isinstance(x, Tensor) else tuple(x)
    batched = bool(batch) and isinstance(batch[0], Tensor) and batch[0].dim() > 0
    require(batched, "profile", "x", "must be a batch (N, ...)", type(x).__name__)
    device = batch[0].device
    generators = [device] if device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(generators):
        # a model may change its inputs in place
        inputs = tuple(item.clone() if isinstance(item, Tensor) else item for item in batch)
        profiled = copy.deepcopy(model).eval()
        calls = _record_calls(profiled, inputs)
        rows = [
            _measured(path, module, calls[path], device, repeats)
            for path, module in _layers(profiled).items()
        ]
        total = _total(profiled, rows, inputs, repeats)
    return Profile(rows, total, batch[0].shape[0], str(device), torch.get_num_threads(), repeats)


def _layers(model: nn.Module) -> dict[str, nn.Module]:
    """Path -> module, of the modules with their own parameters."""
    return {
        path: module
        for path, module in model.named_modules()
        if any(True for _ in module.parameters(recurse=False))
    }


def _record_calls(model: nn.Module, inputs: tuple[Any, ...]) -> dict[str, list[Call]]:
    """Path of every layer -> its calls in one run of the model."""
    calls: dict[str, list[Call]] = {}
    handles = []
    for path, module in _layers(model).items():

        def record(module: Any, args: Any, kwargs: Any, y: Any, path: str = path) -> None:
            positions = output_positions(module, y) if is_convolution(module) else None
            calls[path].append(Call(args, kwargs, positions))

        calls[path] = []
        handles.append(module.register_forward_hook(record, with_kwargs=True))
    model(*inputs)
    for handle in handles:
        handle.remove()
    return calls


def _measured(
    path: str, module: nn.Module, calls: list[Call], device: torch.device, repeats: int
) -> LayerRow:
    dense, sparse = _twins(module)
    replays = [_replay(twin, calls) for twin in (dense, sparse) if twin is not None]
    times = [*median_ms(replays, device, repeats), None] if calls else [None, None]
    weights, kept = _weights(module, dense)
    kind, density = type(module).__name__, kept / max(weights, 1)
    costs = (_bytes(module), times[0], times[1], _kernel(module, device))
    reason = _why_dense(module, calls) if sparse is not None and sparse is not module else ""
    return LayerRow(path or "(model)", kind, density, weights, kept, *costs, reason)


def _twins(module: Any) -> tuple[nn.Module, nn.Module | None]:
    """The dense and the sparse twin of a layer; no sparse one without zeros or a sparse type."""
    if _is_sparse(module):
        return module.to_dense(), module
    if sparse_type(type(module)) is None:
        return module, None
    keep = module.weight != 0
    return module, convert(module, keep) if density_of(keep) < 1 else None


def _why_dense(module: Any, calls: list[Call]) -> str:
    """Why `compress` would leave a layer with zeros dense at the batch of its calls."""
    keep = module.weight != 0
    kind, shape, whole = type(module), tuple(keep.shape), keeps_whole(type(module), keep)
    sizes = [
        (_examples(module, call.args[0]), call.positions)
        for call in calls
        if call.args and isinstance(call.args[0], Tensor)
    ]
    batch, positions = max(sizes, default=(1, None))
    image = None if positions is None else positions // max(batch, 1)
    limit = break_even(kind, shape, batch, whole=whole, positions=image)
    if limit == 0:
        measured = is_measured(kind, shape, whole)
        return "too small for sparse" if measured else "sparse speed is not measured"
    if density_of(keep) > limit:
        return f"sparse is faster only up to {limit:.0%}"
    return f"sparse is faster here (up to {limit:.0%})"


def _examples(module: Any, x: Tensor) -> int:
    """Number of rows, or images, of a layer's input."""
    if hasattr(module, "kernel_size"):
        return x.shape[0] if x.dim() == len(module.kernel_size) + 2 else 1
    in_features: int = module.in_features
    return x.numel() // max(in_features, 1)


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
    return lambda: [module(*args, **kwargs) for args, kwargs, _ in calls]


def _total(
    model: nn.Module, rows: list[LayerRow], inputs: tuple[Any, ...], repeats: int
) -> LayerRow:
    sparse = any(_is_sparse(module) for module in model.modules())
    models = [replace_modules(model, _dense_of_sparse), model] if sparse else [model]
    replays = [_replay(twin, [Call(inputs, {}, None)]) for twin in models]
    times = [*median_ms(replays, inputs[0].device, repeats), None]
    kept, weights = sum(row.nnz for row in rows), sum(row.weights for row in rows)
    kind, density = type(model).__name__, kept / max(weights, 1)
    costs = (sum(row.bytes for row in rows), times[0], times[1], "")
    return LayerRow("total", kind, density, weights, kept, *costs)


def _dense_of_sparse(_: str, module: nn.Module) -> nn.Module | None:
    return dense_twin(module) if _is_sparse(module) else None
