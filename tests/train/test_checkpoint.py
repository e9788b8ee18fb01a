import math

import pytest
import torch
from torch import nn

from sparseq.models import HParams
from sparseq.train import (
    Callback,
    EarlyBest,
    LogRows,
    RowLog,
    SaveCheckpoint,
    fit,
    load_checkpoint,
    make_optimizer,
    pack_training,
    resume_training,
    save_checkpoint,
    unpack_training,
)

TENSORS = {
    "a": torch.arange(6.0).reshape(2, 3),
    "mask": torch.tensor([True, False]),
    "scalar": torch.tensor(3, dtype=torch.int64),
    "empty": torch.zeros(0, 4),
    "half": torch.ones(3, dtype=torch.bfloat16),
}
META = {"round": 3, "rows": [{"loss": 0.1 + 0.2}], "name": "é", "none": None}


def test_round_trip_is_exact(tmp_path):
    path = tmp_path / "new" / "c.safetensors"
    save_checkpoint(path, {**TENSORS, "strided": TENSORS["a"].t()}, META)
    tensors, meta = load_checkpoint(path)
    assert meta == META
    assert all(torch.equal(tensors[name], tensor) for name, tensor in TENSORS.items())
    assert all(tensors[name].dtype == tensor.dtype for name, tensor in TENSORS.items())
    assert torch.equal(tensors["strided"], TENSORS["a"].t())
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_tensors_that_share_memory_are_all_stored(tmp_path):
    a = TENSORS["a"]
    save_checkpoint(tmp_path / "c", {"a": a, "b": a, "c": a[1]}, {})
    tensors, _ = load_checkpoint(tmp_path / "c")
    assert torch.equal(tensors["a"], tensors["b"])
    assert torch.equal(tensors["c"], a[1])


def test_a_checkpoint_replaces_a_checkpoint(tmp_path):
    for number in range(3):
        save_checkpoint(tmp_path / "c", TENSORS, {"number": number})
    assert load_checkpoint(tmp_path / "c")[1] == {"number": 2}


@pytest.mark.parametrize("content", [b"", b"my diary", bytes(1000)])
def test_another_file_is_neither_replaced_nor_read(tmp_path, content):
    path = tmp_path / "c"
    path.write_bytes(content)
    with pytest.raises(
        FileExistsError, match="not an intact sparseq checkpoint and is not replaced"
    ):
        save_checkpoint(path, TENSORS, META)
    with pytest.raises(ValueError, match="read checkpoint"):
        load_checkpoint(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("where", [0, 9, 60, -1, -30])
def test_every_changed_byte_is_detected(tmp_path, where):
    path = tmp_path / "c"
    save_checkpoint(path, TENSORS, META)
    data = bytearray(path.read_bytes())
    data[where] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="read checkpoint"):
        load_checkpoint(path)


@pytest.mark.parametrize("kept", [0, 5, 100, -1])
def test_a_truncated_file_is_detected(tmp_path, kept):
    path = tmp_path / "c"
    save_checkpoint(path, TENSORS, META)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match="read checkpoint"):
        load_checkpoint(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_checkpoint(tmp_path / "nowhere")


def test_values_that_are_not_json_leave_the_old_checkpoint(tmp_path):
    save_checkpoint(tmp_path / "c", TENSORS, META)
    with pytest.raises(TypeError):
        save_checkpoint(tmp_path / "c", TENSORS, {"x": object()})
    assert load_checkpoint(tmp_path / "c")[1] == META


class Kill(Callback):
    """Interrupts training in the middle of an epoch."""

    def __init__(self, step):
        self.step = step

    def on_step(self, state):
        if state.step == self.step:
            raise KeyboardInterrupt


def train(folder, split, model, hparams, *extra):
    """A restartable run of six epochs; returns its best weights and its log."""
    optimizer, best = make_optimizer(model, hparams), EarlyBest(split)
    path, log = folder / "checkpoint.safetensors", RowLog(folder)
    done = resume_training(path, model, optimizer, best)
    callbacks = [best, LogRows(log), SaveCheckpoint(path, best), *extra]
    fit(
        model,
        optimizer,
        split,
        epochs=6,
        batch_size=32,
        seed=1,
        start_epoch=done,
        callbacks=callbacks,
    )
    return best, [{k: v for k, v in row.items() if k != "seconds"} for row in log.rows]


@pytest.mark.parametrize(
    "hparams",
    [
        HParams(optimizer="adam", lr=1e-2, weight_decay=1e-4),
        HParams(optimizer="sgd", lr=3e-2, momentum=0.9),
    ],
)
def test_a_killed_run_ends_like_an_uninterrupted_one(tmp_path, split, make_model, same, hparams):
    uninterrupted, killed = make_model(), make_model()
    best, rows = train(tmp_path / "uninterrupted", split, uninterrupted, hparams)
    for step in (3, 10, 11, 18):
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "killed", split, make_model(), hparams, Kill(step))
    again, rows_again = train(tmp_path / "killed", split, killed, hparams)
    assert same(uninterrupted, killed)
    assert rows == rows_again
    assert (again.epoch, again.accuracy) == (best.epoch, best.accuracy)
    assert all(torch.equal(again.best[name], best.best[name]) for name in best.best)


def test_training_does_not_change_the_tensors_it_was_resumed_from(tmp_path, split, make_model):
    model, hparams = make_model(), HParams()
    optimizer = make_optimizer(model, hparams)
    fit(model, optimizer, split, epochs=1, batch_size=32, seed=0)
    packed = pack_training(model, optimizer)
    packed = ({name: tensor.clone() for name, tensor in packed[0].items()}, packed[1])
    before = {name: tensor.clone() for name, tensor in packed[0].items()}
    twin = make_model()
    other = make_optimizer(twin, hparams)
    unpack_training(packed, twin, other)
    fit(twin, other, split, epochs=2, start_epoch=1, batch_size=32, seed=0)
    assert all(torch.equal(before[name], packed[0][name]) for name in before)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.Adam(p, 0.01, betas=(0.8, 0.9), amsgrad=True),
        lambda p: torch.optim.AdamW(p, 0.01, fused=True),
        lambda p: torch.optim.SGD(p, 0.01, momentum=0.5, nesterov=True),
        lambda p: torch.optim.RMSprop(p, 0.01, centered=True, momentum=0.1),
        lambda p: torch.optim.Adagrad(p, 0.01),
        lambda p: torch.optim.Rprop(p, 0.01),
        lambda p: torch.optim.Adadelta(p),
    ],
)
def test_every_optimizer_survives(tmp_path, split, make_model, same, make):
    uninterrupted, parts, twin = make_model(), make_model(), make_model()
    fit(uninterrupted, make(uninterrupted.parameters()), split, epochs=3, batch_size=32, seed=0)
    first, second = make(parts.parameters()), make(twin.parameters())
    fit(parts, first, split, epochs=2, batch_size=32, seed=0)
    save_checkpoint(tmp_path / "c", *pack_training(parts, first))
    unpack_training(load_checkpoint(tmp_path / "c"), twin, second)
    assert second.param_groups[0].keys() == first.param_groups[0].keys()
    fit(twin, second, split, epochs=3, start_epoch=2, batch_size=32, seed=0)
    assert same(uninterrupted, twin)


def test_other_objects_are_rejected(split, make_model):
    model = make_model()
    adam, sgd = torch.optim.Adam(model.parameters()), torch.optim.SGD(model.parameters())
    packed = pack_training(model, adam)
    with pytest.raises(ValueError, match="optimizer must be Adam, got SGD"):
        unpack_training(packed, model, sgd)
    with pytest.raises(ValueError, match="packed must have the state of best"):
        unpack_training(packed, model, adam, EarlyBest(split))
    with pytest.raises(ValueError, match="parameter group"):
        unpack_training(packed, model, torch.optim.Adam(model[0].parameters()))
    with pytest.raises(RuntimeError, match=r"size mismatch|Missing key"):
        unpack_training(packed, nn.Sequential(nn.Linear(2, 2)), None)


def test_without_a_file_nothing_is_resumed(tmp_path, make_model, same):
    model = make_model()
    assert resume_training(tmp_path / "c", model, make_optimizer(model, HParams())) == 0
    assert same(model, make_model())


def test_numbers_survive_exactly(tmp_path):
    meta = {"pi": math.pi, "tiny": 5e-324, "big": 2**60}
    save_checkpoint(tmp_path / "c", {}, meta)
    assert load_checkpoint(tmp_path / "c") == ({}, meta)


class Counter(Callback):
    """A callback with a state of its own."""

    def __init__(self):
        self.count = torch.zeros(1)

    def on_epoch_end(self, state):
        self.count += 1

    def state(self):
        return {"count": self.count}, {"name": "counter"}

    def resume(self, tensors, meta):
        assert meta == {"name": "counter"}
        self.count = tensors["count"].clone()


def trained(split, model, path, every, epochs, start=0):
    optimizer, counter = make_optimizer(model, HParams(lr=0.1)), Counter()
    if start:
        assert resume_training(path, model, optimizer, parts={"counter": counter}) == start
    saver = SaveCheckpoint(path, every=every, parts={"counter": counter})
    settings = {"batch_size": 40, "seed": 5, "callbacks": [counter, saver], "start_epoch": start}
    fit(model, optimizer, split, epochs=epochs, **settings)
    return saver, counter


def test_epochs_that_follow_fast_are_kept_in_memory_until_they_are_written(
    split, make_model, same, tmp_path
):
    whole, path = make_model(), tmp_path / "c"
    _, counter = trained(split, whole, tmp_path / "whole", 0.0, 5)
    assert counter.count == 5
    saver, _ = trained(split, make_model(), path, 1000.0, 3)
    assert saver.epoch == load_checkpoint(path)[1]["epoch"] == 1  # the first is due at once
    saver.write()
    assert saver.epoch == load_checkpoint(path)[1]["epoch"] == 3
    before = path.stat().st_mtime_ns
    saver.write()
    assert path.stat().st_mtime_ns == before  # nothing new
    rest = make_model()
    _, counter = trained(split, rest, path, 1000.0, 5, start=3)
    assert counter.count == 5
    assert same(rest, whole)


def test_what_is_kept_in_memory_is_a_copy(split, make_model, tmp_path):
    path = tmp_path / "c"
    saver, _ = trained(split, make_model(), path, 1000.0, 3)
    latest = {name: tensor.clone() for name, tensor in saver._latest[0].items()}
    model = make_model()
    trained(split, model, tmp_path / "other", 0.0, 3)
    saver.write()
    stored = load_checkpoint(path)[0]
    assert all(torch.equal(stored[name], tensor) for name, tensor in latest.items())
    assert all(
        torch.equal(stored[f"model.{name}"], tensor) for name, tensor in model.state_dict().items()
    )
