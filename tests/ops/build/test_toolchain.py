"""Compilers that are missing, broken or wrong, and instruction sets."""

from __future__ import annotations

import shutil

import pytest

from sparseq.ops.build import toolchain
from sparseq.ops.build.toolchain import BuildError


@pytest.fixture
def program(tmp_path):
    """Writes a program that prints a text; returns its path."""

    def write(name, text):
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\n" if text else "#!/bin/sh\n")
        path.chmod(0o755)
        return str(path)

    return write


@pytest.fixture
def no_programs(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setenv("CXX", "")


def test_wrong_instruction_sets_are_named(monkeypatch):
    monkeypatch.setenv("SPARSEQ_CPU_ISA", "mmx")
    with pytest.raises(ValueError, match=r"SPARSEQ_CPU_ISA 'mmx'; choose one of: scalar, avx2"):
        toolchain.cpu_isa()
    monkeypatch.setenv("SPARSEQ_CPU_ISA", "avx512")
    monkeypatch.setattr(toolchain, "supported_isas", lambda: ["scalar", "avx2"])
    with pytest.raises(ValueError, match=r"avx512: this CPU .* has only scalar, avx2"):
        toolchain.cpu_isa()


def test_the_compiler_that_is_asked_for_is_taken(program, monkeypatch):
    path = program("mine", "mine 1.2\nof mine")
    monkeypatch.setenv("CXX", path)
    assert toolchain.compiler() == path
    assert toolchain.version_text(path) == "mine 1.2\nof mine"
    assert toolchain.compiler_version(path) == "mine 1.2"


@pytest.mark.usefixtures("no_programs")
def test_a_missing_compiler_or_ninja_is_named(tmp_path, monkeypatch):
    with pytest.raises(BuildError, match=r"no C\+\+ compiler found. Install g\+\+"):
        toolchain.compiler()
    monkeypatch.setattr(toolchain.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(toolchain.sys, "executable", str(tmp_path / "python"))
    with pytest.raises(BuildError, match=r"no ninja found.*pip install ninja"):
        toolchain.ninja()


def test_a_compiler_that_fails_or_says_nothing_is_named(program, tmp_path):
    with pytest.raises(BuildError, match=r"false does not run"):
        toolchain.version_text(str(shutil.which("false")))
    with pytest.raises(BuildError, match=r"missing does not run"):
        toolchain.version_text(str(tmp_path / "missing"))
    silent = program("silent", "")
    with pytest.raises(BuildError, match=f"{silent} must name its version, .* printed nothing"):
        toolchain.compiler_version(silent)


def test_nvcc_is_of_torchs_cuda(program, monkeypatch):
    monkeypatch.setattr(toolchain.torch.version, "cuda", "13.0")
    monkeypatch.setattr(toolchain, "cuda_compiler", lambda: None)
    with pytest.raises(BuildError, match=r"no nvcc found: set CUDA_HOME, or pip install 'cuda"):
        toolchain.required_cuda_compiler()
    for release, fits in ((13, True), (12, False)):
        nvcc = program(f"nvcc{release}", f"nvcc: NVIDIA (R)\nrelease {release}.1, V{release}.1.8")
        monkeypatch.setattr(toolchain, "cuda_compiler", lambda nvcc=nvcc: nvcc)
        if fits:
            assert toolchain.required_cuda_compiler() == nvcc
            continue
        with pytest.raises(BuildError, match=r"must be of CUDA 13 as this torch is, .* CUDA 12: "):
            toolchain.required_cuda_compiler()


def test_nvcc_of_cuda_home_comes_first(program, tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    nvcc = program("bin/nvcc", "nvcc")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert toolchain.cuda_compiler() == nvcc


def test_the_architecture_is_the_visible_gpus(monkeypatch):
    monkeypatch.setattr(toolchain.torch.cuda, "is_available", lambda: False)
    with pytest.raises(BuildError, match="visible GPU, but none is visible"):
        toolchain.cuda_arch()
    monkeypatch.setattr(toolchain.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(toolchain.torch.cuda, "get_device_capability", lambda: (8, 6))
    assert toolchain.cuda_arch() == "sm_86"


def test_jobs_follow_memory_and_the_users_wish(monkeypatch):
    monkeypatch.delenv("MAX_JOBS", raising=False)
    monkeypatch.setattr(toolchain.os, "sched_getaffinity", lambda _: range(8), raising=False)
    memory = {"SC_AVPHYS_PAGES": 2**20, "SC_PAGE_SIZE": 2**12}
    monkeypatch.setattr(toolchain.os, "sysconf", memory.__getitem__)
    assert toolchain.jobs() == 2  # of 4 GiB
    memory["SC_AVPHYS_PAGES"] = 1
    assert toolchain.jobs() == 1
    monkeypatch.setenv("MAX_JOBS", "5")
    assert toolchain.jobs() == 5
    for wrong in ("0", "-1", "many"):
        monkeypatch.setenv("MAX_JOBS", wrong)
        with pytest.raises(BuildError, match=f"MAX_JOBS must be a positive number .* '{wrong}'"):
            toolchain.jobs()
