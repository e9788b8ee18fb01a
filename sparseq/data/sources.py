"""Where data sets come from: torchvision's, opened in place or downloaded, and what is missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from sparseq.data.catalog import Request

T = TypeVar("T")


def remedy(place: str, root: Path | None) -> str:
    """How to get a data set whose files belong in `place`, a path below the root."""
    into = f" into {root}" if root else ""
    return (
        "name the folder that holds it (--data-dir, data_dir= or the environment variable "
        f"SPARSEQ_DATA; the files belong in {place}), or have it downloaded{into} "
        "(--download, download=True)"
    )


def root_of(request: Request, name: str, place: str) -> Path:
    """The request's root folder; FileNotFoundError naming the data set if there is none."""
    if request.data_dir is None:
        raise FileNotFoundError(f"{name} needs a data folder: {remedy(place, None)}")
    return request.data_dir


def torchvision_set(name: str, folder: str, files: Sequence[str], request: Request) -> Any:
    """Opens parts of one of torchvision's data sets, which are checked by their hashes.

    Args:
        name: torchvision's class.
        folder: where its files lie, below the root; "" for the root itself.
        files: all that must be in that folder.
        request: where to look, and whether to download what is missing.

    Returns:
        open_part(**arguments of the class but root and download) -> the data set.

    Raises:
        FileNotFoundError: files are missing, or could not be downloaded.
        ValueError: (also of open_part) files are damaged.
    """
    from torchvision import datasets  # slow to import, and only needed here

    place = f"FOLDER/{folder}" if folder else "FOLDER"
    root, kind = root_of(request, name, place), getattr(datasets, name)

    def open_part(**part: Any) -> Any:
        absent = [file for file in files if not (root / folder / file).exists()]
        if absent and request.download:
            return fetched(name, root, lambda: kind(root, download=True, **part))
        if absent:
            found = f"{name}: {root / folder} has no {', '.join(absent)}; "
            raise FileNotFoundError(found + remedy(place, root))
        try:
            return kind(root, download=False, **part)
        except RuntimeError as error:
            raise ValueError(
                f"{name}: files in {root / folder} are damaged or others ({error}); remove them "
                "and get them again"
            ) from error

    return open_part


def fetched(name: str, root: Path, fetch: Callable[[], T]) -> T:
    """What `fetch` downloads into the root; FileNotFoundError naming the set if it cannot."""
    try:
        return fetch()
    except (RuntimeError, OSError) as error:
        raise FileNotFoundError(f"{name} could not be downloaded into {root}: {error}") from error
