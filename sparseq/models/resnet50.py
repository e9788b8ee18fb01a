"""ResNet-50 (He et al. 2016), for large images and for small ones."""

from __future__ import annotations

from torch import nn

from sparseq.models.catalog import MODELS, STD_HPARAMS, HParams
from sparseq.models.layers import Layers
from sparseq.models.residual import Plan, residual_network

PLAN = Plan("resnet50", blocks=(3, 4, 6, 3), expansion=4)


@MODELS.register(PLAN.name)
def build_resnet50(
    algebra: str = "real",
    in_shape: tuple[int, ...] = (3, 32, 32),
    num_classes: int = 10,
    seed: int = 0,
    stem: str = "auto",
    graph: str = "",
    degree: int = 3,
) -> nn.Module:
    """Four stages of bottlenecks, (3, 4, 6, 3) blocks; see `residual_network`.

    25,557,032 parameters for 224x224 images and 1000 classes.
    """
    return residual_network(PLAN, Layers(algebra, seed, graph, degree), in_shape, num_classes, stem)


@STD_HPARAMS.register(PLAN.name)
def std_hparams() -> HParams:
    """SGD 0.1, momentum 0.9, weight decay 1e-4, batches of 512, 45 epochs."""
    return HParams(
        epochs=45, batch_size=512, optimizer="sgd", lr=0.1, momentum=0.9, weight_decay=1e-4
    )
