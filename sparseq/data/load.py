"""`load_data`: a data set by name, split for an experiment."""

from __future__ import annotations

import os
from pathlib import Path

from sparseq.data.catalog import DATASETS, DataSet, Request
from sparseq.data.fake import fake_like
from sparseq.data.split import DataBundle, stratified_split
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
    """Load a data set and split off a validation part of its training images.

    Args:
        name: a name of DATASETS, or "fake:NAME" for random data of NAME's shape.
        data_dir: root folder in torchvision's layout; by default the environment variable
            SPARSEQ_DATA. Written only with `download`.
        seed: of the validation part, which is random and stratified by class; the test part does
            not depend on it.
        validation: fraction of the training images, strictly between 0 and 1.
        download: download missing files into the root folder (with torchvision).

    Returns:
        DataBundle on the CPU; its batches are normalized float32 images and int64 classes. Only
        the training part is augmented, if that is usual for the data set.

    Raises:
        ValueError: an unknown name, a fraction out of range, or a damaged file.
        FileNotFoundError: missing files; the message names them and how to get them.
    """
    require(0 < validation < 1, "load_data", "validation", "must lie between 0 and 1", validation)
    source = find_dataset(name)
    train, test = source.read(Request(_root(data_dir), download))
    generator = derived_generator("validation split", seed)
    kept, held_out = stratified_split(train.y, validation, generator)
    parts = (train.take(kept), train.take(held_out).unaugmented(), test.unaugmented())
    return DataBundle(*parts, source.in_shape, source.num_classes, name)


def find_dataset(name: str) -> DataSet:
    """The data set of that name ("fake:NAME" included), without reading it."""
    prefix, separator, original = name.partition(":")
    if separator and prefix == "fake":
        return fake_like(DATASETS.get(original))
    return DATASETS.get(name)


def _root(data_dir: str | os.PathLike[str] | None) -> Path | None:
    root = data_dir if data_dir is not None else os.environ.get(ENVIRONMENT)
    return Path(root).expanduser() if root else None
