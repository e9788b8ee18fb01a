"""What policy "measured" has timed on this machine, in a file beside the compiled kernels.

A file serves one machine: its name is the hash of CPU, kernels, torch and the backends at work. A
row is a piece of work and its forms' milliseconds. Several processes may use it: each merges its
rows into the file that it finds, under a lock, and replaces it in one step. A file that is damaged
counts as empty, and a folder that cannot be written as absent.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from sparseq._version import __version__
from sparseq.files.container import write_atomically
from sparseq.ops._backend import activate
from sparseq.ops.build import LIBRARIES, BuildError
from sparseq.ops.build.cache import cache_root
from sparseq.ops.build.cpu import cpu_class
from sparseq.ops.build.sources import variant
from sparseq.ops.build.toolchain import cpu_model

FOLDER, MOST_ROWS, LOCK_SECONDS = "timings", 10_000, 2.0
Row = dict[str, float]  # name of a form -> milliseconds


class Remembered:
    """Rows of a file, read at once and written by `save`; without a path it is only a dict.

    Attributes:
        path: the file, or None.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._rows = {} if path is None else read_rows(path)
        self._new: dict[str, Row] = {}

    def get(self, key: Any) -> Row | None:
        """The row of a key of JSON values."""
        return self._rows.get(_hash(key))

    def put(self, key: Any, row: Mapping[str, float]) -> None:
        """Keep a row, until `save` in memory only."""
        self._rows[_hash(key)] = self._new[_hash(key)] = dict(row)

    def save(self) -> None:
        """Merge the new rows into the file; nothing happens where it cannot be written."""
        if self.path is None or not self._new:
            return
        with contextlib.suppress(OSError, Timeout):
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with FileLock(f"{self.path}.lock", timeout=LOCK_SECONDS):
                rows = [*{**read_rows(self.path), **self._new}.items()][-MOST_ROWS:]
                text = json.dumps(dict(rows), indent=0)
                write_atomically(self.path, text.encode(), overwrite=True)
            self._new.clear()


def remembered(device: torch.device) -> Remembered:
    """The rows of this machine and device, with the backends that now serve it."""
    try:
        root = cache_root()
    except BuildError:
        return Remembered(None)
    return Remembered(root / FOLDER / f"{_hash(machine_key(device))[:16]}.json")


def machine_key(device: torch.device) -> list[Any]:
    """All that a time depends on beside the work and the number of threads, as JSON values."""
    is_cuda = device.type == "cuda"
    try:
        kernels = variant(LIBRARIES[device.type]).fingerprint()
    except (KeyError, BuildError):  # the plain-torch kernels serve
        kernels = ""
    return [
        torch.cuda.get_device_name(device) if is_cuda else cpu_model(),
        cpu_class().name,
        torch.__version__,
        __version__,
        kernels,
        sorted(activate(device.type).items()),
    ]


def read_rows(path: Path) -> dict[str, Row]:
    """The rows of a file; none if it is missing or damaged."""
    try:
        rows = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return rows if isinstance(rows, dict) and all(map(_is_row, rows.values())) else {}


def _is_row(row: Any) -> bool:
    """Whether a value is {form: milliseconds}."""
    if not isinstance(row, dict) or not row:
        return False
    return all(isinstance(ms, float) and 0 <= ms < math.inf for ms in row.values())


def _hash(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
