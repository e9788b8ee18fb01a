"""The command line: lists, flags, exit statuses, and one line for every mistake."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import sparseq
from sparseq import cli
from sparseq.recipes import RECIPES

TINY = ["--model", "lenet_12", "--epochs", "1"]
ROUNDS = [*TINY, "--rounds", "1", "--trials", "1", "--algebras", "real", "--measure-batch", "8"]


@pytest.fixture(autouse=True)
def wide_and_apart(tmp_path, monkeypatch):
    """Each test has its own working folder, and a terminal that wraps nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("SPARSEQ_DATA", raising=False)


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


def complaint(capsys, *arguments):
    """The one line on stderr of a command that ends with status 2."""
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("sparseq")
    assert error.count("\n") == 1
    return error


def test_the_list_of_commands(capsys):
    assert run("--help") == 0
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in cli.COMMANDS)
    assert run() == 2


def test_every_recipe_is_a_command():
    assert set(RECIPES.names()) <= set(cli.COMMANDS)


def test_version(capsys):
    assert run("--version") == 0
    assert sparseq.__version__ in capsys.readouterr().out


def test_the_list_of_commands_needs_no_torch():
    code = "import sys, sparseq.cli; sparseq.cli.main(['--help']); print(*sys.modules)"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not {"torch", "tyro", "rich", "numpy"} & set(result.stdout.split())


@pytest.mark.parametrize("command", sorted(set(cli.COMMANDS) - {"build"}))
def test_every_command_explains_its_flags(command, capsys):
    with pytest.raises(SystemExit) as end:
        run(command, "--help")
    assert end.value.code == 0
    assert f"sparseq {command}" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--no-such-flag"], ["--epochs", "many"],
                                       ["--rewind-unit", "year"]])
def test_wrong_flags_end_with_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        run("lottery", *arguments)
    assert end.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_an_unknown_command_names_the_known_ones(capsys):
    assert "unknown command 'win'; choose one of: lottery" in complaint(capsys, "win")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lottery", "--data", "digit"], "unknown data set 'digit'; choose one of"),
        (["lottery", "--model", "lenet"], "'lenet'; choose one of"),
        (["lottery", "--criterion", "luck"], "unknown criterion 'luck'"),
        (["lottery", "--rate", "1"], "rate must lie between 0 and 1, got 1.0"),
        (["lottery", "--data", "mnist", "--data-dir", "nowhere"], "nowhere"),
        (["train", "--model", "nowhere.py:net"], "model file nowhere.py does not exist"),
        (["train", "--device", "nonsense"], "device is not to be had"),
        (["prune", "--density", "0"], "density must lie in (0, 1], got 0.0"),
        (["prune", "--file", "nowhere.sparseq"], "nowhere.sparseq"),
        (["info", "nowhere.sparseq"], "nowhere.sparseq"),
        (["compress", "nowhere.sparseq", "there.sparseq"], "nowhere.sparseq"),
        (["profile", "nowhere.sparseq"], "nowhere.sparseq"),
        (["profile", "lenet_12", "--batch", "0"], "batch must be at least 1"),
    ],
)
def test_mistakes_are_one_line(arguments, message, capsys):
    assert message in complaint(capsys, *arguments)


def test_a_traceback_is_there_for_who_wants_it(monkeypatch):
    monkeypatch.setenv("SPARSEQ_TRACEBACK", "1")
    with pytest.raises(ValueError, match="unknown data set"):
        run("train", "--data", "digit")


def test_an_error_that_is_no_users_mistake_says_how_to_see_more(monkeypatch, capsys):
    def fail(name, arguments):
        raise RuntimeError("out of\nmemory")

    monkeypatch.setitem(cli.COMMANDS, "train", cli.Command("", fail))
    assert "out of memory (SPARSEQ_TRACEBACK=1" in complaint(capsys, "train")


def test_an_interrupted_run_says_how_it_goes_on(monkeypatch, capsys):
    def interrupt(name, arguments):
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.COMMANDS, "lottery", cli.Command("", interrupt))
    assert run("lottery") == 130
    assert "goes on from the last finished round" in capsys.readouterr().err


def test_a_failed_self_test_is_a_failure(monkeypatch):
    monkeypatch.setitem(cli.COMMANDS, "doctor", cli.Command("", lambda name, arguments: False))
    assert run("doctor") == 1


def test_lottery_prints_its_table_and_where_the_files_are(tmp_path, capsys):
    assert run("lottery", *ROUNDS) == 0
    text = capsys.readouterr().out
    headings = ["round", "weights", "validation", "test", "on disk", "dense", "sparse", "speed"]
    assert all(heading in text for heading in headings)
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("lottery-digits-")
    assert str(folder.relative_to(tmp_path) / "accuracy.png") in text


def test_lottery_again_prints_the_same(capsys):
    run("lottery", *ROUNDS, "--out", "here")
    first = capsys.readouterr().out.splitlines()
    assert run("lottery", *ROUNDS, "--out", "here") == 0
    again = capsys.readouterr().out.splitlines()
    assert len(again) > 10
    assert again == [line for line in first if "% done" not in line]


def test_another_run_in_the_folder_is_one_line(capsys):
    run("train", *TINY, "--out", "here")
    error = complaint(capsys, "train", *TINY, "--lr", "1", "--out", "here")
    assert "here holds another run (lr 0.004 there, 1.0 here); choose another --out" in error


def test_iterative_runs(capsys):
    assert run("iterative", *ROUNDS) == 0
    assert "lenet_12, real, on digits: 888 weights" in capsys.readouterr().out


def test_train_prune_compress_info_profile(tmp_path, capsys):
    model, pruned = tmp_path / "t/model.sparseq", tmp_path / "p/model.sparseq"
    assert run("train", *TINY, "--out", "t") == 0
    assert run("prune", *TINY, "--file", model, "--density", "0.1", "--out", "p") == 0
    assert run("compress", pruned, "small.sparseq", "--policy", "sparse") == 0
    assert run("info", "small.sparseq") == 0
    assert run("profile", "small.sparseq", "--batch", "4", "--repeats", "2") == 0
    text = capsys.readouterr().out
    size = (tmp_path / "small.sparseq").stat().st_size
    assert f"small.sparseq: {size:,} bytes" in text
    assert "SparseLinear" in text
    assert "pruned validation accuracy" in text


def test_compress_overwrites_only_when_told(capsys):
    run("train", *TINY, "--out", "t")
    assert run("compress", "t/model.sparseq", "c.sparseq") == 0
    assert "exists" in complaint(capsys, "compress", "t/model.sparseq", "c.sparseq")
    assert run("compress", "t/model.sparseq", "c.sparseq", "--overwrite") == 0


@pytest.mark.parametrize("algebra", ["real", "quaternion"])
def test_profile_builds_a_model_by_name(algebra, capsys):
    assert run("profile", "lenet_12", "--algebra", algebra, "--batch", "4", "--repeats", "1") == 0
    assert "fc1" in capsys.readouterr().out


def test_a_users_own_model_trains(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "def net(in_shape, num_classes):\n"
        "    pixels = in_shape[1] * in_shape[2]\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, num_classes))\n"
    )
    assert run("lottery", *ROUNDS, "--model", "mine.py:net", "--out", "o") == 0
    assert (tmp_path / "o" / "accuracy.png").exists()


def test_python_m_sparseq_is_sparseq():
    result = subprocess.run([sys.executable, "-m", "sparseq", "nonsense"], capture_output=True,
                            text=True, env={**os.environ})
    assert result.returncode == 2
    assert result.stderr.startswith("sparseq: error: unknown command 'nonsense'")
    assert result.stderr.count("\n") == 1
