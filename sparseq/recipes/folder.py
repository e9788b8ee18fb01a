"""The folder of a run: used by one configuration only, and by one process at a time."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sparseq.errors import argument_error
from sparseq.files.atomic import write_atomically

CONFIG, LOCK = "config.json", ".lock"


class RunFolder(AbstractContextManager["RunFolder"]):
    """Opens and locks `path` for the run with that identity.

    The folder must be new, empty, or that of the same run, which is then resumed. A run that fails
    before it has written any file leaves no trace.

    Args:
        path: the folder; created if necessary.
        identity: JSON values that determine the run, see `Experiment.identity`.

    Raises:
        FileExistsError: the folder contains another run or other files, or is in use by another
            process; nothing in it is changed.
        ValueError: the folder's config is damaged.
    """

    def __init__(self, path: str | Path, identity: Mapping[str, Any]) -> None:
        self.path, self.identity = Path(path), dict(identity)
        self._check()
        self._created = [p for p in (self.path, *self.path.parents) if not p.exists()]
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
        """Remove the folder unless it has files beyond those of every new run."""
        files = {path for path in self.path.rglob("*") if not path.is_dir()}
        if not files <= {self.path / CONFIG, self.path / LOCK}:
            return
        with contextlib.suppress(OSError):  # keeps what another run has written meanwhile
            for file in files:
                file.unlink()
            for folder in [*sorted(self.path.rglob("*"), reverse=True), *self._created]:
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
            raise FileExistsError(
                f"{self.path} contains files that are not a run; choose another --out"
            )
        if names:
            self._check_config(read_object(self.path / CONFIG, "run folder"))

    def _check_config(self, other: Mapping[str, Any]) -> None:
        keys = [
            key for key in {**other, **self.identity} if other.get(key) != self.identity.get(key)
        ]
        if "recipe" in keys:  # then the other fields differ anyway
            keys = ["recipe"]
        if keys:
            changes = ", ".join(f"{k} is {other.get(k)}, not {self.identity.get(k)}" for k in keys)
            raise FileExistsError(
                f"{self.path} contains another run ({changes}); choose another --out"
            )

    def write_json(self, name: str, value: Any) -> None:
        """Write or replace a JSON file of the run, atomically."""
        text = json.dumps(value, indent=1)
        write_atomically(self / name, text.encode(), overwrite=True)


def read_json(path: Path) -> Any:
    """The value of a JSON file; ValueError, naming the file, if it is damaged."""
    try:
        return json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def read_object(path: Path, op: str) -> dict[str, Any]:
    """The object of a JSON file; ValueError, naming the file, if it is damaged or no object."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise argument_error(op, str(path), "must be a JSON object", type(value).__name__)
    return value


@contextlib.contextmanager
def resuming(path: Path, consequence: str) -> Iterator[None]:
    """Turns errors of reading a run's files into a ValueError that names the file to delete."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) else error
        raise ValueError(
            f"the run cannot be resumed ({reason}); delete {path}, so that {consequence}, "
            "or choose another --out"
        ) from error
