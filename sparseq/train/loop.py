"""`fit`: the training loop. It knows models, splits and callbacks, but nothing about pruning."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import Optimizer

from sparseq.data import Batches, Split
from sparseq.errors import require
from sparseq.nn.convert import device_of
from sparseq.seeds import derive_seed
from sparseq.train.callbacks import Callback, TrainState
from sparseq.train.evaluation import LossFn


def fit(
    model: nn.Module,
    optimizer: Optimizer,
    split: Split,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    loss_fn: LossFn = F.cross_entropy,
    callbacks: Sequence[Callback] = (),
    start_epoch: int = 0,
    max_steps: int | None = None,
) -> TrainState:
    """Train a model in place.

    The result is a function of the model, the optimizer's state, the split and the arguments: the
    order of the batches and the random numbers of layers (dropout) depend on (seed, epoch) alone,
    and the global random state is restored afterwards. With the model and the optimizer of a
    checkpoint after e epochs, `start_epoch=e` continues exactly as an uninterrupted run would.

    Args:
        model: maps (batch, ...) to outputs that loss_fn accepts; put in training mode.
        optimizer: over the model's parameters.
        split: training examples, at least one; moved to the model's device.
        epochs: epoch number at which to end, counted from 0, not from start_epoch.
        batch_size: examples per step; the last step of an epoch may have fewer.
        seed: of the batch order and of the layers' random numbers.
        loss_fn: loss_fn(outputs, y) -> mean over the batch.
        callbacks: called after every step and epoch, in this order.
        start_epoch: number of epochs completed before.
        max_steps: end after that many steps, including those before start_epoch; on_epoch_end is
            not called for an incomplete epoch.

    Returns:
        The final TrainState.

    Raises:
        ValueError: a number out of range or an empty split.
    """
    _check(split, epochs, start_epoch, max_steps)
    split = split.to(device_of(model))
    per_epoch = split.steps(batch_size)
    state = TrainState(model, optimizer, epochs, per_epoch, start_epoch, start_epoch * per_epoch)
    limit = epochs * per_epoch if max_steps is None else min(max_steps, epochs * per_epoch)
    model.train()
    with private_random_state(split.x.device) as reseed:
        _notify(callbacks, "on_train_start", state)
        while state.step < limit and not state.stop:
            reseed(derive_seed("layers", seed, state.epoch))
            _run_epoch(
                state, split.batches(batch_size, seed, state.epoch), loss_fn, callbacks, limit
            )
        _notify(callbacks, "on_train_end", state)
    return state


def _check(split: Split, epochs: int, start_epoch: int, max_steps: int | None) -> None:
    require(len(split) > 0, "fit", "split", "must have at least one example", "none")
    require(epochs >= 0, "fit", "epochs", "must be at least 0", epochs)
    require(
        0 <= start_epoch <= epochs, "fit", "start_epoch", f"must lie in 0..{epochs}", start_epoch
    )
    require(
        max_steps is None or max_steps >= 0, "fit", "max_steps", "must be at least 0", max_steps
    )


def _notify(callbacks: Sequence[Callback], method: str, state: TrainState) -> None:
    for callback in callbacks:
        getattr(callback, method)(state)


def _run_epoch(
    state: TrainState, batches: Batches, loss_fn: LossFn, callbacks: Sequence[Callback], limit: int
) -> None:
    """One epoch, or a part of it if a callback or the step limit ends it early."""
    _notify(callbacks, "on_epoch_start", state)
    start = time.perf_counter()
    # summed on the device, so that no step waits for it
    total = torch.zeros((), dtype=torch.float64, device=batches.split.x.device)
    for x, y in batches:
        state.optimizer.zero_grad()
        loss = loss_fn(state.model(x), y)
        loss.backward()
        state.optimizer.step()
        total += loss.detach() * len(x)
        if state.first_loss is None:
            state.first_loss = loss.detach()
        state.step += 1
        for callback in callbacks:
            callback.on_step(state)
        if state.stop or state.step >= limit:
            break
    if state.step < (state.epoch + 1) * state.steps_per_epoch:
        return
    state.epoch += 1
    mean = total.item() / len(batches.split)
    state.metrics = {"loss": mean, "seconds": time.perf_counter() - start}
    _notify(callbacks, "on_epoch_end", state)


@contextmanager
def private_random_state(device: torch.device) -> Iterator[Callable[[int], None]]:
    """Yields reseed(seed) for the global generators of CPU and `device`; restores them at exit."""
    cuda = [device.index or 0] if device.type == "cuda" else []

    def reseed(seed: int) -> None:
        torch.default_generator.manual_seed(seed)
        for index in cuda:
            torch.cuda.default_generators[index].manual_seed(seed)

    with torch.random.fork_rng(devices=cuda):
        yield reseed
