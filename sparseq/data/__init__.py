"""Data sets. To add one, put a reader under `@dataset` in a new file here and import it below."""

from sparseq.data import celeba, cifar, digits, fake, mnist, svhn, tiny_imagenet
from sparseq.data.catalog import DATASETS, DataSet, Request, dataset
from sparseq.data.load import find_dataset, load_data
from sparseq.data.split import Batches, DataBundle, Split
from sparseq.data.transforms import CropFlip, Normalize
from sparseq.seeds import derive_seed, derived_generator

__all__ = [
    "DATASETS",
    "DataSet",
    "Request",
    "dataset",
    "load_data",
    "find_dataset",
    "DataBundle",
    "Split",
    "Batches",
    "Normalize",
    "CropFlip",
    "derive_seed",
    "derived_generator",
    "celeba",
    "cifar",
    "digits",
    "fake",
    "mnist",
    "svhn",
    "tiny_imagenet",
]
