"""The folder of a run: its identity, its lock, and that nothing in it is lost."""

from __future__ import annotations

import json

import pytest

from sparseq.recipes.folder import RunFolder

IDENTITY = {"recipe": "lottery", "epochs": 3}


def contents(path):
    return {file.name: file.read_bytes() for file in path.iterdir() if file.name != ".lock"}


def test_a_new_folder_is_created_with_the_identity(tmp_path):
    with RunFolder(tmp_path / "a" / "b", IDENTITY) as folder:
        assert json.loads((folder.path / "config.json").read_text()) == IDENTITY


def test_the_same_run_can_open_its_folder_again(tmp_path):
    for _ in range(2):
        with RunFolder(tmp_path, IDENTITY) as folder:
            folder.write_json("more.json", [1])
    assert (tmp_path / "more.json").exists()


def test_another_run_is_rejected_and_nothing_is_changed(tmp_path):
    with RunFolder(tmp_path, IDENTITY):
        pass
    before = contents(tmp_path)
    with pytest.raises(FileExistsError, match=r"another run \(epochs is 3, not 4\); choose"):
        RunFolder(tmp_path, {**IDENTITY, "epochs": 4})
    with pytest.raises(FileExistsError, match="lr is None, not 1"):
        RunFolder(tmp_path, {**IDENTITY, "lr": 1})
    assert contents(tmp_path) == before


def test_for_another_recipe_only_the_recipe_is_named(tmp_path):
    with RunFolder(tmp_path, IDENTITY):
        pass
    with pytest.raises(FileExistsError, match=r"run \(recipe is lottery, not train\); choose"):
        RunFolder(tmp_path, {"recipe": "train", "epochs": 4})


def fail(folder, first=lambda folder: None):
    """A run that calls `first` and then fails."""

    def run():
        with folder:
            first(folder)
            raise KeyError

    with pytest.raises(KeyError):
        run()


def test_a_run_that_fails_early_leaves_no_trace(tmp_path):
    fail(RunFolder(tmp_path / "runs/a", IDENTITY), lambda f: (f / "real/trial-0/none").exists())
    assert not list(tmp_path.iterdir())


def test_a_run_that_fails_early_keeps_an_existing_folder(tmp_path):
    (tmp_path / "existing").mkdir()
    fail(RunFolder(tmp_path / "existing", IDENTITY))
    assert not list((tmp_path / "existing").iterdir())


@pytest.mark.parametrize("name", ["log.jsonl", "real/trial-0/round-00.sparseq"])
def test_a_run_that_fails_later_keeps_its_files(tmp_path, name):
    fail(RunFolder(tmp_path / "a", IDENTITY), lambda folder: (folder / name).write_text("work"))
    assert (tmp_path / "a/config.json").exists()
    assert (tmp_path / "a" / name).exists()


def test_a_folder_of_other_files_is_rejected(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(FileExistsError, match="files that are not a run"):
        RunFolder(tmp_path, IDENTITY)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_file_instead_of_a_folder_is_rejected(tmp_path):
    (tmp_path / "run").write_text("precious")
    with pytest.raises(FileExistsError, match="is a file"):
        RunFolder(tmp_path / "run", IDENTITY)


def test_two_processes_at_the_same_time_are_rejected(tmp_path):
    with (
        RunFolder(tmp_path, IDENTITY),
        pytest.raises(FileExistsError, match="in use by another process"),
    ):
        RunFolder(tmp_path, IDENTITY)
    with RunFolder(tmp_path, IDENTITY):
        pass


def test_a_damaged_config_is_an_error_that_names_it(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        RunFolder(tmp_path, IDENTITY)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"config\.json must be a JSON object, got list"):
        RunFolder(tmp_path, IDENTITY)


def test_temporary_files_of_a_killed_process_are_ignored(tmp_path):
    (tmp_path / ".config.json.1234.tmp").write_text("{")
    with RunFolder(tmp_path, IDENTITY):
        assert (tmp_path / "config.json").exists()
