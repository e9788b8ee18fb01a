"""Is `compress(example=x)` right here? Networks as it chooses them, against all other choices.

A ratio below 1 against any side is a wrong choice, if it is more than noise. `compress_s` is the
time that `compress` itself takes, with nothing remembered.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from functools import lru_cache, partial

import pytest
import torch
import torchvision
from torch import nn

from bench.baselines import agrees, inference
from bench.cases import headline, normal
from sparseq.compression.sparsify import compress
from sparseq.models import build
from sparseq.pruning import prune


def vit() -> nn.Module:
    """A vision transformer of four blocks with 256 features, on 145 tokens."""
    sizes = {"image_size": 96, "patch_size": 8, "num_layers": 4, "num_heads": 4}
    return torchvision.models.VisionTransformer(**sizes, hidden_dim=256, mlp_dim=1024)


def encoder() -> nn.Module:
    """An encoder layer, which torch computes by one fused kernel as long as it is dense."""
    return nn.TransformerEncoderLayer(512, 8, 2048, batch_first=True)


# name -> builder, shape of the example, fraction kept
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], float]] = {
    "cnn_small": (partial(build, "cnn_small"), (256, 3, 32, 32), 0.09),
    "mobilenet_v2": (torchvision.models.mobilenet_v2, (4, 3, 96, 96), 0.05),
    "mobilenet_v3_small": (torchvision.models.mobilenet_v3_small, (1, 3, 224, 224), 0.1),
    "resnet18": (torchvision.models.resnet18, (1, 3, 224, 224), 0.1),
    "vit of 4 blocks": (vit, (1, 3, 96, 96), 0.1),
    "encoder layer": (encoder, (8, 128, 512), 0.1),
}


@lru_cache(2)
def pruned(name: str, scope: str) -> nn.Module:
    """A seeded network with its pruned weights 0, for inference."""
    make, _, density = NETWORKS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make().eval()
    prune(model, density=density, scope=scope).apply_(model)
    return model


# what pruning leaves out, and which layers it empties, is no matter here
@pytest.mark.filterwarnings("ignore:(prune|compress)\\b:UserWarning")
@headline(scope="layerwise", thread_count=1)
@pytest.mark.parametrize("scope", ["layerwise", "global"])
@pytest.mark.parametrize("name", NETWORKS)
def test_choice(race, name, scope):
    model, (_, shape, density) = pruned(name, scope), NETWORKS[name]
    x = normal(*shape)
    start = time.perf_counter()
    small = compress(model, example=x, remember=False)
    seconds = time.perf_counter() - start
    with torch.no_grad():
        agrees(small(x), copy.deepcopy(model).double()(x.double()), name)
    others = {"all sparse": compress(model, policy="sparse"), "by tables": compress(model)}
    sides = {"sparseq": small, "dense": model, **others}
    race(
        {side: inference(network, x) for side, network in sides.items()},
        "sparse_conv",
        suite="choice",
        subject=name,
        case=scope,
        converted=f"{len(small.compression.taken)} of {len(small.compression.verdicts)}",
        step="forward",
        batch=shape[0],
        density=density,
        compress_s=round(seconds, 2),
    )
