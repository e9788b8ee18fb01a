"""Files are written completely or not at all; what killed processes left behind goes away."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

from sparseq.files import atomic
from sparseq.files.atomic import write_atomically
from sparseq.files.container import write_container
from sparseq.train import RowLog


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "f.sparseq"
    file.write_bytes(b"old")
    return file


def test_nothing_is_overwritten_unasked(path):
    for write in (write_atomically, lambda file, data: write_container(file, {}, {}, "model")):
        with pytest.raises(FileExistsError, match="overwrite=True"):
            write(path, b"new")
        assert path.read_bytes() == b"old"
    write_atomically(path, b"new", overwrite=True)
    assert path.read_bytes() == b"new"
    assert os.listdir(path.parent) == [path.name]


def test_a_file_created_in_the_meantime_is_kept(tmp_path, monkeypatch):
    target = tmp_path / "f"
    write = atomic._write_durably

    def write_late(file, data):
        write(file, data)
        target.write_bytes(b"other")

    monkeypatch.setattr(atomic, "_write_durably", write_late)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        write_atomically(target, b"new")
    assert target.read_bytes() == b"other"
    assert os.listdir(tmp_path) == ["f"]


@pytest.mark.parametrize("fails_in", ["_write_durably", "_publish", "_flush_folder"])
def test_a_failed_write_names_the_file_keeps_the_old_one_and_adds_none(path, monkeypatch, fails_in):
    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic, fails_in, fail)
    with pytest.raises(OSError, match=rf"No space left on device: '{path}'") as error:
        write_atomically(path, b"new", overwrite=True)
    assert error.value.errno == errno.ENOSPC
    assert path.read_bytes() == (b"new" if fails_in == "_flush_folder" else b"old")
    assert os.listdir(path.parent) == [path.name]


@contextmanager
def full_disk():
    """Writing more than 20 bytes to a file fails, in the system itself; pytest's own log too."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def test_errors_of_the_system_name_the_file(tmp_path):
    with pytest.raises(OSError, match=rf"File too large: '{tmp_path / 'f'}'"), full_disk():
        write_atomically(tmp_path / "f", b"x" * 100)
    assert not list(tmp_path.iterdir())
    log = RowLog(tmp_path, "log")
    with pytest.raises(OSError, match=rf"File too large: '{tmp_path / 'log.jsonl'}'"), full_disk():
        log.append({"name": "x" * 100})


KILLED = """
import os, runpy, signal, sys
atomic = runpy.run_path(sys.argv[1])  # the file alone, without torch
write = atomic["write_atomically"]
write.__globals__["_publish"] = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
write(sys.argv[2], b"new", overwrite=True)
"""


def test_what_a_killed_process_left_is_removed_by_the_next_write(path):
    for _ in range(2):
        killed = subprocess.run([sys.executable, "-c", KILLED, atomic.__file__, str(path)])
        assert killed.returncode == -signal.SIGKILL
        assert len(os.listdir(path.parent)) == 2  # the second process has removed the first's
    assert path.read_bytes() == b"old"
    write_atomically(path, b"new", overwrite=True)
    assert os.listdir(path.parent) == [path.name]


def test_files_that_are_no_leftovers_are_kept(path):
    others = [
        f".{path.name}.tmp",
        f".{path.name}.0123abcd.tmp.",
        ".other.0123abcd.tmp",
        f".{path.name}.0123abcd.0123abcd.tmp",
    ]
    for name in others:
        (path.parent / name).write_bytes(b"x")
    write_atomically(path, b"new", overwrite=True)
    assert sorted(os.listdir(path.parent)) == sorted([*others, path.name])


def test_a_file_that_another_process_is_writing_is_kept(path, monkeypatch):
    publish = atomic._publish
    seen = []

    def publish_late(temporary, target, overwrite):
        monkeypatch.setattr(atomic, "_publish", publish)
        write_atomically(path, b"first", overwrite=True)  # cleans up beside an unfinished write
        seen.append(temporary.exists())
        publish(temporary, target, overwrite)

    monkeypatch.setattr(atomic, "_publish", publish_late)
    write_atomically(path, b"second", overwrite=True)
    assert seen == [True]
    assert path.read_bytes() == b"second"
    assert os.listdir(path.parent) == [path.name]


def test_a_file_taken_for_a_leftover_before_it_is_locked_is_written_again(path, monkeypatch):
    lock, stolen = atomic._lock, []

    def lock_late(file, wait):
        if wait and not stolen:
            stolen.append(file.name)
            os.unlink(file.name)
        lock(file, wait)

    monkeypatch.setattr(atomic, "_lock", lock_late)
    write_atomically(path, b"new", overwrite=True)
    assert len(stolen) == 1
    assert path.read_bytes() == b"new"


def test_file_systems_without_locks(path, monkeypatch):
    monkeypatch.setattr(atomic, "fcntl", None)
    leftover = path.parent / f".{path.name}.0123abcd.tmp"
    leftover.write_bytes(b"")
    write_atomically(path, b"new", overwrite=True)
    assert path.read_bytes() == b"new"
    assert leftover.exists()


def test_file_systems_without_hard_links(tmp_path, monkeypatch):
    def no_links(*_):
        raise OSError(errno.EPERM, "no hard links")

    monkeypatch.setattr(os, "link", no_links)
    write_atomically(tmp_path / "f", b"new")
    assert (tmp_path / "f").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["f"]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"folder .*none does not exist"):
        write_atomically(tmp_path / "none" / "f", b"")


def test_a_link_is_followed_and_permissions_are_the_default(tmp_path):
    (tmp_path / "f").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "f")
    write_atomically(tmp_path / "link", b"new", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "f").read_bytes() == b"new"
    (tmp_path / "default").write_bytes(b"")
    assert (tmp_path / "f").stat().st_mode == (tmp_path / "default").stat().st_mode
