"""What each compiled library is made of: sources, compiler, flags, and what it is compiled against.

A library has its own folder in csrc/; csrc/common is everyone's. Nothing else is read when it is
compiled, so that a change in one folder leaves the other libraries as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sparseq.ops.build import toolchain
from sparseq.ops.build.dependencies import DEPENDENCIES
from sparseq.ops.build.toolchain import BuildError

PACKAGE = Path(__file__).resolve().parents[2]
COMMON = "common"
OPTIMIZED = ("-O3", "-std=c++20")
STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020b000000000000"  # torch 2.11, our oldest


@dataclass(frozen=True)
class Library:
    """One compiled library.

    Attributes:
        name: its name, and its file's.
        folder: the folder of csrc/ its sources are in.
        sources: suffix of the files to compile; those right in the folder.
        headers: suffixes of the files they include, anywhere in the folder or in csrc/common.
        compiler: "c++" or "nvcc".
        flags: the compiler's, the same on every machine.
        machine: what it is compiled for beside: the CPU's "isa", the GPU's "arch", or "any".
        depends: keys of DEPENDENCIES; their versions are part of the name of its cache folder.
        companions: libraries that are built with it, since nobody waits for their build.
        optional: whether it is no library at all while its folder has no sources.
    """

    name: str
    folder: str
    sources: str
    headers: tuple[str, ...]
    compiler: Literal["c++", "nvcc"]
    flags: tuple[str, ...]
    machine: Literal["isa", "arch", "any"]
    depends: tuple[str, ...]
    companions: tuple[str, ...] = ()
    optional: bool = False


@dataclass(frozen=True)
class Variant:
    """A library for one kind of machine: an instruction set, a GPU's architecture, or any."""

    library: Library
    machine: str

    @property
    def name(self) -> str:
        """Such as cpu-avx512, cuda-sm_90, host."""
        any_machine = self.library.machine == "any"
        return self.library.name if any_machine else f"{self.library.name}-{self.machine}"

    def flags(self) -> list[str]:
        """The compiler's flags, those for the machine included."""
        flags = list(self.library.flags)
        if self.library.machine == "isa":
            isa = self.machine
            flags += [*toolchain.ISAS[isa].flags, f"-DSPARSEQ_ISA_{isa.upper()}"]
        if self.library.machine == "arch":
            flags.append(f"-arch={self.machine}")
        return flags

    def fingerprint(self) -> str:
        """Hash of sources, headers and flags, and of the Python that can load a module."""
        parts = [source_hash(self.library), *self.flags()]
        if "python" in self.library.depends:
            parts.append(DEPENDENCIES["python"].version())
        return hashlib.sha256("|".join(parts).encode()).hexdigest()


ALL = (
    Library(
        name="cpu",
        folder="cpu",
        sources=".cpp",
        headers=(".h",),
        compiler="c++",
        flags=(
            *OPTIMIZED,
            "-ffp-contract=fast",
            "-fno-math-errno",
            "-fno-trapping-math",
            "-fPIC",
            "-fvisibility=hidden",
            "-Wno-psabi",
            STABLE_ABI,
        ),
        machine="isa",
        depends=("torch",),
        companions=("host",),
    ),
    Library(
        name="host",
        folder="host",
        sources=".cpp",
        headers=(".h",),
        compiler="c++",
        flags=(*OPTIMIZED, "-fPIC", "-fvisibility=hidden"),
        machine="any",
        depends=("pybind11", "python"),
    ),
    Library(
        name="cuda",
        folder="cuda",
        sources=".cu",
        headers=(".cuh", ".h"),
        compiler="nvcc",
        flags=(*OPTIMIZED, "-Xcompiler=-fPIC,-fvisibility=hidden", "-DUSE_CUDA", STABLE_ABI),
        machine="arch",
        depends=("torch_cuda",),
        companions=("host",),
        optional=True,
    ),
)


def libraries() -> Mapping[str, Library]:
    """Name -> library, for those there are: an optional one has at least one source file."""
    return {one.name: one for one in ALL if not one.optional or _has_sources(one)}


def _has_sources(library: Library) -> bool:
    try:
        return bool(files(library))
    except BuildError:
        return False


def variant(library: Library) -> Variant:
    """The library as this machine needs it.

    Raises:
        BuildError: it is for a GPU, and none is visible.
        ValueError: `SPARSEQ_CPU_ISA` names an instruction set that is unknown or missing here.
    """
    machines = {"isa": toolchain.cpu_isa, "arch": toolchain.cuda_arch, "any": lambda: ""}
    return Variant(library, machines[library.machine]())


def source_root() -> Path:
    """The csrc folder: inside an installed package, beside it in a checkout."""
    for root in (PACKAGE / "csrc", PACKAGE.parent / "csrc"):
        if (root / "cpu").is_dir():
            return root
    raise BuildError(f"the kernel sources (csrc) are neither in {PACKAGE} nor beside it")


def files(library: Library) -> list[Path]:
    """The files to compile."""
    return sorted((source_root() / library.folder).glob(f"*{library.sources}"))


def source_hash(library: Library) -> str:
    """Hash of all that is read when the library is compiled, names included."""
    root, digest = source_root(), hashlib.sha256()
    suffixes = (library.sources, *library.headers)
    found = [path for name in (library.folder, COMMON) for path in (root / name).rglob("*")]
    for path in sorted(path for path in found if path.suffix in suffixes):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0")
        digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()
