"""What serves an op where kernels cannot be had, in processes with a cache of their own."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from sparseq.ops.build import toolchain
from tests.ops.build.processes import call, environment

CALL = (
    "import torch; from sparseq.ops.hamilton import hamilton; from sparseq.ops import _backend;"
    "y = hamilton(torch.ones(1, 4), torch.ones(4, 1, 1));"
    "print(y.tolist(), _backend.activate('cpu')['hamilton'])"
)
EXPECTED = "[[-2.0, 2.0, 2.0, 2.0]]"


@pytest.fixture
def no_compiler(tmp_path):
    """Environment in which no compiler is on the path."""
    folder = tmp_path / "bin"
    folder.mkdir()
    return {"PATH": str(folder), "CXX": ""}


def test_without_a_compiler_plain_torch_serves_with_one_warning(tmp_path, no_compiler):
    code = CALL + ";hamilton(torch.ones(2, 4), torch.ones(4, 1, 1))"
    out, err, _ = call(tmp_path / "cache", code, **no_compiler)
    assert out == f"{EXPECTED} reference"
    assert err.count("Warning") == 1
    assert "no C++ compiler found" in err
    assert "apt install g++" in err


def test_the_warning_names_the_line_of_the_user(tmp_path, no_compiler):
    script = tmp_path / "mine.py"
    script.write_text("\n".join(line.strip() for line in CALL.split(";")))
    clean = environment(tmp_path / "cache", **no_compiler)
    command = [sys.executable, str(script)]
    result = subprocess.run(command, env=clean, capture_output=True, text=True, check=True)
    assert result.stderr.startswith(f"{script}:4: UserWarning: sparseq runs its slow plain-torch")


def test_reference_on_request_says_nothing_and_builds_nothing(tmp_path, no_compiler):
    out, err, _ = call(tmp_path / "cache", CALL, SPARSEQ_BACKEND="reference", **no_compiler)
    assert out == f"{EXPECTED} reference"
    assert err == ""
    assert not (tmp_path / "cache").exists()


def test_compiled_on_request_fails_loudly(tmp_path, no_compiler):
    _, err, code = call(tmp_path / "cache", CALL, SPARSEQ_BACKEND="compiled", **no_compiler)
    assert code != 0
    assert "no C++ compiler found" in err


@pytest.mark.parametrize(("name", "message"), [("false", "does not run"), ("true", "no library")])
def test_a_broken_compiler_is_named(tmp_path, name, message):
    path = shutil.which(name)
    out, err, _ = call(tmp_path / "cache", CALL, CXX=str(path))
    assert out == f"{EXPECTED} reference"
    assert f"{path} " in err
    assert message in err


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("nothing", "unknown backend in SPARSEQ_BACKEND 'nothing'; choose one of: auto, compiled"),
        ("nothing=reference", "unknown op in SPARSEQ_BACKEND 'nothing'; choose one of: block_mm"),
        ("spmm=triton", "requests 'triton' for 'spmm' on 'cpu', where only these are available"),
    ],
)
def test_wrong_backends_are_named(tmp_path, value, message):
    _, err, code = call(tmp_path / "cache", CALL, SPARSEQ_BACKEND=f"reference,{value}")
    assert code != 0
    assert message in err


def test_a_device_without_a_library_is_served_all_the_same(monkeypatch):
    from sparseq.ops import _backend, build

    monkeypatch.setattr(build, "LIBRARIES", {})
    assert _backend._compiled("cuda", {"auto"}) == {}


def test_a_library_that_cannot_be_loaded_is_named(tmp_path, monkeypatch):
    from sparseq.ops import _backend, build

    garbage = tmp_path / "cpu.so"
    garbage.write_bytes(b"no library")
    monkeypatch.setattr(build, "library", lambda name: garbage)
    with pytest.warns(UserWarning, match=f"plain-torch kernels: .*remove {tmp_path}"):
        assert _backend._compiled("cpu", {"auto"}) == {}
    assert toolchain.BuildError is build.BuildError
