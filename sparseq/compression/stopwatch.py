"""Times of the forms of a piece of work, taken by turns and remembered."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparseq.compression.break_even import density_of, keeps_whole
from sparseq.compression.calls import Call, Replay
from sparseq.compression.candidates import DENSE
from sparseq.compression.example import ERRORS, pure
from sparseq.compression.remembered import Remembered, Row
from sparseq.nn.computed import is_computed, plain_layer
from sparseq.nn.layer_types import type_of

# pieces of work that take turns, where they run, seconds to spend -> milliseconds of each
Clock = Callable[[Sequence[Any], torch.device, float], list[float]]
Makers = Mapping[str, Callable[[], nn.Module]]
LAYER_SECONDS = 0.04
DENSITY_STEP = math.log(1.05)  # densities this close are one piece of work


@dataclass(frozen=True)
class Stopwatch:
    """Times modules on the calls that a network makes of them.

    Attributes:
        training: forward and backward passes, or forward passes without gradients.
        device: where they run.
        rows: what was timed before.
        clock: times pieces of work by turns.
    """

    training: bool
    device: torch.device
    rows: Remembered
    clock: Clock

    def times(self, key: Any, forms: Makers, calls: Sequence[Call]) -> Row:
        """Milliseconds of all calls together, by form.

        Args:
            key: what the forms are, in JSON values; the calls and the conditions are added.
            forms: name -> maker of a module; it is made only if its time is not remembered.
            calls: of the module.
        """
        alike: dict[str, list[Call]] = {}
        for call in calls:
            alike.setdefault(str(call.signature()), []).append(call)
        total = dict.fromkeys(forms, 0.0)
        for group in alike.values():
            for name, ms in self._times_of(key, forms, group[0]).items():
                total[name] += len(group) * ms
        return total

    def _times_of(self, key: Any, forms: Makers, call: Call) -> Row:
        whole_key = [key, call.signature(), torch.get_num_threads(), *self._conditions()]
        row = self.rows.get(whole_key)
        if row is None or row.keys() != forms.keys():
            row = self._timed(forms, call)
            if all(map(math.isfinite, row.values())):
                self.rows.put(whole_key, row)
        return row

    def _timed(self, forms: Makers, call: Call) -> Row:
        """Times of one call; infinite for a form that cannot run on it."""
        works = {name: Replay(make(), call, self.training) for name, make in forms.items()}
        with self.pure():
            runs = {name: work for name, work in works.items() if name == DENSE or _runs(work)}
            times = self.clock(list(runs.values()), self.device, LAYER_SECONDS)
        return {**dict.fromkeys(forms, math.inf), **dict(zip(runs, times, strict=True))}

    @contextmanager
    def pure(self) -> Iterator[None]:
        """Gradients are recorded in training only, and torch's random state is restored."""
        with pure(self.training, self.device):
            yield

    def _conditions(self) -> list[Any]:
        kind = self.device.type
        cast = str(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else ""
        return [self.training, str(self.device), cast]


def _runs(work: Replay) -> bool:
    try:
        work()
    except ERRORS:
        return False
    return True


def layer_key(layer: nn.Module, keep: Tensor) -> list[Any]:
    """What the time of a layer's forms depends on, in JSON values; weights alike share it.

    These are its kind, settings, dtype and layout, which parameters are trained, and of the mask
    the density, whether it keeps whole kernels or quaternions, and how many rows and columns it
    empties.
    """
    plain: Any = plain_layer(layer)
    kind, density = type(plain), density_of(keep)
    entry, (rows, columns) = type_of(kind), (*keep.shape, 1)[:2]
    matrix = keep.reshape(rows, columns, math.prod(keep.shape[2:])).any(2)
    return [
        kind.__name__,
        repr(layer) if is_computed(layer) else "",
        entry.arguments(plain) if entry is not None else repr(plain),
        [str(plain.weight.dtype), list(plain.weight.stride())],
        [parameter.requires_grad for parameter in plain.parameters()],
        round(math.log(density) / DENSITY_STEP) if density else None,
        [keeps_whole(kind, keep), _filled(matrix.any(1)), _filled(matrix.any(0))],
    ]


def _filled(kept: Tensor) -> float:
    """Fraction of True, in tenths."""
    return round(density_of(kept), 1)
