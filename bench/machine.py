"""What a row says about the machine: its name, the software and the commit.

The name holds what decides a kernel's speed: vendor and brand, family and model, instruction sets
and the measured peak of one thread, as in `amd-epyc-family-26-model-2-avx512-253gflops`. A peak
within 15 % of that of a folder already there counts as the same machine, so noise makes no new one.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import torch

from bench.peak import peak_gflops
from sparseq.ops.build import toolchain

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
CPUINFO = Path("/proc/cpuinfo")
SAME_PEAK = 0.15
AMX = {"amx_tile", "amx_bf16"}
UNTOLD = re.compile(r"\((r|tm)\)|\b(processor|cpu)\b", re.I)


def commit() -> str:
    """Short hash of the checkout, with `+` where tracked files differ from it."""
    command = ["git", "describe", "--always", "--abbrev=10", "--dirty=+", "--exclude=*"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def cpu_fields() -> dict[str, str]:
    """What Linux says of the first core; empty elsewhere."""
    if not CPUINFO.exists():
        return {}
    first = CPUINFO.read_text().split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def cpu_name(fields: Mapping[str, str], model: str, isa: str, amx: bool) -> str:
    """`intel-xeon-family-6-model-207-avx512-amx`: all of a machine's name but the peak."""
    brand = UNTOLD.sub(" ", model).split()[:2]
    numbers = [
        word
        for name, key in (("family", "cpu family"), ("model", "model"))
        if key in fields
        for word in (name, fields[key])
    ]
    words = [*brand, *numbers, isa, *(["amx"] if amx else [])]
    return re.sub(r"[^a-z0-9]+", "-", " ".join(words).lower()).strip("-")


def with_peak(name: str, peak: float | None, known: Iterable[str]) -> str:
    """The name with its peak: that of the nearest known machine within 15 %, else the measured."""
    if peak is None:
        return name
    pattern = re.compile(rf"{re.escape(name)}-(\d+)gflops")
    peaks = [int(match[1]) for match in map(pattern.fullmatch, known) if match]
    nearest = min(peaks, key=lambda one: abs(one - peak), default=None)
    if nearest is None or abs(nearest - peak) > SAME_PEAK * nearest:
        nearest = round(peak)
    return f"{name}-{nearest}gflops"


@cache
def machine(results: Path = RESULTS) -> dict[str, Any]:
    """The columns of a row that name machine, software and commit.

    Args:
        results: the folder with one folder per machine, looked through for this one.
    """
    features = toolchain.cpu_features()
    name = cpu_name(
        cpu_fields(), toolchain.cpu_model(), toolchain.supported_isas()[-1], features >= AMX
    )
    known = {path.name for folder in (RESULTS, results) for path in folder.glob("*-*gflops")}
    return {
        "machine": with_peak(name, peak_gflops(1), known),
        "cpu": toolchain.cpu_model(),
        "cores": os.cpu_count() or 1,
        "isa": toolchain.cpu_isa(),
        "torch": torch.__version__,
        "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(),
    }
