"""Remembered times: used again on the machine that took them, whatever happens to the file."""

from __future__ import annotations

import json
import threading

import pytest
import torch
from torch import nn

from sparseq.compression import remembered
from sparseq.compression.remembered import Remembered, machine_key, read_rows
from sparseq.compression.sparsify import compress
from tests.compression.clocks import by_kind, half_pruned, install

CPU = torch.device("cpu")


@pytest.fixture
def clock(tmp_path, monkeypatch):
    """By it each dense layer takes 2 ms and each sparse one 1 ms; times are kept in tmp_path."""
    return install(monkeypatch, by_kind(2, 1), tmp_path)


@pytest.fixture
def folder(tmp_path):
    """Where the files are."""
    return tmp_path / remembered.FOLDER


def model():
    return half_pruned(nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8, bias=False)))


X = torch.randn(4, 8)


def test_a_second_call_times_only_the_whole_network(folder, clock):
    first = compress(model(), example=X)
    assert len(clock.works) == 3
    (path,) = folder.glob("*.json")
    assert len(read_rows(path)) == 2
    clock.works.clear()
    second = compress(model(), example=X)
    assert len(clock.works) == 1
    assert second.compression == first.compression


@pytest.mark.parametrize("what", ["shape", "dtype", "layout", "threads", "training", "density"])
def test_what_a_time_depends_on_is_timed_anew(folder, clock, what):
    net, x = model(), X
    compress(net, example=x)
    clock.works.clear()
    if what == "threads":
        torch.set_num_threads(torch.get_num_threads() + 1)
    elif what == "density":
        net[0].weight.data[1] = 0
    elif what == "dtype":
        net, x = net.double(), x.double()
    x = {"shape": X[:2], "layout": X.t().contiguous().t()}.get(what, x)
    compress(net, example=x, training=what == "training")
    layers = clock.layers_timed()
    assert len(layers) == (1 if what in ("density", "layout") else 2)


def test_remember_false_neither_reads_nor_writes(folder, clock):
    compress(model(), example=X, remember=False)
    assert not folder.exists()
    compress(model(), example=X)
    (path,) = folder.glob("*.json")
    before = path.read_bytes()
    clock.works.clear()
    compress(model(), example=X, remember=False)
    assert len(clock.layers_timed()) == 2
    assert path.read_bytes() == before


DAMAGED = ["", "{", "[]", '{"a": 1}', '{"a": {}}', '{"a": {"dense": "1"}}', '{"a": {"dense": NaN}}']
DAMAGED += ['{"a": {"dense": -1.0}}', "[" * 100_000, "\0"]


@pytest.mark.parametrize("text", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_file_counts_as_empty_and_is_replaced(folder, clock, text):
    compress(model(), example=X)
    (path,) = folder.glob("*.json")
    path.write_text(text)
    small = compress(model(), example=X)
    assert len(small.compression.taken) == 2
    assert len(read_rows(path)) == 2
    assert not list(folder.glob(".*.tmp"))


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for cache in (tmp_path / "file", None):
        install(monkeypatch, by_kind(2, 1), cache)
        assert len(compress(model(), example=X).compression.taken) == 2


def test_writers_at_the_same_time_lose_nothing(tmp_path):
    path = tmp_path / "rows.json"

    def write(number):
        rows = Remembered(path)
        for each in range(10):
            rows.put([number, each], {"dense": 1.0})
        rows.save()

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read_rows(path)) == 80


def test_the_oldest_rows_leave_first(tmp_path, monkeypatch):
    monkeypatch.setattr(remembered, "MOST_ROWS", 3)
    path = tmp_path / "rows.json"
    for number in range(5):
        rows = Remembered(path)
        rows.put(number, {"dense": float(number)})
        rows.save()
    assert [row["dense"] for row in json.loads(path.read_text()).values()] == [2, 3, 4]


def test_another_machine_has_a_file_of_its_own(monkeypatch):
    here = machine_key(CPU)
    assert here == machine_key(CPU)
    for name, value in {
        "cpu_model": lambda: "another CPU",
        "__version__": "0.0",
        "activate": lambda device: {"spmm": "reference"},
    }.items():
        with monkeypatch.context() as patch:
            patch.setattr(remembered, name, value)
            assert machine_key(CPU) != here, name
    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", "0.0")
        assert machine_key(CPU) != here
