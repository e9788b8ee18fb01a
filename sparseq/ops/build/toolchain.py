"""What this machine can compile with and run: instruction sets, compilers, memory."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import torch

from sparseq.errors import unknown_name

GIB_PER_JOB = 1.5  # peak of one compiler process on our largest kernel file, rounded up


class BuildError(RuntimeError):
    """The kernels cannot be built here; the message says why and what to do."""


@dataclass(frozen=True)
class InstructionSet:
    """Compiler flags of one instruction set, and the CPU features it needs (Linux names)."""

    flags: tuple[str, ...]
    features: frozenset[str]


_AVX2 = frozenset({"avx2", "fma", "bmi1", "bmi2", "f16c"})
ISAS = {
    "scalar": InstructionSet((), frozenset()),
    "avx2": InstructionSet(("-march=x86-64-v3",), _AVX2),
    "avx512": InstructionSet(
        ("-march=x86-64-v4", "-mprefer-vector-width=512"),
        _AVX2 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
    ),
}


def cpu_features() -> frozenset[str]:
    """Feature flags of the CPU as the kernel lists them; empty where it does not."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    lines = [line for line in text.splitlines() if line.startswith(("flags", "Features"))]
    return frozenset(lines[0].partition(":")[2].split()) if lines else frozenset()


def cpu_model() -> str:
    """Name of the CPU, for reports."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2] for line in text.splitlines() if line.startswith("model name")]
    return names[0].strip() if names else platform.machine()


def supported_isas() -> list[str]:
    """Instruction sets this CPU runs, slowest first."""
    have = cpu_features() if platform.machine() in ("x86_64", "AMD64") else frozenset()
    return [name for name, isa in ISAS.items() if isa.features <= have]


def cpu_isa() -> str:
    """The instruction set to use: `SPARSEQ_CPU_ISA`, else the best there is.

    Raises:
        ValueError: the variable names an unknown instruction set, or one this CPU lacks.
    """
    supported = supported_isas()
    wanted = os.environ.get("SPARSEQ_CPU_ISA") or supported[-1]
    if wanted not in ISAS:
        raise unknown_name("instruction set in SPARSEQ_CPU_ISA", wanted, list(ISAS))
    if wanted not in supported:
        raise ValueError(
            f"SPARSEQ_CPU_ISA={wanted}: this CPU ({cpu_model()}) has only {', '.join(supported)}"
        )
    return wanted


def build_environment() -> dict[str, str]:
    """The environment of a compiler run: ninja is found though no environment is activated."""
    scripts = [sysconfig.get_path("scripts"), str(Path(sys.executable).parent)]
    return {**os.environ, "PATH": os.pathsep.join([*scripts, os.environ.get("PATH", os.defpath)])}


def ninja() -> str:
    """Path of ninja, which runs the compilers.

    Raises:
        BuildError: there is none.
    """
    found = shutil.which("ninja", path=build_environment()["PATH"])
    if found is None:
        raise BuildError("no ninja found, which runs the compiler: pip install ninja")
    return found


def compiler() -> str:
    """Path of the C++ compiler: `CXX`, else c++, g++ or clang++ on the path.

    Raises:
        BuildError: there is none.
    """
    for name in filter(None, (os.environ.get("CXX"), "c++", "g++", "clang++")):
        found = shutil.which(name)
        if found:
            return found
    raise BuildError(
        "no C++ compiler found. Install g++ (Debian, Ubuntu: apt install g++) or set CXX; "
        "SPARSEQ_BACKEND=reference keeps the plain-torch kernels without this message"
    )


def version_text(path: str) -> str:
    """All that `path --version` prints: nvcc names its version in the last lines.

    Raises:
        BuildError: it does not run, or prints nothing.
    """
    try:
        run = subprocess.run([path, "--version"], capture_output=True, text=True, check=True)
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        raise BuildError(f"the compiler {path} does not run: {error}") from error
    if not run.stdout.strip():
        raise BuildError(
            f"the compiler {path} must name its version, but `{path} --version` printed nothing; "
            "set CXX to another compiler"
        )
    return run.stdout.strip()


def compiler_version(path: str) -> str:
    """First line of `path --version`, for reports; errors as in `version_text`."""
    return version_text(path).splitlines()[0]


def cuda_compiler() -> str | None:
    """Path of nvcc: `CUDA_HOME`, pip's cuda-toolkit, the system's; None where there is none."""
    home = os.environ.get("CUDA_HOME")
    pip_roots = sorted(Path(sysconfig.get_path("purelib")).glob("nvidia/*/bin"))
    places = [str(Path(home) / "bin")] if home else []
    for place in [*places, *map(str, pip_roots), None, "/usr/local/cuda/bin"]:
        found = shutil.which("nvcc", path=place)
        if found:
            return found
    return None


def required_cuda_compiler() -> str:
    """Path of an nvcc for the CUDA that torch was built with: the runtime is torch's own.

    Raises:
        BuildError: there is none, or only one of another major version.
    """
    found, wanted = cuda_compiler(), torch.version.cuda
    version = f"=={wanted}.*" if wanted else ""
    remedy = f"set CUDA_HOME, or pip install 'cuda-toolkit[nvcc,cccl,cudart]{version}'"
    if found is None:
        raise BuildError(f"no nvcc found: {remedy}")
    release = re.search(r"release (\d+)", version_text(found))
    if release and wanted and release[1] != wanted.partition(".")[0]:
        raise BuildError(
            f"nvcc must be of CUDA {wanted.partition('.')[0]} as this torch is, but {found} is of "
            f"CUDA {release[1]}: {remedy}"
        )
    return found


def cuda_arch() -> str:
    """Architecture of the current CUDA device in nvcc's words, such as "sm_90".

    Raises:
        BuildError: no device is visible.
    """
    if not torch.cuda.is_available():
        raise BuildError("the CUDA kernels are compiled for the visible GPU, but none is visible")
    major, minor = torch.cuda.get_device_capability()
    return f"sm_{major}{minor}"


def jobs() -> int:
    """Compilers at once: `MAX_JOBS`, else the CPUs we may use, fewer where memory is short.

    Raises:
        BuildError: `MAX_JOBS` is no positive number.
    """
    asked = os.environ.get("MAX_JOBS")
    if asked:
        if not asked.isdecimal() or int(asked) == 0:
            raise BuildError(f"MAX_JOBS must be a positive number of compilers, got {asked!r}")
        return int(asked)
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return cpus or 1
    return max(1, min(cpus or 1, int(available / 2**30 / GIB_PER_JOB)))
