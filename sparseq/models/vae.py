"""A variational autoencoder of images (Kingma & Welling 2014)."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparseq.errors import require
from sparseq.models.catalog import LOSSES, MODELS, STD_HPARAMS, HParams
from sparseq.models.layers import Layers, check_images
from sparseq.models.perceptron import add_hidden

NAME = "vae"
HIDDEN, LATENT = (2048, 4096), 100
# each of the two strided convolutions halves the image, each transposed one doubles it
SHRINK = 4


class Reconstruction(NamedTuple):
    """The outputs of the autoencoder for a batch of n images.

    Attributes:
        image: (n, c, h, w), the reconstruction, in (0, 1).
        mean, log_variance: (n, 100), of the normal distribution of each image's code.
        original: (n, c, h, w), the input images.
    """

    image: Tensor
    mean: Tensor
    log_variance: Tensor
    original: Tensor


class VAE(nn.Module):
    """Encoder, normal distribution of codes, decoder; see `build_vae`."""

    def __init__(self, layers: Layers, in_shape: tuple[int, ...]) -> None:
        super().__init__()
        channels, height, width = in_shape
        maps = (64, height // SHRINK, width // SHRINK)
        features = maps[0] * maps[1] * maps[2]
        parts: OrderedDict[str, nn.Module] = OrderedDict(
            conv1=layers.conv(channels, 32, 4, 2),
            conv1_relu=nn.ReLU(),
            conv2=layers.conv(32, 64, 4, 2),
            conv2_relu=nn.ReLU(),
            flatten=nn.Flatten(),
        )
        code = add_hidden(parts, layers, features, HIDDEN, bias=False)
        self.encoder = nn.Sequential(parts)
        self.mean = layers.linear(code, LATENT, bias=False)
        self.log_variance = layers.linear(code, LATENT, bias=False)
        parts = OrderedDict()
        code = add_hidden(parts, layers, LATENT, (*reversed(HIDDEN), features), bias=False)
        parts["unflatten"] = nn.Unflatten(1, maps)
        parts["conv1"], parts["conv1_relu"] = layers.conv_transpose(64, 32, 4, 2), nn.ReLU()
        parts["conv2"] = layers.conv_transpose(32, channels, 4, 2)
        parts["sigmoid"] = nn.Sigmoid()
        self.decoder = nn.Sequential(parts)

    def forward(self, x: Tensor) -> Reconstruction:
        """(n, c, h, w) images in 0..1. The code is sampled in training mode, otherwise the mean."""
        hidden = self.encoder(x)
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        code = mean
        if self.training:
            code = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        return Reconstruction(self.decoder(code), mean, log_variance, x)


@LOSSES.register(NAME)
def vae_loss(outputs: Reconstruction, classes: Tensor | None = None) -> Tensor:
    """Negative evidence lower bound: sum over pixels and code, mean over images.

        BCE(image, original) - 1/2 sum (1 + log_variance - mean^2 - exp(log_variance))

    Args:
        outputs: of the autoencoder, for n images.
        classes: (n) int64, ignored; training loops pass them to every loss.

    Returns:
        The scalar loss.

    Raises:
        ValueError: originals outside 0..1.

    Source: Kingma & Welling 2014, "Auto-encoding variational Bayes", equation 10.
    """
    low, high = outputs.original.aminmax() if outputs.original.numel() else (0.0, 1.0)
    require(
        bool(0 <= low <= high <= 1),
        "vae_loss",
        "original",
        "must be images in 0..1, such as those of celeba",
        f"{low:.3g} to {high:.3g}",
    )
    mean, log_variance, count = outputs.mean, outputs.log_variance, max(len(outputs.image), 1)
    difference = F.binary_cross_entropy(outputs.image, outputs.original, reduction="sum")
    divergence = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum()
    return (difference + divergence) / count


@MODELS.register(NAME)
def build_vae(in_shape: tuple[int, ...] = (3, 64, 64), seed: int = 0) -> nn.Module:
    """Codes of 100 numbers for images of 3x64x64: 85,183,619 parameters. Real only.

    Encoder: 32 and 64 4x4 convolutions of stride 2, 16384-2048-4096, then 100 means and 100 log
    variances. Decoder: 100-4096-2048-16384, 32 and 3 transposed 4x4 convolutions of stride 2, a
    sigmoid. The fully connected layers have no biases. The loss is `vae_loss`.
    """
    check_images(NAME, in_shape, SHRINK)
    divisible = in_shape[1] % SHRINK == in_shape[2] % SHRINK == 0
    rule = f"must have a height and width divisible by {SHRINK}"
    require(divisible, NAME, "in_shape", rule, tuple(in_shape))
    return VAE(Layers("real", seed), tuple(in_shape))


@STD_HPARAMS.register(NAME)
def std_hparams() -> HParams:
    """Adam 1e-3, batches of 128, 100 epochs."""
    return HParams(epochs=100, batch_size=128, optimizer="adam", lr=1e-3)
