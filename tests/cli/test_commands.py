"""The commands that are not recipes: their output, files and errors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sparseq
from sparseq.files.model_file import load, save
from sparseq.models.user_file import load_function
from tests.cli.test_main import ROUNDS, TINY, complaint, run
from tests.compression.clocks import by_kind, half_pruned, install


@pytest.fixture(autouse=True)
def own_folder_and_wide_terminal(tmp_path, monkeypatch):
    """Each test has its own working folder and a wide terminal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")


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


@pytest.mark.parametrize("model", ["conv_2", "resnet20"])
@pytest.mark.parametrize("algebra", ["real", "quaternion"])
def test_convolutional_networks_train_and_are_pruned(model, algebra, tmp_path, capsys):
    flags = ["--model", model, "--epochs", "1"]
    assert run("train", *flags, "--algebra", algebra, "--out", "t") == 0
    file = tmp_path / "t/model.sparseq"
    assert run("prune", *flags, "--file", file, "--density", "0.3", "--finetune", "0") == 0
    assert run("profile", file, "--batch", "2", "--repeats", "1") == 0
    assert "Conv2d" in capsys.readouterr().out


def test_compress_overwrites_only_on_request(capsys):
    run("train", *TINY, "--out", "t")
    assert run("compress", "t/model.sparseq", "c.sparseq") == 0
    error = complaint(capsys, "compress", "t/model.sparseq", "c.sparseq")
    assert "c.sparseq exists; --overwrite replaces it" in error
    assert run("compress", "t/model.sparseq", "c.sparseq", "--overwrite") == 0


def test_compress_uses_the_shape_of_the_file_or_of_a_flag(capsys):
    save(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 2)), "conv.sparseq")
    assert run("compress", "conv.sparseq", "a.sparseq") == 0
    capsys.readouterr()
    assert run("compress", "conv.sparseq", "b.sparseq", "--shape", "3", "8", "8") == 0
    assert "0 of 2 layers converted, for float32 (64, 3, 8, 8)" in capsys.readouterr().out
    wrong = ["compress", "conv.sparseq", "c.sparseq", "--shape", "3", "9", "9"]
    assert "example must be accepted by the model" in complaint(capsys, *wrong)
    error = complaint(capsys, *wrong, "--policy", "auto")
    assert "in_shape must be the shape of one example that the model accepts" in error
    error = complaint(capsys, *wrong[:3], "--policy", "measured")
    assert "--shape is required by policy measured, as the file records no shape" in error
    assert "batch must be at least 1" in complaint(capsys, *wrong[:3], "--batch", "0")


def test_compress_measures_for_the_batch_and_the_threads_of_its_flags(capsys, monkeypatch):
    install(monkeypatch, by_kind(dense=2, sparse=1))
    save(half_pruned(nn.Sequential(nn.Linear(6, 4))), "linear.sparseq")
    flags = ["--shape", "6", "--batch", "3", "--threads", "2"]
    assert run("compress", "linear.sparseq", "s.sparseq", *flags) == 0
    printed = capsys.readouterr().out
    assert "0 (Linear, 50 % kept) becomes sparse: 2 ms dense, 1 ms sparse" in printed
    assert "for float32 (3, 6), forward, cpu, 2 threads: 2 ms dense, 1 ms now (2.00x)" in printed
    assert type(load("s.sparseq")[0]) is sparseq.SparseLinear


def test_compress_and_prune_print_which_layers_stay_dense(capsys):
    note = "compress: out (Linear, 100 % kept) stays dense: all its weights are kept"
    run("train", *TINY, "--out", "t")
    run("lottery", *ROUNDS, "--out", "l")
    assert "compress:" not in capsys.readouterr().out  # the table has notes of its own
    run("compress", "t/model.sparseq", "c.sparseq")
    assert note in capsys.readouterr().out
    run("prune", *TINY, "--density", "1", "--finetune", "0", "--file", "t/model.sparseq")
    assert note in capsys.readouterr().out
    sparseq.compress(nn.Linear(4, 4))
    assert capsys.readouterr().out == ""


def test_profile_uses_the_shape_of_the_file_or_of_a_flag(capsys):
    run("train", *TINY, "--out", "t")
    save(nn.Linear(5, 4), "plain.sparseq")
    short = ["--batch", "2", "--repeats", "1"]
    capsys.readouterr()
    for arguments, line in (
        (["t/model.sparseq"], "input: 2 x 1 x 8 x 8, recorded in the file"),
        (["t/model.sparseq", "--shape", "4", "16"], "input: 2 x 4 x 16, from --shape"),
        (["t/model.sparseq", "--data", "digits"], "input: 2 x 1 x 8 x 8, from data set digits"),
        (["plain.sparseq", "--shape", "5"], "input: 2 x 5, from --shape"),
        (["lenet_12", "--shape", "9"], "input: 2 x 9, from --shape"),
        (["lenet_12"], "input: 2 x 1 x 8 x 8, from data set digits"),
    ):
        assert run("profile", *arguments, *short) == 0
        assert capsys.readouterr().out.startswith(line)
    error = complaint(capsys, "profile", "plain.sparseq")
    assert "--shape is required, as the file records no shape" in error
    assert "shape must have sizes" in complaint(capsys, "profile", "lenet_12", "--shape", "0")


MINE = """
from torch import nn

class Net(nn.Module):
    def __init__(self, pixels, classes):
        super().__init__()
        self.fc = nn.Linear(pixels, classes)

    def forward(self, x):
        return self.fc(x.flatten(1))

def net(in_shape, num_classes):
    return Net(in_shape[0] * in_shape[1] * in_shape[2], num_classes)
"""


def test_a_users_own_class_works_with_all_commands(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(MINE)
    code = ["--model", "mine.py:net"]
    assert run("train", *code, "--epochs", "1", "--out", "t") == 0
    file, small = "t/model.sparseq", "small.sparseq"
    for arguments in (["compress", file, small], ["profile", file], ["prune", "--file", file]):
        assert "--model FILE.py:function" in complaint(capsys, *arguments)
    pruning = ["--file", file, "--density", "0.1", "--finetune", "1", "--out", "p"]
    assert run("prune", *code, "--epochs", "1", *pruning) == 0
    assert run("compress", "p/model.sparseq", small, *code, "--policy", "sparse") == 0
    assert run("info", small) == 0
    capsys.readouterr()
    assert run("profile", small, *code, "--batch", "2", "--repeats", "1") == 0
    text = capsys.readouterr().out
    assert text.startswith("input: 2 x 1 x 8 x 8, recorded in the file")
    assert "SparseLinear" in text
    (tmp_path / "mine.py").write_text(MINE.replace("self.fc", "self.other"))
    assert "the modules of the file" in complaint(capsys, "profile", small, *code)


def test_a_file_without_builder_gets_none(tmp_path):
    (tmp_path / "mine.py").write_text(MINE + "\ndef fixed():\n    return Net(6, 2)\n")
    net = load_function("mine.py:fixed")()
    save(net, "n.sparseq")
    assert run("compress", "n.sparseq", "c.sparseq", "--model", "mine.py:fixed") == 0
    again = load("c.sparseq", net)
    assert not hasattr(again, "recipe")
    assert torch.equal(again.fc.weight, net.fc.weight)


@pytest.mark.parametrize("algebra", ["real", "quaternion"])
def test_profile_builds_a_model_by_name(algebra, capsys):
    assert run("profile", "lenet_12", "--algebra", algebra, "--batch", "4", "--repeats", "1") == 0
    assert "fc1" in capsys.readouterr().out
