import math

import pytest
import torch
import torch.nn.functional as F

import sparseq
from sparseq.models import build
from sparseq.models.vae import Reconstruction, vae_loss


def small():
    return build("vae", in_shape=(1, 8, 8))


def test_outputs_are_images_and_the_distribution_of_the_codes():
    model, x = small(), torch.rand(3, 1, 8, 8)
    outputs = model(x)
    assert outputs.image.shape == x.shape
    assert outputs.mean.shape == outputs.log_variance.shape == (3, 100)
    assert outputs.original is x
    assert 0 < outputs.image.min() < outputs.image.max() < 1
    vae_loss(outputs).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_codes_are_sampled_in_training_mode_only():
    model, x = small(), torch.rand(2, 1, 8, 8)
    assert not torch.equal(model(x).image, model(x).image)
    model.eval()
    assert torch.equal(model(x).image, model(x).image)


def test_layers_have_the_documented_shapes():
    with torch.device("meta"):
        model = build("vae")
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters() if p.dim() > 1}
    assert shapes == {
        "encoder.conv1.weight": (32, 3, 4, 4),
        "encoder.conv2.weight": (64, 32, 4, 4),
        "encoder.fc1.weight": (2048, 16384),
        "encoder.fc2.weight": (4096, 2048),
        "mean.weight": (100, 4096),
        "log_variance.weight": (100, 4096),
        "decoder.fc1.weight": (4096, 100),
        "decoder.fc2.weight": (2048, 4096),
        "decoder.fc3.weight": (16384, 2048),
        "decoder.conv1.weight": (64, 32, 4, 4),
        "decoder.conv2.weight": (32, 3, 4, 4),
    }


def test_loss_is_cross_entropy_and_divergence_of_normal_distributions():
    generator = torch.Generator().manual_seed(0)
    image, original = torch.rand(2, 4, 1, 3, 3, generator=generator, dtype=torch.float64)
    mean, log_variance = torch.randn(2, 4, 5, generator=generator, dtype=torch.float64)
    got = vae_loss(Reconstruction(image, mean, log_variance, original), torch.zeros(4))
    code = torch.distributions.Normal(mean, (log_variance / 2).exp())
    divergence = torch.distributions.kl_divergence(code, torch.distributions.Normal(0.0, 1.0))
    entropy = F.binary_cross_entropy(image, original, reduction="none")
    expected = entropy.sum((1, 2, 3)) + divergence.sum(1)
    torch.testing.assert_close(got, expected.mean())
    perfect = torch.full((1, 1, 2, 2), 0.5)
    zero = torch.zeros(1, 5)
    assert vae_loss(Reconstruction(perfect, zero, zero, perfect)).item() == pytest.approx(
        4 * math.log(2)
    )


def test_learns_to_reconstruct_an_image():
    model, x = small(), torch.rand(4, 1, 8, 8)
    optimizer = torch.optim.Adam(model.parameters(), 1e-4)
    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        losses.append(vae_loss(model(x)))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0]


def test_a_pruned_and_compressed_model_survives_a_file(tmp_path):
    model, x = small().eval(), torch.rand(2, 1, 8, 8)
    mask = sparseq.prune(model, density=0.05)
    mask.apply_(model)
    with pytest.warns(UserWarning, match="weight of 2 ConvTranspose2d"):
        compressed = sparseq.compress(model, mask, policy="sparse")
    torch.testing.assert_close(compressed(x).image, model(x).image, rtol=1e-4, atol=1e-5)
    sparseq.save(compressed, tmp_path / "m.sparseq")
    loaded = sparseq.load(tmp_path / "m.sparseq")
    assert torch.equal(loaded(x).image, compressed(x).image)


@pytest.mark.parametrize("in_shape", [(3, 6, 8), (3, 2, 2), (12,)])
def test_sizes_not_divisible_by_four_are_rejected(in_shape):
    with pytest.raises(ValueError, match="vae: in_shape must"):
        build("vae", in_shape=in_shape)
