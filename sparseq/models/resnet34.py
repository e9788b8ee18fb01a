"""ResNet-34: 21,797,672 parameters for 224x224 images and 1000 classes."""

from __future__ import annotations

from sparseq.models.catalog import MODELS, STD_HPARAMS, stepwise_hparams
from sparseq.models.residual import Plan, builder_of

PLAN = Plan("resnet34", blocks=(3, 4, 6, 3))
MODELS.register(PLAN.name)(builder_of(PLAN))
STD_HPARAMS.register(PLAN.name)(stepwise_hparams)
