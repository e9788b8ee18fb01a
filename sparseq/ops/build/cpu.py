"""The class of this machine's CPU: what a measured choice of kernels depends on.

Two CPUs of one class have the same vector width and the same caches nearest to the core, so a
threshold measured on one holds on the other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from sparseq.ops.build import toolchain

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
VECTOR_BYTES = {"scalar": 8, "avx2": 32, "avx512": 64}
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


@dataclass(frozen=True)
class CpuClass:
    """What tells one class of CPUs from another.

    Attributes:
        isa: the instruction set that the kernels use, a key of `toolchain.ISAS`.
        vector_bytes: width of its vectors.
        l1d: bytes of a core's first data cache; None where the system does not say.
        l2: bytes of a core's second cache, or None.
    """

    isa: str
    vector_bytes: int
    l1d: int | None
    l2: int | None

    @property
    def name(self) -> str:
        """A stable name such as "avx512-l1d48k-l2-2m"; an unknown size is a question mark."""
        return f"{self.isa}-l1d{_short(self.l1d)}-l2-{_short(self.l2)}"


def cpu_class(caches: Path = CACHES) -> CpuClass:
    """The class of this machine's CPU, with the instruction set that the kernels use.

    Args:
        caches: the folder in which Linux describes the caches of one core, as index0, index1, ...

    Raises:
        ValueError: `SPARSEQ_CPU_ISA` names an instruction set that is unknown or missing here.
    """
    isa = toolchain.cpu_isa()
    return CpuClass(isa, VECTOR_BYTES[isa], cache_bytes(1, caches), cache_bytes(2, caches))


def cache_bytes(level: int, caches: Path = CACHES) -> int | None:
    """Bytes of a core's data cache of a level; None where the system does not say."""
    for folder in sorted(caches.glob("index*")):
        if _read(folder / "level") != str(level) or _read(folder / "type") == "Instruction":
            continue
        size = re.fullmatch(r"(\d+)([KMG]?)", _read(folder / "size"))
        if size:
            return int(size[1]) * _UNITS[size[2]]
    return None


def _read(path: Path) -> str:
    """The text of a small file; "" where it cannot be read."""
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return ""


def _short(size: int | None) -> str:
    """Bytes in the largest unit that divides them: 48k, 2m; ? for an unknown size."""
    if size is None:
        return "?"
    for unit in ("m", "k"):
        if size % _UNITS[unit.upper()] == 0:
            return f"{size // _UNITS[unit.upper()]}{unit}"
    return str(size)
