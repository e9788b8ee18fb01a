"""Where compiled libraries are kept, what their folders are called, and whether they are whole.

A folder is named by the hash of all that its library is made of. It appears by renaming, and its
manifest holds the hash of each file, so that one which was cut or damaged is never loaded.
Folders that cannot be written serve too: only building needs one that can.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from sparseq.ops.build import toolchain
from sparseq.ops.build.dependencies import DEPENDENCIES
from sparseq.ops.build.sources import PACKAGE, Variant
from sparseq.ops.build.toolchain import BuildError

AHEAD = PACKAGE / "_lib"  # libraries that came with the installation
MANIFEST = "manifest.json"


def find(variant: Variant) -> Path | None:
    """The compiled library of a variant if it is there and whole: nothing is built or written."""
    installed = AHEAD / f"{variant.name}.so"
    if is_whole(installed, made_of=variant.fingerprint()):
        return installed
    for root in filter(_can_be_trusted, _roots()):
        for folder in _folders(root, variant):
            if is_whole(folder / f"{variant.library.name}.so"):
                return folder / f"{variant.library.name}.so"
    return None


def key(variant: Variant) -> str:
    """Name of a variant's folder: all that the compiled bytes depend on, the compiler last.

    Raises:
        BuildError: there is no compiler, or csrc is missing.
    """
    return f"{_key_without_compiler(variant)}-{_hash(_compilers(variant))[:8]}"


def _key_without_compiler(variant: Variant) -> str:
    versions = [DEPENDENCIES[name].version() for name in variant.library.depends]
    return f"{variant.name}-{_hash([variant.fingerprint(), *versions])[:16]}"


def _compilers(variant: Variant) -> list[str]:
    """Versions of the compilers at work: nvcc calls the C++ compiler."""
    versions = [toolchain.version_text(toolchain.compiler())]
    if variant.library.compiler == "nvcc":
        versions.append(toolchain.version_text(toolchain.required_cuda_compiler()))
    return versions


def _folders(root: Path, variant: Variant) -> Iterable[Path]:
    """Where the variant may be: without a compiler here, what any other one has made will do."""
    try:
        return [root / key(variant)]
    except BuildError:
        return sorted(p for p in root.glob(f"{_key_without_compiler(variant)}-*") if p.is_dir())


def _hash(parts: Iterable[str]) -> str:
    return hashlib.sha256("|".join(parts).encode()).hexdigest()


def _roots() -> list[Path]:
    asked = os.environ.get("SPARSEQ_CACHE_DIR")
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sparseq"
    shared = Path(tempfile.gettempdir()) / f"sparseq-{getattr(os, 'getuid', int)()}"
    return [Path(asked)] if asked else [user, shared]


def cache_root() -> Path:
    """The folder to build in: `SPARSEQ_CACHE_DIR`, the user's cache, or a private one in /tmp.

    Raises:
        BuildError: none of them can be written.
    """
    reasons = []
    for root in _roots():
        reasons.append(_unfit(root))
        if not reasons[-1]:
            return root
    tried = ", ".join(f"{root} {reason}" for root, reason in zip(_roots(), reasons, strict=True))
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


def _can_be_trusted(root: Path) -> bool:
    """Whether only this user or the system's owner, as in an image, can have put files there."""
    try:
        status = root.stat()
    except OSError:
        return False
    owners = (os.getuid(), 0) if hasattr(os, "getuid") else (status.st_uid,)
    return status.st_uid in owners and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def is_whole(path: Path, made_of: str | None = None) -> bool:
    """Whether a library is the file that was built, and was built from what `made_of` is."""
    try:
        entry = json.loads((path.parent / MANIFEST).read_text())[path.name]
        return made_of in (None, entry["made_of"]) and entry["sha256"] == _file_hash(path)
    except (OSError, ValueError, KeyError, TypeError):  # the last two for JSON of another shape
        return False


def write_manifest(folder: Path, made_of: dict[str, str]) -> None:
    """Describe the files of a folder: name -> what it was built from."""
    entries = {
        name: {"made_of": value, "sha256": _file_hash(folder / name)}
        for name, value in made_of.items()
    }
    (folder / MANIFEST).write_text(json.dumps(entries, indent=1))


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def locked(folders: Iterable[Path], when_waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the locks of the folders; two who want the same ones wait in the same order."""
    with ExitStack() as stack:
        for folder in sorted(folders):
            lock = FileLock(f"{folder}.lock")
            try:
                stack.enter_context(lock.acquire(timeout=0))
            except Timeout:
                when_waiting()
                stack.enter_context(lock.acquire())
        yield


@contextmanager
def replacing(folder: Path, variant: Variant) -> Iterator[Path]:
    """A temporary folder that becomes `folder` at the end; the caller holds the lock.

    Only where the block ends well: else nothing changes. What a killed builder left is removed.
    """
    for left in folder.parent.glob(f"{folder.name}.tmp-*"):
        shutil.rmtree(left, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(prefix=f"{folder.name}.tmp-", dir=folder.parent))
    try:
        yield temporary
        write_manifest(temporary, {f"{variant.library.name}.so": variant.fingerprint()})
        temporary.chmod(0o755)  # who else may read it is the root's matter, as in an image
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
