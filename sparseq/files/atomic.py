"""Files that are written completely or not at all, and leftovers of processes that were killed."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # no POSIX system: leftovers stay
    fcntl = None  # type: ignore[assignment]

NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EXDEV, errno.EMLINK)


def write_atomically(path: str | os.PathLike[str], data: bytes, overwrite: bool = False) -> None:
    """Write a file completely or not at all, and durably.

    The bytes are written to a temporary file `.<name>.<8 digits>.tmp` in the same folder and
    flushed to disk; the file then gets its final name in one step, and the folder is flushed too.
    The temporary file is locked meanwhile: one that is not, left by a process that was killed, is
    removed first.

    Args:
        path: the file; its folder must exist.
        data: the complete content.
        overwrite: replace an existing file; otherwise even a file created in the meantime is kept.

    Raises:
        FileExistsError: the file exists and `overwrite` is False.
        FileNotFoundError: the folder does not exist.
        OSError: naming the file: no space, no permission, ...; the old file is unchanged.
    """
    target = Path(os.path.realpath(path))
    refuse_existing(target, overwrite)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"cannot write {target}: the folder {target.parent} does not exist")
    with naming(target):
        _remove_leftovers(target)
        with _temporary(target) as file:
            _write_durably(file, data)
            _publish(Path(file.name), target, overwrite)
        _flush_folder(target.parent)


def refuse_existing(path: Path, overwrite: bool) -> None:
    """FileExistsError if a file exists that must not be replaced."""
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; pass overwrite=True to replace it")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Names the file in errors of the system that name none, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextmanager
def _temporary(target: Path) -> Iterator[BinaryIO]:
    """A new locked file beside the target; its name is gone after the block."""
    with _new_locked(target) as file:
        try:
            yield file
        finally:
            Path(file.name).unlink(missing_ok=True)


def _new_locked(target: Path) -> BinaryIO:
    while True:
        path = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
        file = open(path, "xb")  # noqa: SIM115  (closed by the caller)
        with contextlib.suppress(OSError):  # a file system without locks
            _lock(file, wait=True)
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()  # taken for a leftover before it was locked


def _remove_leftovers(target: Path) -> None:
    """Remove the temporary files of this target that no process holds."""
    name = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{8}}\.tmp")
    for entry in filter(name.fullmatch, os.listdir(target.parent)):
        leftover = target.with_name(entry)
        with contextlib.suppress(OSError), open(leftover, "rb") as file:
            _lock(file, wait=False)
            leftover.unlink()


def _lock(file: BinaryIO, wait: bool) -> None:
    """Lock a file until it is closed; OSError if that is not possible."""
    if fcntl is None:
        raise OSError(errno.ENOSYS, "no locks")
    fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def _write_durably(file: BinaryIO, data: bytes) -> None:
    file.write(data)
    file.flush()
    os.fsync(file.fileno())


def _publish(temporary: Path, target: Path, overwrite: bool) -> None:
    """Give the file its final name; a hard link, unlike a rename, refuses an existing one."""
    if not overwrite:
        try:
            os.link(temporary, target)
            return
        except FileExistsError:
            refuse_existing(target, overwrite)
        except OSError as error:
            if error.errno not in NO_HARD_LINKS:
                raise
            refuse_existing(target, overwrite)
    os.replace(temporary, target)


def _flush_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
