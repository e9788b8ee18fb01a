"""Runs that are interrupted, started twice or already complete."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest

from sparseq.recipes import Iterative, Lottery, Results
from sparseq.recipes.progress import Silent
from sparseq.train.checkpoint import load_checkpoint

TIMES = {"dense_ms", "sparse_ms", "speed_up"}
TINY = {
    "model": "lenet_12",
    "epochs": 2,
    "trials": 2,
    "rounds": 2,
    "measure_batch": 8,
    "policy": "auto",  # the same bytes in every run
    "algebras": ("real",),
}


class Stop(Silent):
    """Interrupts the run after a number of epochs, like Ctrl-C."""

    def __init__(self, epochs):
        self.remaining = epochs

    def advance(self, units, note):
        self.remaining -= units
        if self.remaining < 0:
            raise KeyboardInterrupt


class Count(Silent):
    """Counts the epochs of the run."""

    def __init__(self):
        self.done, self.units = None, 0

    def begin(self, total, done=0):
        self.done = done

    def advance(self, units, note):
        self.units += units


def table(results):
    return [
        {k: v for k, v in dataclasses.asdict(level).items() if k not in TIMES}
        for level in results.levels
    ]


def log(folder):
    lines = (folder / "log.csv").read_text().splitlines()
    seconds = lines[0].split(",").index("seconds")
    return [line.split(",")[:seconds] + line.split(",")[seconds + 1 :] for line in lines]


@pytest.fixture(scope="module", params=[Lottery, Iterative])
def uninterrupted(request, tmp_path_factory):
    """A recipe and the results of its uninterrupted run."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    return request.param, request.param(**TINY, out=folder).run()


def test_the_same_seed_gives_the_same_table(uninterrupted, tmp_path):
    recipe, results = uninterrupted
    assert table(recipe(**TINY, out=tmp_path).run()) == table(results)


def test_another_seed_gives_another_table(uninterrupted, tmp_path):
    recipe, results = uninterrupted
    assert table(recipe(**TINY, seed=1, out=tmp_path).run()) != table(results)


@pytest.mark.parametrize("epochs", [0, 1, 2, 3, 7, 11])
def test_a_resumed_run_has_the_same_table_and_log(uninterrupted, tmp_path, epochs):
    recipe, results = uninterrupted
    with pytest.raises(KeyboardInterrupt):
        recipe(**TINY, out=tmp_path).run(Stop(epochs))
    count = Count()
    resumed = recipe(**TINY, out=tmp_path).run(count)
    assert count.done == epochs // 2 * 2
    assert count.units == 12 - count.done
    assert table(resumed) == table(results)
    assert log(tmp_path) == log(results.folder)


class Positions(Stop):
    """Collects what a run says about where it goes on, and from where it would."""

    def __init__(self, epochs=1000):
        super().__init__(epochs)
        self.resumed, self.kept = [], ""

    def resumes(self, position):
        self.resumed.append(position)

    def keeps(self, position):
        self.kept = position


def test_a_complete_run_is_read_and_not_run_again(uninterrupted):
    recipe, results = uninterrupted
    count = Count()
    assert recipe(**TINY, out=results.folder).run(count) == results
    assert count.done is None


def test_another_run_in_the_folder_is_rejected_and_nothing_changes(uninterrupted):
    recipe, results = uninterrupted
    before = {path: path.read_bytes() for path in results.folder.rglob("*") if path.is_file()}
    with pytest.raises(FileExistsError, match=r"contains another run .*lr is 0.004, not 0.5"):
        recipe(**TINY, lr=0.5, out=results.folder).run()
    assert {path: path.read_bytes() for path in before} == before


def test_a_row_missing_in_the_log_is_restored_from_the_checkpoint(uninterrupted, tmp_path):
    recipe, results = uninterrupted
    with pytest.raises(KeyboardInterrupt):
        recipe(**TINY, out=tmp_path).run(Stop(5))
    lines = (tmp_path / "log.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "log.jsonl").write_text("".join(lines[:-1]))
    recipe(**TINY, out=tmp_path).run()
    assert log(tmp_path) == log(results.folder)


def test_a_run_interrupted_while_writing_results_writes_them_again(uninterrupted, tmp_path):
    recipe, results = uninterrupted
    recipe(**TINY, out=tmp_path).run()
    (tmp_path / "results.json").unlink()
    (tmp_path / "accuracy.png").write_bytes(b"half a figure")
    count = Count()
    assert table(recipe(**TINY, out=tmp_path).run(count)) == table(results)
    assert count.units == 0
    assert len((tmp_path / "table.csv").read_text().splitlines()) == 4
    assert (tmp_path / "accuracy.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["checkpoint.safetensors", "round-00.sparseq"])
def test_a_damaged_or_deleted_file_is_an_error_with_a_remedy_that_works(
    uninterrupted, tmp_path, name
):
    recipe, results = uninterrupted
    recipe(**TINY, out=tmp_path).run()
    (tmp_path / "results.json").unlink()
    path = tmp_path / "real/trial-0" / name
    path.write_bytes(path.read_bytes()[:-1])
    remedy = rf"{name}.*delete {path.parent}, .*choose another --out"
    with pytest.raises(ValueError, match=remedy):
        recipe(**TINY, out=tmp_path).run()
    if name.startswith("round"):
        path.unlink()
        with pytest.raises(ValueError, match=rf"No such file.*{remedy}"):
            recipe(**TINY, out=tmp_path).run()
    shutil.rmtree(path.parent)
    assert table(recipe(**TINY, out=tmp_path).run()) == table(results)


def test_rows_of_another_shape_are_dropped(uninterrupted, tmp_path):
    recipe, results = uninterrupted
    with pytest.raises(KeyboardInterrupt):
        recipe(**TINY, out=tmp_path).run(Stop(3))
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"other": 1}\n')
    assert table(recipe(**TINY, out=tmp_path).run()) == table(results)


WRONG = {
    "[]": "must be a JSON object, got list",
    "{}": "must have 'config', a non-empty dict, got None",
    '{"config": {"model": 1, "data": 1}, "levels": [], "timing": {}}': "'levels', a non-empty list",
    '{"config": {"a": 1}, "levels": [1], "timing": {"a": 1}}': "config must have model, data",
    '{"config": {"model": 1, "data": 1}, "levels": [1], "timing": {"a": 1}}': "timing must have",
}


@pytest.mark.parametrize("text", WRONG)
def test_results_of_another_shape_are_an_error_that_names_them(tmp_path, text):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(ValueError, match=rf"results\.json:? ?.*{WRONG[text]}"):
        Results.read(tmp_path)


@pytest.mark.parametrize("level", [1, {}, {"dense_ms": "fast"}])
def test_levels_of_another_shape_are_an_error_that_names_them(uninterrupted, tmp_path, level):
    stored = json.loads((uninterrupted[1].folder / "results.json").read_text())
    stored["levels"][1] = {**stored["levels"][1], **level} if level not in (1, {}) else level
    (tmp_path / "results.json").write_text(json.dumps(stored))
    with pytest.raises(ValueError, match=r"results\.json.*(columns of this version|be a number)"):
        Results.read(tmp_path)


def test_iterative_rounds_continue_from_the_trained_weights_in_one_batch_order(tmp_path):
    config = Iterative(**TINY, out=tmp_path)
    assert [config.first_epoch(number) for number in range(3)] == [0, 2, 4]
    assert config.start({"w": 1}, {"w": 2}) == {"w": 2}
    config.run()
    tensors, meta = load_checkpoint(tmp_path / "real/trial-0/checkpoint.safetensors")
    assert [row["best_epoch"] in (1, 2) for row in meta["rows"]] == [True] * 3
    for name, keep in tensors.items():
        if name.startswith("mask/"):
            assert not tensors[name.replace("mask/", "final/")][~keep].any()
