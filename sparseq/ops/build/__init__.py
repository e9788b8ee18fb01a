"""Build, cache and find the compiled libraries.

The first use of a kernel compiles csrc/ for this machine's CPU into a folder named by the hash
of sources, flags, compiler, torch and CPU; later processes load it from there. One process
builds while the others wait on a file lock; the result is renamed into place, so a folder that
exists is whole, and a builder that was killed leaves nothing that matters. Libraries built ahead
of time (`SPARSEQ_BUILD=1 pip install`) are used first where they match the sources.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from sparseq.ops.build import toolchain
from sparseq.ops.build.toolchain import BuildError

__all__ = ["LIBRARIES", "BuildError", "library", "main"]

# library -> the folder of csrc/ its sources are in; one file per op
LIBRARIES = {"cpu": "cpu", "host": "host"}
FLAGS = [
    "-O3",
    "-std=c++20",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fvisibility=hidden",
    "-Wno-psabi",
    "-DTORCH_TARGET_VERSION=0x020b000000000000",
]
SOURCES = ["*.h", "*.cpp", "*.cu", "*.cuh"]
PACKAGE = Path(__file__).resolve().parents[2]
AHEAD = PACKAGE / "_lib"
SIZES = "sizes.json"


def library(name: str, verbose: bool = False) -> Path:
    """Path of a compiled library for this machine, built now if it must be.

    Args:
        name: a key of LIBRARIES.
        verbose: show all that the compiler says.

    Raises:
        BuildError: it cannot be built; nothing was changed.
    """
    return _ahead_of_time(name) or _cached(name, verbose)


def existing(name: str) -> Path | None:
    """Path of a compiled library if it is there already; nothing is built for it."""
    try:
        path = _ahead_of_time(name) or cache_root() / cache_key(toolchain.cpu_isa()) / f"{name}.so"
    except BuildError:
        return None
    return path if path.exists() else None


def source_root() -> Path:
    """The csrc folder: inside an installed package, beside it in a checkout."""
    for root in (PACKAGE / "csrc", PACKAGE.parent / "csrc"):
        if (root / "cpu").is_dir():
            return root
    raise BuildError(f"the kernel sources (csrc) are neither in {PACKAGE} nor beside it")


def sources(name: str) -> list[str]:
    """The .cpp files of a library."""
    return [str(path) for path in sorted((source_root() / LIBRARIES[name]).glob("*.cpp"))]


def source_hash() -> str:
    """Hash of all C++ and CUDA sources and headers, names included."""
    root, digest = source_root(), hashlib.sha256()
    for path in sorted(path for kind in SOURCES for path in root.rglob(kind)):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def flags(isa: str) -> list[str]:
    """Compiler flags for an instruction set."""
    return [*FLAGS, *toolchain.ISAS[isa].flags, f"-DSPARSEQ_ISA_{isa.upper()}"]


def cache_key(isa: str) -> str:
    """Name of the cache folder: everything the compiled bytes depend on."""
    parts = [
        source_hash(),
        *flags(isa),
        torch.__version__,
        toolchain.compiler_version(toolchain.compiler()),
        platform.python_version(),
        isa,
        *sorted(toolchain.cpu_features()),
    ]
    return f"{isa}-{hashlib.sha256('|'.join(parts).encode()).hexdigest()[:20]}"


def cache_root() -> Path:
    """The folder of all builds: `SPARSEQ_CACHE_DIR`, the user's cache, or a private one in /tmp.

    Raises:
        BuildError: none of them can be written.
    """
    asked = os.environ.get("SPARSEQ_CACHE_DIR")
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sparseq"
    shared = Path(tempfile.gettempdir()) / f"sparseq-{getattr(os, 'getuid', int)()}"
    roots = [Path(asked)] if asked else [user, shared]
    reasons = []
    for root in roots:
        reasons.append(_unfit(root))
        if not reasons[-1]:
            return root
    tried = ", ".join(f"{root} {reason}" for root, reason in zip(roots, reasons, strict=True))
    raise BuildError(
        f"no folder to build in: {tried}; set SPARSEQ_CACHE_DIR to a folder that only you can write"
    )


def _unfit(root: Path) -> str:
    """Why root cannot be a folder of ours that nobody else can write; "" if it is, or is now."""
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = root.stat()
    except OSError as error:
        return f"cannot be made ({error.strerror})"
    if hasattr(os, "getuid") and status.st_uid != os.getuid():
        return "belongs to another user"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"can be written by others (chmod go-w {root})"
    return "" if os.access(root, os.W_OK | os.X_OK) else "cannot be written"


def _ahead_of_time(name: str) -> Path | None:
    """The library that came with the installation, if it was made from these sources."""
    try:
        manifest = json.loads((AHEAD / "manifest.json").read_text())
    except (OSError, ValueError):
        return None
    path = AHEAD / (f"cpu_{toolchain.cpu_isa()}.so" if name == "cpu" else f"{name}.so")
    fits = (
        isinstance(manifest, dict)
        and manifest.get("sources") == source_hash()
        and (name != "host" or manifest.get("python") == sys.implementation.cache_tag)
    )
    return path if fits and path.exists() else None


def _cached(name: str, verbose: bool) -> Path:
    isa = toolchain.cpu_isa()
    folder = cache_root() / cache_key(isa)
    if not _whole(folder):
        _build_locked(folder, isa, verbose)
    return folder / f"{name}.so"


def _whole(folder: Path) -> bool:
    """Whether every library is there in its full length: loading a cut one would crash."""
    try:
        sizes = json.loads((folder / SIZES).read_text())
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):  # the last for JSON of another shape
        return False


def _build_locked(folder: Path, isa: str, verbose: bool) -> None:
    """Build into `folder` unless another process did while we waited for the lock."""
    lock = FileLock(f"{folder}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _say(f"another process is building the {isa} kernels; waiting for it")
        lock.acquire()
    try:
        if not _whole(folder):
            shutil.rmtree(folder, ignore_errors=True)
            _build(folder, isa, verbose)
    finally:
        lock.release()


def _build(folder: Path, isa: str, verbose: bool) -> None:
    """Build in a temporary folder, then rename; the caller holds the lock."""
    for left in folder.parent.glob(f"{folder.name}.tmp-*"):  # of a builder that was killed
        shutil.rmtree(left, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(prefix=f"{folder.name}.tmp-", dir=folder.parent))
    try:
        _compile(temporary, isa, verbose)
        sizes = {path.name: path.stat().st_size for path in temporary.glob("*.so")}
        (temporary / SIZES).write_text(json.dumps(sizes))
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _compile(folder: Path, isa: str, verbose: bool = False) -> None:
    """Compile all libraries into `folder`, in a process of its own: nothing gets loaded here."""
    started = time.monotonic()
    _say(f"compiling the {isa} kernels, once for this machine (about half a minute)")
    command = [sys.executable, "-m", "sparseq.ops.build", "--into", str(folder), "--isa", isa]
    command += ["--verbose"] if verbose else []
    environment = toolchain.build_environment()
    python_path = [str(PACKAGE.parent), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, python_path))
    run = subprocess.run(
        command, env=environment, capture_output=not verbose, text=True, check=False
    )
    if run.returncode:
        lines = f"{run.stderr or ''}{run.stdout or ''}".splitlines()
        errors = [line for line in lines if " error: " in line] or lines[-5:]
        shown = ["the kernels do not compile:", *(f"  {line}" for line in errors[:5])]
        raise BuildError("\n".join([*shown, "`sparseq build --verbose` shows everything"]))
    _say(f"compiled in {time.monotonic() - started:.0f} s")


def _compile_here(folder: Path, isa: str, verbose: bool) -> None:
    """The child's part: let torch and ninja compile each library, keep the .so files."""
    import pybind11
    from torch.utils import cpp_extension

    for name in LIBRARIES:
        work = folder / f"{name}.build"
        work.mkdir()
        cpp_extension.load(
            f"sparseq_{name}",
            sources(name),
            extra_cflags=flags(isa),
            extra_include_paths=[pybind11.get_include()],
            build_directory=str(work),
            with_cuda=False,
            is_python_module=False,
            verbose=verbose,
        )
        (work / f"sparseq_{name}.so").rename(folder / f"{name}.so")
        shutil.rmtree(work)


def _build_ahead_of_time() -> None:
    """All instruction sets of this architecture into the package itself."""
    x86 = platform.machine() in ("x86_64", "AMD64")
    shutil.rmtree(AHEAD, ignore_errors=True)
    AHEAD.mkdir()
    for isa in toolchain.ISAS if x86 else ["scalar"]:
        with tempfile.TemporaryDirectory() as folder:
            _compile(Path(folder), isa)
            shutil.move(Path(folder) / "cpu.so", AHEAD / f"cpu_{isa}.so")
            shutil.move(Path(folder) / "host.so", AHEAD / "host.so")
    manifest = {"sources": source_hash(), "python": sys.implementation.cache_tag}
    (AHEAD / "manifest.json").write_text(json.dumps(manifest))


def compile_cuda() -> list[str]:
    """Compile every csrc/cuda/*.cu with nvcc, without linking; returns the files.

    Raises:
        BuildError: there is no nvcc, or a file does not compile.
    """
    nvcc = toolchain.cuda_compiler()
    if nvcc is None:
        raise BuildError("no nvcc: set CUDA_HOME or install nvidia-cuda-nvcc")
    include = Path(torch.__file__).parent / "include"
    files = sorted((source_root() / "cuda").glob("*.cu"))
    for path in files:
        with tempfile.TemporaryDirectory() as folder:
            command = [
                nvcc,
                "-c",
                str(path),
                "-o",
                f"{folder}/out.o",
                "-std=c++20",
                "-O3",
                "-arch=sm_90",
                "-DUSE_CUDA",
                FLAGS[-1],
                f"-I{include}",
            ]
            run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode:
            raise BuildError(f"{path} does not compile:\n{run.stderr}")
    return [str(path) for path in files]


def _say(text: str) -> None:
    print(f"sparseq: {text}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of the builder; `sparseq build` comes here."""
    parser = argparse.ArgumentParser("sparseq build", description="Compile the kernels now.")
    parser.add_argument("--verbose", action="store_true", help="show the compiler's output")
    parser.add_argument("--ahead-of-time", action="store_true", help="build into the package")
    parser.add_argument("--compile-cuda", action="store_true", help="only check csrc/cuda compiles")
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--isa", default="", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.into:
        os.environ.update(toolchain.build_environment())
        _compile_here(options.into, options.isa or toolchain.cpu_isa(), options.verbose)
    elif options.compile_cuda:
        print("\n".join(compile_cuda()) or "no CUDA sources")
    elif options.ahead_of_time:
        _build_ahead_of_time()
    else:
        there = existing("cpu")
        folder = library("cpu", options.verbose).parent
        if options.verbose and there:
            _say("compiled before; `sparseq build` compiles again once this folder is removed")
        print(folder)
