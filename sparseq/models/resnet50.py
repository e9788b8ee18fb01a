"""ResNet-50: 25,557,032 parameters for 224x224 images and 1000 classes."""

from __future__ import annotations

from sparseq.models.catalog import MODELS, STD_HPARAMS, HParams
from sparseq.models.residual import Plan, builder_of

PLAN = Plan("resnet50", blocks=(3, 4, 6, 3), expansion=4)
MODELS.register(PLAN.name)(builder_of(PLAN))


@STD_HPARAMS.register(PLAN.name)
def std_hparams() -> HParams:
    """SGD 0.1, momentum 0.9, weight decay 1e-4, batches of 512, 45 epochs."""
    return HParams(
        epochs=45, batch_size=512, optimizer="sgd", lr=0.1, momentum=0.9, weight_decay=1e-4
    )
