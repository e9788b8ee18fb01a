"""The command line: lists, flags, exit statuses, and one line per error."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import warnings

import pytest

import sparseq
from sparseq.cli import main as cli
from sparseq.recipes import RECIPES

TINY = ["--model", "lenet_12", "--epochs", "1"]
ROUNDS = [*TINY, "--rounds", "1", "--trials", "1", "--algebras", "real", "--measure-batch", "8"]


@pytest.fixture(autouse=True)
def own_folder_and_wide_terminal(tmp_path, monkeypatch):
    """Each test has its own working folder and a wide terminal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("SPARSEQ_DATA", raising=False)


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


def complaint(capsys, *arguments):
    """The single line on stderr of a command that fails with status 2."""
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


def test_every_recipe_has_a_command():
    listed = {name for name, command in cli.COMMANDS.items() if command.run is cli.run_recipe}
    assert listed == set(RECIPES.names())


def test_version(capsys):
    assert run("--version") == 0
    assert sparseq.__version__ in capsys.readouterr().out


def test_the_list_of_commands_does_not_import_torch():
    code = "import sys, sparseq.cli.main; sparseq.cli.main.main(['--help']); print(*sys.modules)"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not {"torch", "tyro", "rich", "numpy"} & set(result.stdout.split())


@pytest.mark.parametrize("command", sorted(set(cli.COMMANDS) - {"build"}))
def test_every_command_explains_its_flags(command, capsys):
    with pytest.raises(SystemExit) as end:
        run(command, "--help")
    assert end.value.code == 0
    assert f"sparseq {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["--no-such-flag"], ["--epochs", "many"], ["--rewind-unit", "year"]]
)
def test_wrong_flags_end_with_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        run("lottery", *arguments)
    assert end.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_the_error_for_an_unknown_command_lists_all_commands(capsys):
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
        (["train", "--model", "vgg16bn"], "vgg16bn: in_shape must be (channels, height, width) of"),
        (["train", "--model", "vae"], "must be images in 0..1, such as those of celeba"),
        (["prune", "--model", "vae"], "model must be a classifier (only sparseq train"),
        (
            ["train", "--model", "cnn_small", "--algebra", "quaternion"],
            "'cnn_small' does not accept",
        ),
        (["train", "--data", "cifar10", "--data-dir", "nowhere"], "data_batch_1"),
        (["train", "--device", "nonsense"], "device is not available"),
        (["lottery", *ROUNDS, "--exclude", "nowhere"], "exclude"),
        (["prune", *TINY, "--exclude", "nowhere"], "exclude"),
        (["train", *TINY, "--optimizer", "sgd", "--nesterov"], "needs a momentum above 0 (such as"),
        (["train", *TINY, "--optimizer", "rprop"], "unknown optimizer 'rprop'; choose one of"),
        (["train", *TINY, "--lr", "inf"], "lr must be above 0, and finite, got inf"),
        (["prune", "--density", "0"], "density must lie in (0, 1], got 0.0"),
        (["prune", "--file", "nowhere.sparseq"], "nowhere.sparseq"),
        (["info", "nowhere.sparseq"], "nowhere.sparseq"),
        (["compress", "nowhere.sparseq", "small.sparseq"], "nowhere.sparseq"),
        (["profile", "nowhere.sparseq"], "nowhere.sparseq"),
        (["profile", "lenet_12", "--batch", "0"], "batch must be at least 1"),
    ],
)
def test_user_errors_are_one_line(arguments, message, capsys):
    assert message in complaint(capsys, *arguments)


def test_a_traceback_is_available_on_request(monkeypatch):
    monkeypatch.setenv("SPARSEQ_TRACEBACK", "1")
    with pytest.raises(ValueError, match="unknown data set"):
        run("train", "--data", "digit")


def test_an_internal_error_names_the_variable_for_a_traceback(monkeypatch, capsys):
    def fail(name, arguments):
        raise RuntimeError("out of\nmemory")

    monkeypatch.setitem(cli.COMMANDS, "train", cli.Command("", fail))
    assert "out of memory (SPARSEQ_TRACEBACK=1" in complaint(capsys, "train")


@pytest.mark.parametrize(("command", "resumable"), [("lottery", True), ("info", False)])
def test_only_interrupted_recipes_show_how_to_resume(command, resumable, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "parse", interrupt)
    assert run(command) == 130
    error = capsys.readouterr().err
    assert error.startswith(f"\nsparseq {command}: interrupted")
    hint = "; run the same command again to start anew: no epoch was complete"
    assert error == f"\nsparseq {command}: interrupted{hint if resumable else ''}\n"


def test_the_signal_to_terminate_ends_a_command_like_ctrl_c(monkeypatch, capsys):
    def run_until_killed(name, arguments):
        for _ in range(3):  # a second and third one change nothing
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            except KeyboardInterrupt as stop:
                end = stop
        raise end

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setitem(cli.COMMANDS, "info", cli.Command("", run_until_killed))
    assert run("info") == 143
    assert capsys.readouterr().err == "\nsparseq info: terminated\n"
    assert signal.getsignal(signal.SIGTERM) == before


def test_commands_run_in_other_threads_too(monkeypatch):
    monkeypatch.setitem(cli.COMMANDS, "info", cli.Command("", lambda name, arguments: None))
    status = []
    thread = threading.Thread(target=lambda: status.append(run("info")))
    thread.start()
    thread.join()
    assert status == [0]


@pytest.mark.parametrize("arguments", [["help"], ["--version"], ["lottery", "--help"], []])
def test_a_closed_pipe_is_not_an_error(arguments):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "sparseq", *arguments]
    result = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert result.stderr == ""
    assert result.returncode == (0 if arguments else 2)


def test_a_warning_is_one_line_without_code(monkeypatch, capsys):
    def warn(name, arguments):
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("it is slow", stacklevel=1)

    monkeypatch.setitem(cli.COMMANDS, "train", cli.Command("", warn))
    assert run("train") == 0
    assert capsys.readouterr().err == "sparseq: warning: it is slow\n"


def test_a_failed_self_test_is_a_failure(monkeypatch):
    monkeypatch.setitem(cli.COMMANDS, "doctor", cli.Command("", lambda name, arguments: False))
    assert run("doctor") == 1


def test_lottery_prints_its_table_and_the_paths_of_its_files(tmp_path, capsys):
    assert run("lottery", *ROUNDS) == 0
    text = capsys.readouterr().out
    headings = ["round", "weights", "validation", "test", "on disk", "dense", "sparse", "speed"]
    assert all(heading in text for heading in headings)
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("lottery-digits-")
    assert str(folder.relative_to(tmp_path) / "accuracy.png") in text


@pytest.mark.parametrize("width", [40, 60])
def test_a_narrow_terminal_cuts_nothing_off(width, monkeypatch, capsys):
    run("lottery", *ROUNDS, "--out", "here")
    capsys.readouterr()
    monkeypatch.setenv("COLUMNS", str(width))
    assert run("lottery", *ROUNDS, "--out", "here") == 0
    text = capsys.readouterr().out
    words = " ".join(text.split())
    assert "…" not in text
    for number in (0, 1):
        kept = ("100.0", "80.0")[number]
        assert f"round {number}, weights kept {kept} %, validation " in words
    assert words.count(" ms, speed up ") == 2
    folder = "here/real/trial-0/round-01.sparseq"
    assert run("info", folder) == 0
    text = capsys.readouterr().out
    assert "…" not in text
    assert "fc1" in text


def test_a_diverging_training_warns_once_and_says_so_in_the_result(capsys):
    arguments = ["--model", "lenet_12", "--epochs", "3", "--optimizer", "sgd", "--lr", "1e9"]
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert run("train", *arguments) == 0
    out, err = capsys.readouterr()
    assert err.startswith("sparseq: warning: training diverges (loss ")
    assert err.endswith("): lower --lr (1e+09)\n")
    assert err.count("\n") == 1
    assert "diverged" in out


def test_a_complete_lottery_prints_the_same_again(capsys):
    run("lottery", *ROUNDS, "--out", "here")
    first = capsys.readouterr().out.splitlines()
    assert run("lottery", *ROUNDS, "--out", "here") == 0
    again = capsys.readouterr().out.splitlines()
    assert len(again) > 10
    assert again == [line for line in first if "% done" not in line]


def test_another_run_in_the_folder_is_one_line(capsys):
    run("train", *TINY, "--out", "here")
    error = complaint(capsys, "train", *TINY, "--lr", "1", "--out", "here")
    assert "here contains another run (lr is 0.004, not 1.0); choose another --out" in error


def test_iterative_runs(capsys):
    assert run("iterative", *ROUNDS) == 0
    assert "lenet_12, real, on digits: 888 weights" in capsys.readouterr().out


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
    result = subprocess.run(
        [sys.executable, "-m", "sparseq", "nonsense"],
        capture_output=True,
        text=True,
        env={**os.environ},
    )
    assert result.returncode == 2
    assert result.stderr.startswith("sparseq: error: unknown command 'nonsense'")
    assert result.stderr.count("\n") == 1
