"""L3: small files without pickle: the container, its encodings, and the models and masks in it."""

from sparseq.files.contents import describe_file
from sparseq.files.model_file import load, save

__all__ = ["describe_file", "load", "save"]
