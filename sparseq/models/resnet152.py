"""ResNet-152: 60,192,808 parameters for 224x224 images and 1000 classes."""

from __future__ import annotations

from sparseq.models.catalog import MODELS, STD_HPARAMS, stepwise_hparams
from sparseq.models.residual import Plan, builder_of

PLAN = Plan("resnet152", blocks=(3, 8, 36, 3), expansion=4)
MODELS.register(PLAN.name)(builder_of(PLAN))
STD_HPARAMS.register(PLAN.name)(stepwise_hparams)
