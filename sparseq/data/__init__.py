"""L3: data sets. A new one is a file here with a reader under `@dataset`, and its import below."""

from sparseq.data import celeba, cifar, digits, fake, mnist, svhn, tiny_imagenet
from sparseq.data.catalog import DATASETS, DataSet, Request, dataset
from sparseq.data.images import CropFlip, Normalize
from sparseq.data.load import find_dataset, load_data
from sparseq.data.split import Batches, DataBundle, Split
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
