"""Access to torchvision's data sets: opened in place or downloaded; errors for missing files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from sparseq.data.catalog import Request

T = TypeVar("T")


def download_hint(location: str, root: Path | None) -> str:
    """How to get a data set whose files belong in `location`, a path with FOLDER as the root."""
    into = f" into {root}" if root else ""
    return (
        "specify the folder that contains it (--data-dir, data_dir= or the environment variable "
        f"SPARSEQ_DATA; the files belong in {location}) or download it{into} "
        "(--download, download=True)"
    )


def root_of(request: Request, name: str, location: str) -> Path:
    """The request's root folder; FileNotFoundError, naming the data set, if it has none."""
    if request.data_dir is None:
        raise FileNotFoundError(f"{name} needs a data folder: {download_hint(location, None)}")
    return request.data_dir


def torchvision_set(name: str, folder: str, files: Sequence[str], request: Request) -> Any:
    """Opens one of torchvision's data sets, whose files torchvision checks by their hashes.

    Args:
        name: name of torchvision's class.
        folder: folder of its files, relative to the root; "" for the root itself.
        files: all files that must be in that folder.
        request: the root folder, and whether to download missing files.

    Returns:
        open_part(**arguments of the class except root and download) -> the data set; raises
        FileNotFoundError for files that are missing or could not be downloaded, and ValueError
        for damaged files.

    Raises:
        FileNotFoundError: the request has no root folder.
    """
    from torchvision import datasets  # slow to import

    location = f"FOLDER/{folder}" if folder else "FOLDER"
    root, dataset_class = root_of(request, name, location), getattr(datasets, name)

    def open_part(**arguments: Any) -> Any:
        missing = [file for file in files if not (root / folder / file).exists()]
        if missing and request.download:
            return downloaded(name, root, lambda: dataset_class(root, download=True, **arguments))
        if missing:
            problem = f"{name}: {root / folder} has no {', '.join(missing)}; "
            raise FileNotFoundError(problem + download_hint(location, root))
        try:
            return dataset_class(root, download=False, **arguments)
        except RuntimeError as error:
            raise ValueError(
                f"{name}: files in {root / folder} are damaged or not the expected ones ({error}); "
                "remove them and download them again"
            ) from error

    return open_part


def downloaded(name: str, root: Path, fetch: Callable[[], T]) -> T:
    """The result of the download `fetch`; FileNotFoundError, naming the data set, if it fails."""
    try:
        return fetch()
    except (RuntimeError, OSError) as error:
        raise FileNotFoundError(f"{name} could not be downloaded into {root}: {error}") from error
