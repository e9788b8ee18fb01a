"""The grid of sizes, batches and densities, and seeded operands for a point of it.

`pytest --benchmark` runs the cases that a `headline` mark of their test describes, and
`--benchmark-full` the whole grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparseq.formats import CSRPattern

SIZES = [(784, 300), (1024, 1024), (2048, 2048)]  # inputs k, outputs m
BATCHES = [1, 16, 64, 512]
MAPS = [(64, 32), (128, 16), (256, 8), (512, 4)]  # channels, height of VGG's maps on CIFAR
IMAGE_BATCHES = [1, 32]
DENSITIES = [0.2, 0.1, 0.05, 0.02]
PASSES = {"forward": 1, "training": 3}  # products in a step: y, and the gradients of x and weight


def headline(**parameters: Any) -> pytest.MarkDecorator:
    """Marks a test's cases that have these parameters; a list means any of its values.

    Parameters left out may have any value. A case is in the headline set when one mark fits.
    """
    return pytest.mark.headline(**parameters)


def fits(mark: Mapping[str, Any], parameters: Mapping[str, Any]) -> bool:
    """Whether a case is one that a `headline` mark describes.

    Raises:
        ValueError: the mark names a parameter that the test has not.
    """
    unknown = mark.keys() - parameters.keys()
    if unknown:
        raise ValueError(f"headline: no parameter {sorted(unknown)}, only {sorted(parameters)}")
    return all(
        parameters[name] in (value if isinstance(value, list) else [value])
        for name, value in mark.items()
    )


def _over(name: str, values: Sequence[object], label: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(name, values, ids=[label.format(value) for value in values])


over_sizes = _over("size", SIZES, "{0[0]}x{0[1]}")
over_batches = _over("batch", BATCHES, "batch-{}")
over_densities = _over("density", DENSITIES, "density-{}")
over_steps = pytest.mark.parametrize("step", list(PASSES))
# the operators alone: the layers, which are what is called, cover the whole grid
over_large_sizes = _over("size", SIZES[1:], "{0[0]}x{0[1]}")
over_maps = _over("size", MAPS, "{0[0]}ch-{0[1]}x{0[1]}")
over_image_batches = _over("batch", IMAGE_BATCHES, "batch-{}")
over_few_batches = _over("batch", [16, 512], "batch-{}")
over_few_densities = _over("density", [0.1, 0.02], "density-{}")


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal fp32 of that shape."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random_mask(rows: int, columns: int, density: float, seed: int = 0) -> Tensor:
    """(rows, columns) bool with exactly round(density * rows * columns) entries kept."""
    order = torch.randperm(rows * columns, generator=torch.Generator().manual_seed(seed))
    mask = torch.zeros(rows * columns, dtype=torch.bool)
    mask[order[: round(density * rows * columns)]] = True
    return mask.view(rows, columns)


def random_pattern(rows: int, columns: int, density: float) -> CSRPattern:
    """Pattern of `random_mask`."""
    return CSRPattern.from_mask(random_mask(rows, columns, density))


def useful_flop(kept: int, examples: int, step: str = "forward") -> int:
    """Multiplications and additions that a layer needs for one call.

    Args:
        kept: nonzeros of the real weight; a quaternion product counts as its 16 real ones.
        examples: batch, times the output positions of a convolution.
        step: "training" has the gradients of x and weight too, a product each.
    """
    return 2 * kept * examples * PASSES[step]


def useful_flop_of(model: nn.Module, x: Tensor, step: str = "forward") -> int:
    """The same of a network in real layers, of which the first needs no gradient of x.

    Args:
        model: the dense twin, zeros where weights are dropped.
        x: the batch it is called with.
        step: "forward" or "training".
    """
    layers: list[int] = []

    def count(module: nn.Module, _: Any, y: Tensor) -> None:
        weight: Any = module.weight
        layers.append(useful_flop(int(weight.count_nonzero()), y.numel() // weight.shape[0]))

    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    handles = [
        module.register_forward_hook(count)
        for module in model.modules()
        if isinstance(module, kinds)
    ]
    training = model.training
    with torch.no_grad():
        model.eval()(x[:1])
    model.train(training)
    for handle in handles:
        handle.remove()
    spared = layers[0] if step == "training" else 0
    return len(x) * (PASSES[step] * sum(layers) - spared)


def name_of(size: tuple[int, int]) -> str:
    """784x300: inputs x outputs."""
    return f"{size[0]}x{size[1]}"


def name_of_map(size: tuple[int, int]) -> str:
    """64ch 32x32: channels, height and width."""
    return f"{size[0]}ch {size[1]}x{size[1]}"
