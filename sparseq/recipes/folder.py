"""The folder of a run: it belongs to one configuration and to one process at a time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sparseq.files import write_atomically

CONFIG, LOCK = "config.json", ".lock"


class RunFolder(AbstractContextManager["RunFolder"]):
    """Opens `path` for the run with that identity, and holds it until closed.

    A new or empty folder is taken; one that holds the same identity is gone on with.

    Raises:
        FileExistsError: the folder holds another run, or files that are no run, or is in use by
            another process; nothing in it is touched.
    """

    def __init__(self, path: str | Path, identity: Mapping[str, Any]) -> None:
        self.path, self.identity = Path(path), dict(identity)
        self._check()
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.path / LOCK)
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise FileExistsError(f"{self.path} is in use by another process") from error
        self._check()
        if not (self.path / CONFIG).exists():
            self.write_json(CONFIG, self.identity)

    def __exit__(self, *exception: object) -> None:
        self._lock.release()

    def __truediv__(self, name: str) -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _check(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise FileExistsError(f"{self.path} is a file; choose another --out")
        names = {p.name for p in self.path.glob("*") if not p.name.startswith(".")}
        if names and CONFIG not in names:
            raise FileExistsError(f"{self.path} holds files that are no run; choose another --out")
        if names:
            self._check_config(read_json(self.path / CONFIG))

    def _check_config(self, other: Mapping[str, Any]) -> None:
        keys = [key for key in {**other, **self.identity}
                if other.get(key) != self.identity.get(key)]
        if keys:
            changes = ", ".join(f"{k} {other.get(k)} there, {self.identity.get(k)} here"
                                for k in keys)
            raise FileExistsError(f"{self.path} holds another run ({changes}); "
                                  "choose another --out")

    def write_json(self, name: str, value: Any) -> None:
        """Replace a JSON file of the run, all or nothing."""
        text = json.dumps(value, indent=1)
        write_atomically(self / name, text.encode(), overwrite=True)


def read_json(path: Path) -> Any:
    """A JSON file; ValueError naming the file if it is damaged."""
    try:
        return json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
