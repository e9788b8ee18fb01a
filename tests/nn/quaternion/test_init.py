from __future__ import annotations

import math

import pytest
import torch

from sparseq.nn.quaternion.init import INITS, draw_quaternions, quaternion_init_, quaternion_scale

FAN_OUT, FAN_IN = 256, 400


def expected_scale(init: str, fan_in: int, fan_out: int) -> float:
    return {
        "he": 1 / math.sqrt(2 * fan_in),
        "glorot": 1 / math.sqrt(2 * (fan_in + fan_out)),
        "htorch": 1 / math.sqrt(8 * fan_in),
    }[init]


def drawn(init: str, seed: int = 0, shape=(4, FAN_OUT, FAN_IN), **options) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return quaternion_init_(torch.empty(shape), init, generator=generator, **options)


@pytest.mark.parametrize("init", INITS)
def test_component_variances(init):
    s = expected_scale(init, FAN_IN, FAN_OUT)
    variance = drawn(init).flatten(1).var(dim=1) / s**2
    expected = torch.tensor([2, 2 / 3, 2 / 3, 2 / 3])
    torch.testing.assert_close(variance, expected, rtol=0.03, atol=0)


@pytest.mark.parametrize("init", INITS)
def test_modulus_is_chi_of_four_degrees(init):
    s = expected_scale(init, FAN_IN, FAN_OUT)
    modulus = drawn(init).norm(dim=0) / s
    mean = math.sqrt(2) * math.gamma(2.5) / math.gamma(2)
    assert modulus.mean().item() == pytest.approx(mean, rel=0.01)
    assert modulus.square().mean().item() == pytest.approx(4, rel=0.02)


@pytest.mark.parametrize("init", INITS)
def test_components_are_uncorrelated_and_centered(init):
    parts = drawn(init).flatten(1)
    correlation = torch.corrcoef(parts) - torch.eye(4)
    assert correlation.abs().max() < 0.02
    assert (parts.mean(dim=1) / parts.std(dim=1)).abs().max() < 0.02


def test_the_kernel_area_counts_in_both_fans():
    scale = expected_scale("glorot", 16 * 9, 32 * 9)
    weight = drawn("glorot", shape=(4, 32, 16, 3, 3))
    assert weight[0].var().item() == pytest.approx(2 * scale**2, rel=0.1)


def test_passed_fans_override_the_shape():
    torch.testing.assert_close(drawn("he", fan_in=FAN_IN * 4), drawn("he") / 2)


def test_same_seed_same_weight():
    assert torch.equal(drawn("he", seed=3), drawn("he", seed=3))
    assert not torch.equal(drawn("he", seed=3), drawn("he", seed=4))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_precisions(dtype):
    weight = quaternion_init_(torch.empty(4, 64, 64, dtype=dtype))
    assert weight.dtype == dtype
    assert weight.float()[0].var().item() == pytest.approx(2 / 128, rel=0.1)
    assert draw_quaternions((3,), weight, None).dtype == torch.promote_types(dtype, torch.float32)


def test_half_precision_is_the_rounded_single():
    half = quaternion_init_(
        torch.empty(4, 8, 8, dtype=torch.float16), generator=torch.Generator().manual_seed(0)
    )
    single = quaternion_init_(torch.empty(4, 8, 8), generator=torch.Generator().manual_seed(0))
    assert torch.equal(half, single.half())


def test_parameters_that_require_gradients_are_filled_in_place():
    weight = torch.nn.Parameter(torch.zeros(4, 2, 3))
    assert quaternion_init_(weight) is weight
    assert weight.requires_grad
    assert weight.grad_fn is None
    assert weight.abs().min() > 0


def test_meta_and_empty_weights():
    assert quaternion_init_(torch.empty(4, 2, 3, device="meta")).is_meta
    assert quaternion_init_(torch.empty(4, 2, 0)).numel() == 0
    assert quaternion_scale("he", 0, 0) == 1


def test_an_unknown_init_lists_the_available_ones():
    with pytest.raises(ValueError, match=r"unknown quaternion init 'xavier'.*he, glorot, htorch"):
        quaternion_init_(torch.empty(4, 2, 2), "xavier")


@pytest.mark.parametrize(
    "weight", [torch.empty(3, 2, 2), torch.empty(4, 2), torch.empty(4, 2, 2, dtype=torch.int32)]
)
def test_other_tensors_than_quaternion_weights_are_refused(weight):
    with pytest.raises(ValueError, match="quaternion_init_: weight must be floating point"):
        quaternion_init_(weight)
