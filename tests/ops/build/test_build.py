"""The builder as its users meet it, in processes of their own where processes matter."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from sparseq.ops import build
from sparseq.ops.build import cache, compile, toolchain
from tests.ops.build.processes import ANSWERS, ASK, call, start, write_csrc

ANSWER = str(ANSWERS["cpu"])


def builds_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.is_dir()]


@pytest.fixture
def slow_compiler(tmp_path):
    """Environment with a compiler that takes its time."""
    path = tmp_path / "slow-c++"
    path.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] || sleep 2\nexec {toolchain.compiler()} "$@"\n'
    )
    path.chmod(0o755)
    return {"CXX": str(path), "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
@pytest.mark.usefixtures("needs_compiler")
def test_killed_builder_then_eight_at_once_build_exactly_once(tmp_path, slow_compiler):
    folder, csrc = tmp_path / "cache", write_csrc(tmp_path / "csrc")
    victim = start(folder, ASK, csrc, **slow_compiler)
    deadline = time.monotonic() + 60
    while not (folder.exists() and any(".tmp-" in name for name in builds_in(folder))):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    processes = [start(folder, ASK, csrc, **slow_compiler) for _ in range(8)]
    results = [process.communicate(timeout=400) for process in processes]
    assert {out.strip() for out, _ in results} == {ANSWER}
    assert sum("compiled in" in err for _, err in results) == 1
    assert sorted(name.split("-")[0] for name in builds_in(folder)) == ["cpu", "host"]
    library = next(folder.glob("*/cpu.so"))
    before = library.stat().st_mtime_ns
    assert call(folder, ASK, csrc, **slow_compiler) == (ANSWER, "", 0)
    assert library.stat().st_mtime_ns == before


@pytest.mark.usefixtures("needs_compiler")
def test_a_damaged_library_is_built_again(tmp_path):
    folder, csrc = tmp_path / "cache", write_csrc(tmp_path / "csrc")
    assert call(folder, ASK, csrc)[0] == ANSWER
    library = next(folder.glob("*/cpu.so"))
    whole = library.read_bytes()
    library.write_bytes(whole[: len(whole) // 2] + b"\0" * (len(whole) - len(whole) // 2))
    out, err, _ = call(folder, ASK, csrc)
    assert out == ANSWER
    assert "compiled in" in err


@pytest.mark.usefixtures("needs_compiler")
def test_companions_come_along_and_are_built_again_alone(csrc, capsys):
    path = build.library("cpu")
    helpers = build.existing("host")
    assert helpers is not None
    assert build.library("cpu") == path
    (csrc / "host" / "answer.cpp").write_text("int other() { return 8; }")
    assert build.existing("host") is None
    capsys.readouterr()
    assert build.library("cpu") == path
    assert "for host, once" in capsys.readouterr().err
    assert build.existing("host") != helpers


@pytest.mark.usefixtures("needs_compiler")
def test_a_library_serves_though_its_companion_cannot_be_built(csrc, capsys, monkeypatch):
    build.library("cpu")
    (csrc / "host" / "answer.cpp").write_text("wrong")
    assert build.library("cpu") == build.existing("cpu")
    assert "its slower twin in NumPy serves: the kernels do not compile" in capsys.readouterr().err
    monkeypatch.setattr(compile, "can_build", lambda variant: variant.library.name != "host")
    assert build.library("cpu") == build.existing("cpu")
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("needs_compiler", "csrc")
def test_ready_libraries_in_a_read_only_folder_serve(tmp_path, monkeypatch, capsys):
    path = build.library("cpu")
    capsys.readouterr()
    for folder in (*path.parent.parent.iterdir(), path.parent.parent):
        folder.chmod(0o500 if folder.is_dir() else 0o400)

    def read_only(root):
        raise AssertionError("a folder to build in is asked for")

    monkeypatch.setattr(cache, "cache_root", read_only)
    assert build.library("cpu") == path
    assert build.existing("host") is not None
    assert capsys.readouterr().err == ""
    for folder in (path.parent.parent, *path.parent.parent.iterdir()):
        folder.chmod(0o700)


@pytest.mark.usefixtures("needs_compiler", "csrc")
def test_a_build_for_this_machine_prints_its_folders(capsys):
    build.main(["--verbose"])
    shown = capsys.readouterr()
    folders = shown.out.split()[-2:]
    assert [Path(folder).name.split("-")[0] for folder in folders] == ["cpu", "host"]
    assert "compiled before" not in shown.err
    build.main(["--verbose"])
    assert "compiled before: cpu, host" in capsys.readouterr().err
    (Path(folders[0]) / cache.MANIFEST).write_text("[]")
    build.main([])
    shown = capsys.readouterr()
    assert shown.out.split() == folders
    assert "compiled in" in shown.err


@pytest.mark.usefixtures("csrc")
def test_the_check_of_cuda_says_when_there_is_none(monkeypatch, capsys):
    monkeypatch.setattr(toolchain, "required_cuda_compiler", lambda: "nvcc")
    monkeypatch.setattr(toolchain, "compiler", lambda: "c++")
    build.main(["--compile-cuda"])
    assert capsys.readouterr().out == "no CUDA sources\n"


def test_without_cuda_sources_there_is_no_library_for_cuda():
    has_sources = any((Path(build.sources.source_root()) / "cuda").glob("*.cu"))
    assert ("cuda" in build.LIBRARIES) == has_sources


def test_importing_builds_and_writes_nothing(tmp_path):
    code = (
        "import sparseq, sys; assert 'torch' not in sys.modules; sparseq.QLinear;"
        "import sparseq.cli.main; print('torch' in sys.modules)"
    )
    out, err, _ = call(tmp_path / "cache", code, HOME=str(tmp_path))
    assert out == "True", err
    assert not list(tmp_path.rglob("*.so"))
    assert not (tmp_path / "cache").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write everywhere")
@pytest.mark.usefixtures("needs_compiler")
def test_an_unwritable_cache_is_named(tmp_path):
    csrc = write_csrc(tmp_path / "csrc")
    tmp_path.chmod(0o500)
    _, err, code = call(tmp_path / "cache", ASK, csrc)
    tmp_path.chmod(0o700)
    assert code != 0
    assert "set SPARSEQ_CACHE_DIR" in err
