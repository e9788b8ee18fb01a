"""The registry of data sets, and the decorator that adds one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sparseq.data.split import Split
from sparseq.registry import Registry


@dataclass(frozen=True)
class Request:
    """Where a reader looks: the root folder (None: not specified), and if it may download."""

    data_dir: Path | None = None
    download: bool = False


Reader = Callable[[Request], tuple[Split, Split]]


@dataclass(frozen=True)
class DataSet:
    """A registered data set.

    Attributes:
        in_shape: shape of one example.
        num_classes: number of classes.
        read: read(request) -> (train, test).
        unit: whether batches are images in 0..1 instead of normalized ones.
    """

    in_shape: tuple[int, ...]
    num_classes: int
    read: Reader
    unit: bool = False


DATASETS: Registry[DataSet] = Registry("data set")


def dataset(
    name: str, in_shape: tuple[int, ...], num_classes: int, unit: bool = False
) -> Callable[[Reader], Reader]:
    """Decorator that registers a reader in DATASETS as `name`."""

    def register(read: Reader) -> Reader:
        DATASETS.register(name)(DataSet(in_shape, num_classes, read, unit))
        return read

    return register
