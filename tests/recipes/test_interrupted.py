"""Runs that a signal or an error ends go on from their last complete epoch, and say so."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
import time

import pytest

from sparseq.recipes import Iterative, Lottery, OneShot, Train
from sparseq.recipes.outcome import Outcome
from sparseq.train.checkpoint import load_checkpoint
from tests.recipes.test_resume import TINY, Count, Positions, Stop, log, table

SINGLE = {"model": "lenet_12", "epochs": 3}


@pytest.fixture(scope="module", params=[Lottery, Iterative])
def uninterrupted(request, tmp_path_factory):
    """A recipe and the results of its uninterrupted run."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    return request.param, request.param(**TINY, out=folder).run()


@pytest.mark.parametrize(
    ("epochs", "position"),
    [
        (0, ""),
        (1, "after epoch 1 of 2 of real 1/2, round 0, density 100 %"),
        (2, "after round 0 of real 1/2"),
        (3, "after epoch 1 of 2 of real 1/2, round 1, density 80 %"),
        (6, "after round 2 of real 1/2"),
        (7, "after epoch 1 of 2 of real 2/2, round 0, density 100 %"),
    ],
)
def test_a_run_says_from_where_it_goes_on_and_does(uninterrupted, tmp_path, epochs, position):
    recipe, _ = uninterrupted
    first, second = Positions(epochs), Positions()
    with pytest.raises(KeyboardInterrupt):
        recipe(**TINY, out=tmp_path).run(first)
    assert first.resumed == []
    assert first.kept == position
    recipe(**TINY, out=tmp_path).run(second)
    resumed = "with real 2/2" if epochs == 6 else position
    assert second.resumed == ([resumed] if resumed else [])
    assert not list(tmp_path.rglob("*-training.safetensors"))


def test_a_round_that_was_trained_and_not_concluded_is_not_trained_again(
    uninterrupted, tmp_path, monkeypatch
):
    recipe, results = uninterrupted

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("sparseq.recipes.rounds.trial.save", full)
        with pytest.raises(OSError, match="No space left"):
            recipe(**TINY, out=tmp_path).run()
    again = Positions()
    assert table(recipe(**TINY, out=tmp_path).run(again)) == table(results)
    assert again.resumed == ["after epoch 2 of 2 of real 1/2, round 0, density 100 %"]
    assert log(tmp_path) == log(results.folder)


def test_a_round_that_was_interrupted_twice_ends_the_same(uninterrupted, tmp_path):
    recipe, results = uninterrupted
    for epochs in (1, 1, 1):  # one more each time
        with pytest.raises(KeyboardInterrupt):
            recipe(**TINY, out=tmp_path).run(Stop(epochs))
    assert table(recipe(**TINY, out=tmp_path).run()) == table(results)


@pytest.mark.parametrize("rewind", [1, 2, 3])
def test_the_weights_to_rewind_to_survive_an_interruption_after_them(tmp_path, rewind):
    fields = {**TINY, "epochs": 3, "rounds": 1, "trials": 1, "rewind": rewind}
    whole = Lottery(**fields, out=tmp_path / "whole").run()
    with pytest.raises(KeyboardInterrupt):
        Lottery(**fields, out=tmp_path / "cut").run(Stop(2))
    assert table(Lottery(**fields, out=tmp_path / "cut").run()) == table(whole)


def test_a_damaged_checkpoint_within_a_round_is_an_error_with_a_remedy(uninterrupted, tmp_path):
    recipe, results = uninterrupted
    with pytest.raises(KeyboardInterrupt):
        recipe(**TINY, out=tmp_path).run(Stop(3))
    path = tmp_path / "real/trial-0/round-01-training.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=rf"delete {path}, so that the training starts again, or"):
        recipe(**TINY, out=tmp_path).run()
    path.unlink()
    assert table(recipe(**TINY, out=tmp_path).run()) == table(results)


LONG = {
    "model": "lenet_12",
    "epochs": 120,
    "trials": 1,
    "rounds": 1,
    "measure_batch": 8,
    "policy": "auto",
}
STOPS = {
    signal.SIGINT: (130, "interrupted"),
    signal.SIGTERM: (143, "terminated"),
    signal.SIGKILL: (-9, ""),
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    Lottery(**LONG, algebras=("real",), out=folder).run()
    return folder


@pytest.mark.parametrize("stop", STOPS)
def test_a_run_that_a_signal_ends_goes_on_within_the_round(undisturbed, tmp_path, stop):
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in LONG.items()]
    command = [sys.executable, "-m", "sparseq", "lottery", *flags, "--algebras", "real"]
    process = subprocess.Popen(
        [*command, "--out", str(tmp_path)], stderr=subprocess.PIPE, text=True
    )
    checkpoint = tmp_path / "real/trial-0/round-01-training.safetensors"
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.01)
    time.sleep(0.1)
    process.send_signal(stop)
    error = process.communicate()[1]
    status, word = STOPS[stop]
    assert process.returncode == status
    epoch = load_checkpoint(checkpoint)[1]["epoch"]
    position = f"after epoch {epoch} of 120 of real 1/1, round 1, density 80 %"
    said = f"\nsparseq lottery: {word}; run the same command again to go on {position}\n"
    assert error == (said if word else "")
    again = Positions(1000)
    Lottery(**LONG, algebras=("real",), out=tmp_path).run(again)
    assert again.resumed == [position]
    for number in (0, 1):
        name = f"real/trial-0/round-{number:02}.sparseq"
        assert (tmp_path / name).read_bytes() == (undisturbed / name).read_bytes()
    kept = {path.name for path in (tmp_path / "real/trial-0").iterdir()}
    assert kept == {"checkpoint.safetensors", "round-00.sparseq", "round-01.sparseq"}


@pytest.mark.parametrize("from_file", [False, True])
@pytest.mark.parametrize("epochs", [1, 2])
def test_an_interrupted_fine_tuning_goes_on_from_its_last_epoch(tmp_path, epochs, from_file):
    fields = {**SINGLE, "finetune": 3}
    if from_file:
        fields["file"] = Train(**SINGLE, out=tmp_path / "file").run().folder / "model.sparseq"
    whole = OneShot(**fields, out=tmp_path / "whole").run()
    stop, again = Positions(epochs + (0 if from_file else 3)), Positions()
    with pytest.raises(KeyboardInterrupt):
        OneShot(**fields, out=tmp_path / "cut").run(stop)
    assert stop.kept == f"after epoch {epochs} of 3 of the fine-tuning"
    assert OneShot(**fields, out=tmp_path / "cut").run(again).metrics == whole.metrics
    trained_before = [] if from_file else ["after epoch 3 of 3 of the real network"]
    assert again.resumed == [*trained_before, stop.kept]
    files = [(tmp_path / name / "model.sparseq").read_bytes() for name in ("cut", "whole")]
    assert files[0] == files[1]
    rows = (tmp_path / "cut/log.jsonl").read_text().splitlines()
    assert [json.loads(row)["epoch"] for row in rows[-3:]] == [1, 2, 3]


def test_a_fresh_run_does_not_say_that_it_goes_on(tmp_path):
    report = Positions()
    OneShot(**SINGLE, finetune=1, out=tmp_path).run(report)
    assert report.resumed == []


@pytest.mark.parametrize("exclude", [("nowhere",), ("fc1", "out.*.x")])
@pytest.mark.parametrize("recipe", [OneShot, Lottery])
def test_names_to_exclude_are_checked_before_the_training(tmp_path, recipe, exclude):
    count = Count()
    with pytest.raises(ValueError, match="exclude"):
        recipe(**SINGLE, exclude=exclude, out=tmp_path).run(count)
    assert count.units == 0
    assert not list(tmp_path.iterdir())


def test_a_diverging_training_is_part_of_the_result(tmp_path):
    with pytest.warns(UserWarning, match="training diverges"):
        outcome = Train(**SINGLE, optimizer="sgd", lr=1e9, out=tmp_path).run()
    assert "in epoch 1, " in outcome.metrics["diverged"]
    assert Outcome.read(tmp_path) == outcome
