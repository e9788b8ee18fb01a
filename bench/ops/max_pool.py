"""`max_pool` and its gradient against `F.max_pool2d` on maps of VGG's sizes on CIFAR."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from bench.baselines import agrees
from bench.cases import headline, name_of_map, normal, over_image_batches, over_maps, over_steps
from sparseq.ops.max_pool import max_pool


@headline(size=(64, 32), batch=32)
@headline(size=(512, 4), batch=1, thread_count=1)
@over_maps
@over_image_batches
@over_steps
def test_max_pool(race, size, batch, step):
    channels, height = size
    x = normal(batch, channels, height, height)
    agrees(max_pool(x), F.max_pool2d(x.double(), 2), "max_pool")
    if step == "training":
        x.requires_grad_()
    dy = normal(batch, channels, height // 2, height // 2, seed=1)

    def call(pool):
        if step == "forward":
            return lambda: pool(x)
        return lambda: torch.autograd.grad(pool(x), x, dy)

    if step == "training":
        agrees(call(max_pool)()[0], call(lambda x: F.max_pool2d(x, 2))()[0].double(), "gradient")
    sides = {"sparseq": call(max_pool), "F.max_pool2d": call(lambda x: F.max_pool2d(x, 2))}
    race(
        sides,
        "max_pool",
        suite="max_pool",
        subject="max_pool 2x2",
        case=name_of_map(size),
        step=step,
        batch=batch,
    )
