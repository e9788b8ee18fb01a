"""The folder of a run: it belongs to one configuration and to one process at a time."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sparseq.errors import require
from sparseq.files.model_file import write_atomically

CONFIG, LOCK = "config.json", ".lock"


class RunFolder(AbstractContextManager["RunFolder"]):
    """Opens `path` for the run with that identity, and holds it until closed.

    A new or empty folder is taken; one that holds the same identity is gone on with. A start that
    fails before it has written anything leaves the disk as it was.

    Raises:
        FileExistsError: the folder holds another run, or files that are no run, or is in use by
            another process; nothing in it is touched.
        ValueError: the folder's config is damaged.
    """

    def __init__(self, path: str | Path, identity: Mapping[str, Any]) -> None:
        self.path, self.identity = Path(path), dict(identity)
        self._check()
        self._made = [p for p in (self.path, *self.path.parents) if not p.exists()]
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
        if any(exception):
            self._clear()
        self._lock.release()

    def _clear(self) -> None:
        """Take back what the start of a run made, if that is all there is."""
        files = {path for path in self.path.rglob("*") if not path.is_dir()}
        if not files <= {self.path / CONFIG, self.path / LOCK}:
            return
        with contextlib.suppress(OSError):  # what another run has put there by now stays
            for file in files:
                file.unlink()
            for folder in [*sorted(self.path.rglob("*"), reverse=True), *self._made]:
                folder.rmdir()

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
            self._check_config(read_object(self.path / CONFIG, "run folder"))

    def _check_config(self, other: Mapping[str, Any]) -> None:
        keys = [
            key for key in {**other, **self.identity} if other.get(key) != self.identity.get(key)
        ]
        if "recipe" in keys:  # then the other fields say nothing
            keys = ["recipe"]
        if keys:
            changes = ", ".join(
                f"{k} {other.get(k)} there, {self.identity.get(k)} here" for k in keys
            )
            raise FileExistsError(
                f"{self.path} holds another run ({changes}); choose another --out"
            )

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


def read_object(path: Path, op: str) -> dict[str, Any]:
    """A JSON file that holds an object; ValueError naming the file otherwise."""
    found = read_json(path)
    require(isinstance(found, dict), op, str(path), "must hold a JSON object", type(found).__name__)
    return found


@contextlib.contextmanager
def damage_named(path: Path, then: str) -> Iterator[None]:
    """Errors in reading what a run left are a ValueError that says what to delete."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) else error
        raise ValueError(
            f"the run cannot go on ({reason}); delete {path}, and {then}, or start in another --out"
        ) from error
