"""L3: models. A new one is a file here with a registered builder, and its import below."""

from sparseq.models import lenet_12, lenet_300_100
from sparseq.models.catalog import MODELS, STD_HPARAMS, Builder, HParams
from sparseq.models.factory import build, std_hparams
from sparseq.models.perceptron import ALGEBRAS

__all__ = [
    "MODELS",
    "STD_HPARAMS",
    "ALGEBRAS",
    "Builder",
    "HParams",
    "build",
    "std_hparams",
    "lenet_12",
    "lenet_300_100",
]
