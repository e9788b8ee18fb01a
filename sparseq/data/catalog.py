"""The registry of data sets: what one is, and how a file of this package enters one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sparseq.data.split import Split
from sparseq.registry import Registry


@dataclass(frozen=True)
class Request:
    """Where a reader may look: the root folder (None: not told), and whether it may download."""

    data_dir: Path | None = None
    download: bool = False


Reader = Callable[[Request], tuple[Split, Split]]


@dataclass(frozen=True)
class DataSet:
    """A data set: shape of one example, number of classes, and read(request) -> (train, test).

    `unit`: the batches are not normalized, but lie in 0..1.
    """

    in_shape: tuple[int, ...]
    num_classes: int
    read: Reader
    unit: bool = False


DATASETS: Registry[DataSet] = Registry("data set")


def dataset(
    name: str, in_shape: tuple[int, ...], num_classes: int, unit: bool = False
) -> Callable[[Reader], Reader]:
    """Decorator that enters a reader in DATASETS under `name`."""

    def enter(read: Reader) -> Reader:
        DATASETS.register(name)(DataSet(in_shape, num_classes, read, unit))
        return read

    return enter
