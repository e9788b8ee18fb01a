"""The whole way: model, training under a mask, compression, file, and back; and a killed run."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest
import torch
import torch.nn.functional as F

import sparseq
from sparseq.cli.main import main
from sparseq.data import load_data
from sparseq.models import build
from sparseq.train import evaluate, fit

LOTTERY = [
    "--model",
    "lenet_12",
    "--epochs",
    "3",
    "--rounds",
    "6",
    "--trials",
    "1",
    "--measure-batch",
    "8",
]


@pytest.mark.parametrize("algebra", ["real", "quaternion"])
def test_from_a_model_to_a_small_file_and_back(tmp_path, algebra):
    data = load_data("digits")
    model = build("lenet_300_100", algebra, data.in_shape, data.num_classes)
    optimizer = torch.optim.Adam(model.parameters(), 4e-3)
    fit(model, optimizer, data.train, epochs=3, batch_size=60, seed=0)
    sparseq.save(model, tmp_path / "dense.sparseq")
    mask = sparseq.prune(model, density=0.1)
    with mask.enforce(model, optimizer):
        fit(model, optimizer, data.train, epochs=3, batch_size=60, seed=1)
    small = sparseq.compress(model, mask, policy="sparse")
    sparseq.save(small, tmp_path / "small.sparseq")
    again = sparseq.load(tmp_path / "small.sparseq")
    x = data.test.x
    torch.testing.assert_close(again(x), model(x), rtol=1e-4, atol=1e-4)
    assert torch.equal(again(x), small(x))
    assert evaluate(again, data.test).accuracy > 0.85
    sizes = [(tmp_path / f"{name}.sparseq").stat().st_size for name in ("small", "dense")]
    assert sizes[0] < sizes[1] / 3
    profile = sparseq.profile(again, x[:8], repeats=1)
    assert profile.total.nnz == mask.kept
    assert mask.kept == round(0.1 * mask.total)


def test_a_compressed_network_trains_on(tmp_path):
    data = load_data("digits")
    model = build("lenet_12", "quaternion", data.in_shape, data.num_classes)
    small = sparseq.compress(model, sparseq.prune(model, density=0.5), policy="sparse")
    before = F.cross_entropy(small(data.train.x), data.train.y)
    fit(
        small,
        torch.optim.Adam(small.parameters(), 2e-2),
        data.train,
        epochs=5,
        batch_size=60,
        seed=0,
    )
    assert F.cross_entropy(small(data.train.x), data.train.y) < before / 2


def start(folder):
    command = [sys.executable, "-m", "sparseq", "lottery", *LOTTERY, "--out", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def table(folder):
    levels = json.loads((folder / "results.json").read_text())["levels"]
    times = ("dense_ms", "sparse_ms", "speed_up")
    return [{k: v for k, v in level.items() if k not in times} for level in levels]


def test_a_killed_lottery_goes_on_to_the_same_table(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = start(killed)
    deadline = time.monotonic() + 60
    log = killed / "log.jsonl"
    while not (log.exists() and log.read_text().count("\n") >= 2):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (killed / "results.json").exists()
    for folder in (whole, killed):
        assert main(["lottery", *LOTTERY, "--out", str(folder)]) == 0
    assert table(killed) == table(whole)
    assert len(log.read_text().splitlines()) == 14
