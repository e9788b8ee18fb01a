"""`load_data`: a data set by name, divided for an experiment."""

from __future__ import annotations

import os
from pathlib import Path

from sparseq.data.catalog import DATASETS, DataSet, Request
from sparseq.data.fake import fake_like
from sparseq.data.split import DataBundle, divide
from sparseq.errors import require
from sparseq.seeds import derived_generator

ENVIRONMENT = "SPARSEQ_DATA"


def load_data(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    seed: int = 0,
    validation: float = 0.1,
    download: bool = False,
) -> DataBundle:
    """Load a data set and set a validation part of its training images aside.

    Args:
        name: a name of DATASETS, or "fake:NAME" for random data of NAME's shape.
        data_dir: root folder in torchvision's layout; without it, the environment variable
            SPARSEQ_DATA. Only read, unless `download`.
        seed: draws the validation part, at random, stratified by class; the test part never
            depends on it.
        validation: fraction of the training images, strictly between 0 and 1.
        download: fetch what is missing into the root folder (through torchvision).

    Returns:
        DataBundle on the CPU, whose batches are normalized float32 images and int64 classes. The
        training part alone is augmented where that is usual for the set.

    Raises:
        ValueError: an unknown name, a fraction out of range, or a damaged file.
        FileNotFoundError: files are missing; says which, and how to get them.
    """
    require(0 < validation < 1, "load_data", "validation", "must lie between 0 and 1", validation)
    source = find_dataset(name)
    train, test = source.read(Request(_root(data_dir), download))
    kept, held_out = divide(train.y, validation, derived_generator("validation split", seed))
    parts = (train.take(kept), train.take(held_out).unchanged(), test.unchanged())
    return DataBundle(*parts, source.in_shape, source.num_classes, name)


def find_dataset(name: str) -> DataSet:
    """The data set of that name ("fake:NAME" included), without reading it."""
    kind, separator, like = name.partition(":")
    return fake_like(DATASETS.get(like)) if separator and kind == "fake" else DATASETS.get(name)


def _root(data_dir: str | os.PathLike[str] | None) -> Path | None:
    place = data_dir if data_dir is not None else os.environ.get(ENVIRONMENT)
    return Path(place).expanduser() if place else None
