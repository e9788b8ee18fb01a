"""ResNet-34 (He et al. 2016), for large images and for small ones."""

from __future__ import annotations

from torch import nn

from sparseq.models.catalog import MODELS, STD_HPARAMS
from sparseq.models.layers import Layers
from sparseq.models.residual import Plan, residual_network, usual_hparams

PLAN = Plan("resnet34", blocks=(3, 4, 6, 3))


@MODELS.register(PLAN.name)
def build_resnet34(
    algebra: str = "real",
    in_shape: tuple[int, ...] = (3, 32, 32),
    num_classes: int = 10,
    seed: int = 0,
    stem: str = "auto",
    graph: str = "",
    degree: int = 3,
) -> nn.Module:
    """Four stages of (3, 4, 6, 3) blocks; see `residual_network`.

    21,797,672 parameters for 224x224 images and 1000 classes.
    """
    return residual_network(PLAN, Layers(algebra, seed, graph, degree), in_shape, num_classes, stem)


STD_HPARAMS.register(PLAN.name)(usual_hparams)
