"""L3: models. A new one is a file here with a registered builder, and its import below."""

from sparseq.models import (
    cnn_small,
    conv_2,
    conv_4,
    conv_6,
    lenet5_caffe,
    lenet_12,
    lenet_300_100,
    mlp_50_30,
    resnet18,
    resnet20,
    resnet34,
    resnet50,
    resnet101,
    resnet152,
    vae,
    vgg16bn,
)
from sparseq.models.catalog import MODELS, STD_HPARAMS, Builder, HParams
from sparseq.models.factory import algebras_of, build, classifies, restore, std_hparams
from sparseq.models.layers import ALGEBRAS, Layers

__all__ = [
    "MODELS",
    "STD_HPARAMS",
    "ALGEBRAS",
    "Builder",
    "HParams",
    "Layers",
    "algebras_of",
    "build",
    "classifies",
    "restore",
    "std_hparams",
    "cnn_small",
    "conv_2",
    "conv_4",
    "conv_6",
    "lenet5_caffe",
    "lenet_12",
    "lenet_300_100",
    "mlp_50_30",
    "resnet18",
    "resnet20",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "vae",
    "vgg16bn",
]
