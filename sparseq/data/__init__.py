"""L3: data sets. A new one is a file here with a reader under `@dataset`, and its import below."""

from sparseq.data import digits, fake, mnist
from sparseq.data.catalog import DATASETS, DataSet, Request, dataset
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
    "derive_seed",
    "derived_generator",
    "digits",
    "fake",
    "mnist",
]
