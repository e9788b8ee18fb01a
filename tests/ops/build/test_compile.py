"""The compilers at work, on a csrc so small that they take no time."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest
import torch

from sparseq.ops.build import cache, compile, sources, toolchain
from sparseq.ops.build.sources import Variant
from sparseq.ops.build.toolchain import BuildError
from tests.ops.build.processes import ANSWERS, call

TINY_CU = """
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include "../common/step.h"
#include "type.cuh"

using torch::stable::Tensor;

__global__ void add(Real* x, int64_t n) {
  const int64_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) x[i] += STEP;
}

Tensor add_step(Tensor x) {
  add<<<(x.numel() + 255) / 256, 256>>>(static_cast<Real*>(x.mutable_data_ptr()), x.numel());
  return x;
}

STABLE_TORCH_LIBRARY(sparseq_tiny, m) { m.def("add_step(Tensor x) -> Tensor"); }
STABLE_TORCH_LIBRARY_IMPL(sparseq_tiny, CUDA, m) { m.impl("add_step", TORCH_BOX(&add_step)); }
"""
LOAD = """
import sys, torch
torch.ops.load_library(sys.argv[1])
print(torch._C._dispatch_has_kernel_for_dispatch_key("sparseq_tiny::add_step", "CUDA"))
"""


@pytest.fixture
def cuda_sources(csrc):
    """A CUDA kernel in our small csrc."""
    try:
        toolchain.required_cuda_compiler()
        toolchain.compiler()
    except BuildError as error:
        pytest.skip(str(error))
    (csrc / "cuda").mkdir()
    (csrc / "cuda" / "tiny.cu").write_text(TINY_CU)
    (csrc / "cuda" / "type.cuh").write_text("using Real = float;\n")
    (csrc / "common" / "step.h").write_text("#define STEP 1.0f\n")
    return csrc / "cuda"


@pytest.mark.usefixtures("needs_compiler", "csrc")
def test_what_is_missing_is_compiled_and_no_more(cpu, host, capsys):
    compile.build([host])
    built = cache.find(host)
    before = built.stat().st_mtime_ns
    assert "compiling the kernels for host, once" in capsys.readouterr().err
    compile.build([cpu, host])
    assert f"compiling the kernels for {cpu.name}, once" in capsys.readouterr().err
    assert cache.find(host).stat().st_mtime_ns == before
    for variant in (cpu, host):
        library = ctypes.CDLL(str(cache.find(variant)))
        assert library.answer() == ANSWERS[variant.library.name]
    compile.build([cpu, host])
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("needs_compiler")
def test_paths_of_any_characters(csrc, tmp_path, monkeypatch, host):
    odd = tmp_path / "a $HOME: 'b'"
    csrc.rename(odd)
    monkeypatch.setattr(sources, "source_root", lambda: odd)
    (tmp_path / "out $x: y").mkdir()
    path = tmp_path / "out $x: y" / "host.so"
    compile.compile_libraries({host: path})
    assert ctypes.CDLL(str(path)).answer() == ANSWERS["host"]


@pytest.mark.usefixtures("needs_compiler")
def test_sources_that_do_not_compile_are_shown_and_change_nothing(cpu, host, csrc, tmp_path):
    (csrc / "cpu" / "wrong.cpp").write_text("int wrong() { return nothing; }\n")
    with pytest.raises(BuildError, match=r"do not compile:\n  .*wrong.cpp:1:.*error.*nothing") as e:
        compile.build([cpu, host])
    assert str(e.value).endswith("`sparseq build --verbose` shows everything")
    with pytest.raises(BuildError, match="what the compiler said is above"):
        compile.build([cpu], verbose=True)
    assert cache.find(cpu) is None
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


@pytest.mark.usefixtures("needs_compiler", "csrc")
def test_what_cannot_be_built_is_told_apart(host, monkeypatch):
    assert compile.can_build(host)
    monkeypatch.setattr(toolchain, "ninja", lambda: toolchain.version_text("/none/ninja"))
    assert not compile.can_build(host)


@pytest.mark.usefixtures("needs_compiler", "csrc")
def test_all_instruction_sets_are_built_ahead_of_time():
    compile.build_ahead_of_time()
    known = sources.libraries()
    for isa in toolchain.supported_isas():
        path = cache.find(Variant(known["cpu"], isa))
        assert path == cache.AHEAD / f"cpu-{isa}.so"
        assert ctypes.CDLL(str(path)).answer() == ANSWERS["cpu"]
    assert cache.find(Variant(known["host"], "")) == cache.AHEAD / "host.so"


@pytest.mark.slow
def test_one_cuda_file_makes_a_library(cuda_sources, tmp_path, monkeypatch):
    monkeypatch.setattr(toolchain, "cuda_arch", lambda: "sm_90")
    variant = sources.variant(sources.libraries()["cuda"])
    assert cache.find(variant) is None
    if torch.version.cuda:
        compile.build([variant])
        path = cache.find(variant)
        assert path.parent.name.startswith("cuda-sm_90-")
        assert call(tmp_path / "cache", LOAD, path)[0] == "True"
    assert compile.compile_cuda() == [str(cuda_sources / "tiny.cu")]
    (cuda_sources / "type.cuh").write_text("")
    with pytest.raises(BuildError, match=r"(?s)tiny.cu does not compile:\n.*Real"):
        compile.compile_cuda()


@pytest.mark.usefixtures("csrc")
def test_the_check_of_cuda_without_nvcc_or_sources(monkeypatch):
    monkeypatch.setattr(toolchain, "required_cuda_compiler", lambda: sys.executable)
    assert compile.compile_cuda() == []

    def missing():
        raise BuildError("no nvcc found")

    monkeypatch.setattr(toolchain, "required_cuda_compiler", missing)
    with pytest.raises(BuildError, match="no nvcc found"):
        compile.compile_cuda()


def test_the_module_runs_as_a_program():
    command = [sys.executable, "-m", "sparseq.ops.build", "--help"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "--ahead-of-time" in run.stdout
