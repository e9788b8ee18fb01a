"""ResNet-18: 11,689,512 parameters for 224x224 images and 1000 classes."""

from __future__ import annotations

from sparseq.models.catalog import MODELS, STD_HPARAMS, stepwise_hparams
from sparseq.models.residual import Plan, builder_of

PLAN = Plan("resnet18", blocks=(2, 2, 2, 2))
MODELS.register(PLAN.name)(builder_of(PLAN))
STD_HPARAMS.register(PLAN.name)(stepwise_hparams)
