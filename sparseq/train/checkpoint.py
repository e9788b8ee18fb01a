"""Checkpoints: tensors and JSON values in one checksummed file, replaced atomically."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparseq.errors import require
from sparseq.files.container import read_container, write_container
from sparseq.train.callbacks import Callback, EarlyBest, Stateful, TrainState

KIND = "checkpoint"
Packed = tuple[dict[str, Tensor], dict[str, Any]]


def save_checkpoint(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], meta: Mapping[str, Any]
) -> None:
    """Write a checkpoint; replaces only an intact earlier checkpoint.

    Args:
        path: the file; its folder is created if necessary.
        tensors: name -> tensor of any device and dtype.
        meta: JSON values.

    Raises:
        FileExistsError: the file exists and is not an intact checkpoint; it is not changed.
    """
    path = Path(path)
    if path.exists():
        try:
            read_container(path, KIND)
        except ValueError as error:
            raise FileExistsError(
                f"{path} is not an intact sparseq checkpoint and is not replaced ({error}); "
                "move it away or choose another folder"
            ) from error
    path.parent.mkdir(parents=True, exist_ok=True)
    # safetensors cannot store tensors that share memory
    copies = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    write_container(path, copies, meta, KIND, overwrite=True)


def load_checkpoint(path: str | os.PathLike[str]) -> Packed:
    """The tensors (on the CPU) and the JSON values of a checkpoint.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not a checkpoint, is truncated or was changed.
    """
    return read_container(path, KIND)


def pack_training(
    model: nn.Module, optimizer: Optimizer | None = None, best: EarlyBest | None = None
) -> Packed:
    """The state of a training as tensors and JSON values, for `save_checkpoint`."""
    tensors = _prefixed("model", dict(model.state_dict()))
    meta: dict[str, Any] = {}
    if optimizer is not None:
        state, meta["optimizer"] = pack_optimizer(optimizer)
        tensors |= _prefixed("optimizer", state)
    if best is not None:
        best_weights, meta["best"] = best.state()
        tensors |= _prefixed("best", best_weights)
    return tensors, meta


def unpack_training(
    packed: Packed,
    model: nn.Module,
    optimizer: Optimizer | None = None,
    best: EarlyBest | None = None,
) -> None:
    """Restore the state returned by `pack_training` into existing objects, in place.

    Raises:
        ValueError: the state of the optimizer or of `best` is missing, or the optimizer has
            another type or other parameters.
        RuntimeError: the model's parameters have other names or shapes.
    """
    tensors, meta = packed
    for name, requested in (("optimizer", optimizer), ("best", best)):
        available = requested is None or name in meta
        require(available, "unpack_training", "packed", f"must have the state of {name}", [*meta])
    model.load_state_dict(unprefixed("model.", tensors))
    if optimizer is not None:
        unpack_optimizer(optimizer, unprefixed("optimizer.", tensors), meta["optimizer"])
    if best is not None:
        best.resume(unprefixed("best.", tensors), meta["best"])


def pack_optimizer(optimizer: Optimizer) -> Packed:
    """An optimizer's state: tensors named "index.key"; other values and the groups as JSON."""
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    values: dict[str, dict[str, Any]] = {}
    for index, entries in state["state"].items():
        values[str(index)] = {}
        for key, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{key}"] = value
            else:
                values[str(index)][key] = value
    groups = [
        {key: _json_value(value) for key, value in group.items()} for group in state["param_groups"]
    ]
    return tensors, {"type": type(optimizer).__name__, "values": values, "groups": groups}


def unpack_optimizer(
    optimizer: Optimizer, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]
) -> None:
    """Restore the state returned by `pack_optimizer`.

    Raises:
        ValueError: the optimizer has another type or other parameters.
    """
    name, rule = type(optimizer).__name__, f"must be {meta['type']}"
    require(name == meta["type"], "unpack_optimizer", "optimizer", rule, name)
    state: dict[int, dict[str, Any]] = {
        int(index): dict(values) for index, values in meta["values"].items()
    }
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        # load_state_dict may keep the tensor itself, which training would change
        state[int(index)][key] = tensor.clone()
    groups = [
        {
            key: tuple(v) if isinstance(v, list) and key != "params" else v
            for key, v in group.items()
        }
        for group in meta["groups"]
    ]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


class SaveCheckpoint(Callback):
    """Writes model, optimizer and best weights to `path` after every epoch.

    `resume_training` continues from it. It must be the last callback, after those that it saves
    and after logs, so that a run can be killed and resumed at any time.

    Args:
        path: the file.
        best: saved with the training.
        every: write at most once in that many seconds; the latest epoch is kept in memory, and
            `write` writes it, as whoever ends the training early must.
        parts: further callbacks whose state is saved, by name.
        meta: further JSON values in the file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        best: EarlyBest | None = None,
        *,
        every: float = 0.0,
        parts: Mapping[str, Stateful] | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        self.path, self.best, self.every = Path(path), best, every
        self.parts, self.meta = dict(parts or {}), dict(meta or {})
        self._latest: Packed | None = None
        self._written = -math.inf

    def on_epoch_end(self, state: TrainState) -> None:
        """Keep the epoch, and write it unless that was done less than `every` seconds ago."""
        tensors, meta = pack_training(state.model, state.optimizer, self.best)
        for name, part in self.parts.items():
            kept, meta[name] = part.state()
            tensors |= _prefixed(name, kept)
        is_due = time.monotonic() >= self._written + self.every
        if not is_due:  # training goes on in the tensors
            tensors = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        self._latest = tensors, {**self.meta, **meta, "epoch": state.epoch}
        if is_due:
            self.write()

    def write(self) -> None:
        """Write the latest epoch if it is not written yet."""
        if self._latest is not None:
            save_checkpoint(self.path, *self._latest)
            self._latest, self._written = None, time.monotonic()


def resume_training(
    path: str | os.PathLike[str],
    model: nn.Module,
    optimizer: Optimizer,
    best: EarlyBest | None = None,
    parts: Mapping[str, Stateful] | None = None,
) -> int:
    """Load the file of SaveCheckpoint, if it exists, but for `parts` that it does not have.

    Returns:
        The number of completed epochs, for `fit(start_epoch=...)`; 0 if the file does not exist.
    """
    if not Path(path).exists():
        return 0
    tensors, meta = load_checkpoint(path)
    unpack_training((tensors, meta), model, optimizer, best)
    for name, part in (parts or {}).items():
        if name in meta:
            part.resume(unprefixed(f"{name}.", tensors), meta[name])
    return int(meta["epoch"])


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def unprefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names start with a prefix, by their names without it."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _json_value(value: Any) -> Any:
    return value.item() if isinstance(value, torch.Tensor | np.generic) else value
