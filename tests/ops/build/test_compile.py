"""The build as users meet it: in processes of their own, with a cache of their own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sparseq.ops import build
from sparseq.ops.build import toolchain

CALL = (
    "import torch; from sparseq.ops.hamilton import hamilton; from sparseq.ops import _backend;"
    "y = hamilton(torch.ones(1, 4), torch.ones(4, 1, 1));"
    "print(y.tolist(), _backend.activate('cpu')['hamilton'])"
)
EXPECTED = "[[-2.0, 2.0, 2.0, 2.0]]"
QUICK = {"SPARSEQ_CPU_ISA": "scalar"}


def environment(cache: Path, **more: str) -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("SPARSEQ_")}
    return {**clean, "SPARSEQ_CACHE_DIR": str(cache), **more}


def start(cache: Path, code: str = CALL, **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment(cache, **more),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def call(cache: Path, **more: str) -> tuple[str, str, int]:
    process = start(cache, **more)
    out, err = process.communicate(timeout=300)
    return out.strip(), err, process.returncode


def builds_in(cache: Path) -> list[str]:
    return [path.name for path in cache.iterdir() if path.is_dir()]


@pytest.fixture
def no_compiler(tmp_path):
    """Environment in which no compiler is on the path."""
    folder = tmp_path / "bin"
    folder.mkdir()
    return {"PATH": str(folder), "CXX": ""}


@pytest.fixture(scope="module")
def needs_compiler():
    try:
        toolchain.compiler()
    except toolchain.BuildError as error:
        pytest.skip(str(error))


@pytest.mark.slow
@pytest.mark.usefixtures("needs_compiler")
def test_killed_builder_then_eight_at_once_build_exactly_once(tmp_path):
    cache = tmp_path / "cache"
    victim = start(cache, **QUICK)
    deadline = time.monotonic() + 60
    while not (cache.exists() and any(".tmp-" in name for name in builds_in(cache))):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    processes = [start(cache, OMP_NUM_THREADS="1", **QUICK) for _ in range(8)]
    results = [process.communicate(timeout=400) for process in processes]
    assert {out.strip() for out, _ in results} == {f"{EXPECTED} compiled"}
    assert sum("compiled in" in err for _, err in results) == 1
    assert len(builds_in(cache)) == 1
    library = next(cache.glob("*/cpu.so"))
    before = library.stat().st_mtime_ns
    out, err, _ = call(cache, **QUICK)
    assert out == f"{EXPECTED} compiled"
    assert err == ""
    assert library.stat().st_mtime_ns == before


@pytest.mark.slow
@pytest.mark.usefixtures("needs_compiler")
def test_a_damaged_cache_is_built_again(tmp_path):
    cache = tmp_path / "cache"
    call(cache, **QUICK)
    library = next(cache.glob("*/cpu.so"))
    library.write_bytes(library.read_bytes()[:1000])
    out, err, _ = call(cache, **QUICK)
    assert out == f"{EXPECTED} compiled"
    assert "compiled in" in err


def test_without_a_compiler_plain_torch_serves_with_one_warning(tmp_path, no_compiler):
    code = CALL + ";hamilton(torch.ones(2, 4), torch.ones(4, 1, 1))"
    process = start(tmp_path / "cache", code, **no_compiler)
    out, err = process.communicate(timeout=120)
    assert out.strip() == f"{EXPECTED} reference"
    assert err.count("Warning") == 1
    assert "no C++ compiler found" in err
    assert "apt install g++" in err


def test_the_warning_names_the_line_of_the_user(tmp_path, no_compiler):
    script = tmp_path / "mine.py"
    script.write_text("\n".join(line.strip() for line in CALL.split(";")))
    clean = environment(tmp_path / "cache", PYTHONPATH=str(build.PACKAGE.parent), **no_compiler)
    command = [sys.executable, str(script)]
    result = subprocess.run(command, env=clean, capture_output=True, text=True, check=True)
    assert result.stderr.startswith(f"{script}:4: UserWarning: sparseq runs its slow plain-torch")


def test_reference_on_request_says_nothing_and_builds_nothing(tmp_path, no_compiler):
    out, err, _ = call(tmp_path / "cache", SPARSEQ_BACKEND="reference", **no_compiler)
    assert out == f"{EXPECTED} reference"
    assert err == ""
    assert not (tmp_path / "cache").exists()


def test_compiled_on_request_fails_loudly(tmp_path, no_compiler):
    _, err, code = call(tmp_path / "cache", SPARSEQ_BACKEND="compiled", **no_compiler)
    assert code != 0
    assert "no C++ compiler found" in err


def test_broken_compiler_is_named(tmp_path):
    false = shutil.which("false")
    out, err, _ = call(tmp_path / "cache", CXX=str(false))
    assert out == f"{EXPECTED} reference"
    assert f"{false} does not run" in err


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("nothing", "unknown backend in SPARSEQ_BACKEND 'nothing'; choose one of: auto, compiled"),
        ("nothing=reference", "unknown op in SPARSEQ_BACKEND 'nothing'; choose one of: block_mm"),
        ("spmm=triton", "asks for 'triton' to serve 'spmm' on 'cpu', which has only"),
    ],
)
def test_wrong_backends_are_named(tmp_path, value, message):
    _, err, code = call(tmp_path / "cache", SPARSEQ_BACKEND=f"reference,{value}")
    assert code != 0
    assert message in err


def test_wrong_instruction_sets_are_named(monkeypatch):
    monkeypatch.setenv("SPARSEQ_CPU_ISA", "mmx")
    with pytest.raises(ValueError, match=r"SPARSEQ_CPU_ISA 'mmx'; choose one of: scalar, avx2"):
        toolchain.cpu_isa()
    monkeypatch.setenv("SPARSEQ_CPU_ISA", "avx512")
    monkeypatch.setattr(toolchain, "supported_isas", lambda: ["scalar", "avx2"])
    with pytest.raises(ValueError, match=r"avx512: this CPU .* has only scalar, avx2"):
        toolchain.cpu_isa()


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write everywhere")
def test_unwritable_cache_is_named(tmp_path):
    tmp_path.chmod(0o500)
    out, err, _ = call(tmp_path / "cache")
    assert out == f"{EXPECTED} reference"
    assert "set SPARSEQ_CACHE_DIR" in err


def test_read_only_home_falls_back_to_a_private_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("SPARSEQ_CACHE_DIR", raising=False)
    blocker = tmp_path / "file"
    blocker.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocker))
    monkeypatch.setattr(build.tempfile, "gettempdir", lambda: str(tmp_path))
    root = build.cache_root()
    assert root.parent == tmp_path
    assert root.stat().st_mode & 0o777 == 0o700
    root.chmod(0o770)
    reasons = (
        rf"{blocker}/sparseq cannot be made \(Not a directory\), {root} can be written by others"
    )
    with pytest.raises(
        build.BuildError, match=rf"{reasons} \(chmod go-w {root}\); set SPARSEQ_CACHE"
    ):
        build.cache_root()
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    monkeypatch.setenv("SPARSEQ_CACHE_DIR", str(root))
    with pytest.raises(build.BuildError, match=f"{root} belongs to another user; set"):
        build.cache_root()


@pytest.mark.usefixtures("needs_compiler")
def test_a_verbose_build_fills_the_cache(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SPARSEQ_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(build, "AHEAD", tmp_path / "none")
    asked = []

    def compile_nothing(folder, isa, verbose):
        asked.append(verbose)
        for name in build.LIBRARIES:
            (folder / f"{name}.so").write_text("")

    monkeypatch.setattr(build, "_compile", compile_nothing)
    build.main(["--verbose"])
    folder = Path(capsys.readouterr().out.strip())
    assert (folder / "cpu.so").exists()
    assert build.existing("cpu") == folder / "cpu.so"
    build.main(["--verbose"])
    assert "compiled before" in capsys.readouterr().err
    (folder / build.SIZES).write_text("[]")
    build.main([])
    assert asked == [True, False]


@pytest.mark.usefixtures("needs_compiler")
def test_a_build_that_fails_says_how_to_see_more(tmp_path, monkeypatch):
    def fail(command, **options):
        return subprocess.CompletedProcess(command, 1, "a.cpp:1: error: no\n", None)

    monkeypatch.setattr(build.subprocess, "run", fail)
    monkeypatch.setattr(toolchain, "compiler", lambda: "c++")
    with pytest.raises(
        build.BuildError, match=r"do not compile:\n  a.cpp:1: error: no\n`sparseq b"
    ):
        build._compile(tmp_path, "scalar")


def test_importing_builds_and_writes_nothing(tmp_path):
    code = (
        "import sparseq, sys; assert 'torch' not in sys.modules; sparseq.QLinear;"
        "import sparseq.cli.main; print('torch' in sys.modules)"
    )
    process = start(tmp_path / "cache", code, HOME=str(tmp_path))
    out, err = process.communicate(timeout=120)
    assert out.strip() == "True", err
    assert not list(tmp_path.rglob("*.so"))
    assert not (tmp_path / "cache").exists()


@pytest.mark.usefixtures("needs_compiler")
def test_key_follows_sources_flags_and_cpu(monkeypatch):
    keys = {build.cache_key("scalar"), build.cache_key("avx2")}
    monkeypatch.setattr(build, "source_hash", lambda: "other")
    keys.add(build.cache_key("scalar"))
    monkeypatch.setattr(toolchain, "cpu_features", lambda: frozenset({"other"}))
    keys.add(build.cache_key("scalar"))
    monkeypatch.setattr(build, "FLAGS", ["-O0"])
    keys.add(build.cache_key("scalar"))
    assert len(keys) == 5


def test_the_hash_follows_every_kind_of_source(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "source_root", lambda: tmp_path)
    hashes = {build.source_hash()}
    for name in ("a.h", "a.cpp", "a.cu", "a.cuh"):
        (tmp_path / name).write_text("")
        hashes.add(build.source_hash())
    assert len(hashes) == 5


def test_libraries_built_ahead_of_time_are_used_only_for_their_sources(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "AHEAD", tmp_path)
    isa = toolchain.cpu_isa()
    (tmp_path / f"cpu_{isa}.so").write_text("")
    assert build._ahead_of_time("cpu") is None
    manifest = tmp_path / "manifest.json"
    manifest.write_text(f'{{"sources": "{build.source_hash()}"}}')
    assert build._ahead_of_time("cpu") == tmp_path / f"cpu_{isa}.so"
    for other in ('{"sources": "older"}', "[]"):
        manifest.write_text(other)
        assert build._ahead_of_time("cpu") is None
