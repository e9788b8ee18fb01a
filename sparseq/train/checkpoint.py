"""Checkpoints: tensors and JSON values in one checksummed file, replaced whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparseq.errors import require
from sparseq.files.container import read_container, write_container
from sparseq.train.callbacks import Callback, EarlyBest, TrainState

KIND = "checkpoint"
Packed = tuple[dict[str, Tensor], dict[str, Any]]


def save_checkpoint(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], meta: Mapping[str, Any]
) -> None:
    """Write a checkpoint, in place of an intact earlier one of that name if there is one.

    Args:
        path: the file; its folder is made if need be.
        tensors: name -> tensor of any device and dtype.
        meta: JSON values.

    Raises:
        FileExistsError: the file exists and is no intact checkpoint; it is left as it is.
    """
    target = Path(path)
    if target.exists():
        try:
            read_container(target, KIND)
        except ValueError as error:
            raise FileExistsError(
                f"{target} is no intact sparseq checkpoint and is not replaced ({error}); "
                "move it away or choose another folder"
            ) from error
    target.parent.mkdir(parents=True, exist_ok=True)
    # copies: tensors that share memory cannot be stored side by side
    copies = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    write_container(target, copies, meta, KIND, overwrite=True)


def load_checkpoint(path: str | os.PathLike[str]) -> Packed:
    """The tensors (on the CPU) and the JSON values of a checkpoint.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is foreign, cut short or changed.
    """
    return read_container(path, KIND)


def pack_training(
    model: nn.Module, optimizer: Optimizer | None = None, best: EarlyBest | None = None
) -> Packed:
    """Tensors and JSON values that hold a training's state, for `save_checkpoint`."""
    tensors = _prefixed("model", dict(model.state_dict()))
    meta: dict[str, Any] = {}
    if optimizer is not None:
        state, meta["optimizer"] = pack_optimizer(optimizer)
        tensors |= _prefixed("optimizer", state)
    if best is not None:
        kept, meta["best"] = best.state()
        tensors |= _prefixed("best", kept)
    return tensors, meta


def unpack_training(
    packed: Packed,
    model: nn.Module,
    optimizer: Optimizer | None = None,
    best: EarlyBest | None = None,
) -> None:
    """Put what `pack_training` took back into objects of the same kind, in place.

    Raises:
        ValueError: a part that is asked for was not packed, or the optimizer is another one.
        RuntimeError: the model's parameters have other names or shapes.
    """
    tensors, meta = packed
    for name, wanted in (("optimizer", optimizer), ("best", best)):
        known = wanted is None or name in meta
        require(known, "unpack_training", "packed", f"must hold the {name}", sorted(meta))
    model.load_state_dict(part(tensors, "model."))
    if optimizer is not None:
        unpack_optimizer(optimizer, part(tensors, "optimizer."), meta["optimizer"])
    if best is not None:
        best.resume(part(tensors, "best."), meta["best"])


def pack_optimizer(optimizer: Optimizer) -> Packed:
    """An optimizer's state: tensors named "index.key"; the other values and groups as JSON."""
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
        {key: _plain(value) for key, value in group.items()} for group in state["param_groups"]
    ]
    return tensors, {"type": type(optimizer).__name__, "values": values, "groups": groups}


def unpack_optimizer(
    optimizer: Optimizer, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]
) -> None:
    """Load what `pack_optimizer` gave.

    Raises:
        ValueError: the optimizer is of another type or has other parameters.
    """
    found = type(optimizer).__name__
    require(
        found == meta["type"], "unpack_optimizer", "optimizer", f"must be {meta['type']}", found
    )
    state: dict[int, dict[str, Any]] = {
        int(index): dict(values) for index, values in meta["values"].items()
    }
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        # load_state_dict may keep the very tensor, which training then changes
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

    `resume_training` continues from it. Stands last, after the EarlyBest it saves and after logs:
    then a run killed at any moment resumes with nothing missing.
    """

    def __init__(self, path: str | os.PathLike[str], best: EarlyBest | None = None) -> None:
        self.path, self.best = Path(path), best

    def on_epoch_end(self, state: TrainState) -> None:
        """Write the file."""
        tensors, meta = pack_training(state.model, state.optimizer, self.best)
        save_checkpoint(self.path, tensors, {**meta, "epoch": state.epoch})


def resume_training(
    path: str | os.PathLike[str],
    model: nn.Module,
    optimizer: Optimizer,
    best: EarlyBest | None = None,
) -> int:
    """Load what SaveCheckpoint wrote, if there is such a file.

    Returns:
        The epochs completed, for `fit(start_epoch=...)`; 0, with nothing changed, without a file.
    """
    if not Path(path).exists():
        return 0
    packed = load_checkpoint(path)
    unpack_training(packed, model, optimizer, best)
    return int(packed[1]["epoch"])


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, without it."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, torch.Tensor) else value
