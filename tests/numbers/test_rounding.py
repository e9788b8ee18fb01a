"""16-bit results and gradients are exact sums rounded once, up to the rounding of float32 sums.

The sweep takes SPARSEQ_SWEEP_SECONDS (20) for each dtype, from the seed SPARSEQ_SWEEP_START (0) on.
"""

from __future__ import annotations

import copy
import itertools
import os
import time
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparseq
from sparseq.ops.feature_sum import feature_sum
from tests.numbers.random_layers import KINDS, Case, random_case
from tests.ops.cases import normal

SECONDS = float(os.environ.get("SPARSEQ_SWEEP_SECONDS", "20"))
START = int(os.environ.get("SPARSEQ_SWEEP_START", "0"))
# a training chain rounds between its maps; a normalization's gradients are no plain sums
OTHERS = ("_chain", "_conv_chain", "_norm")
over_16_bits = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)


def doubled(case: Case, absolute: bool = False) -> dict[str, Tensor]:
    """The case in float64; `absolute` with the magnitudes of all numbers."""
    layer, x, dy = copy.deepcopy(case.layer).double(), case.x.double(), case.dy.double()
    if absolute:
        layer = positive_twin(layer)
        x, dy = x.abs(), dy.abs()
    return Case(case.name, layer, x, dy).run()


def positive_twin(layer: Any) -> nn.Module:
    """The real dense layer with the magnitudes of the weights."""
    while hasattr(layer, "to_dense"):
        layer = layer.to_dense()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.abs_()
    return layer


def magnitudes(case: Case) -> dict[str, Any]:
    """Sums of the summands' magnitudes: of each entry of y and dx, or the largest of a parameter.

    A component of a quaternion weight is four entries of the real weight.
    """
    sums = doubled(case, absolute=True)
    largest = 4 * float(sums["weight"].max())
    return {
        "y": sums["y"],
        "x": sums["x"],
        "bias": sums.get("bias"),
        "weight": largest,
        "values": largest,
    }


def half_ulp(exact: Tensor, dtype: torch.dtype) -> Tensor:
    """Half the distance between neighbors in the dtype, near `exact`."""
    info = torch.finfo(dtype)
    exponent = exact.abs().clamp(min=info.smallest_normal).log2().floor()
    return torch.exp2(exponent) * info.eps / 2


def assert_rounded_once(
    got: Tensor, exact: Tensor, magnitude: Any, what: str, more: Any = 0.0
) -> None:
    """`got` is `exact`, plus the errors of a float32 sum of this magnitude, rounded."""
    slack = 128 * 2.0**-24 * magnitude
    excess = (got.double() - exact).abs() - half_ulp(exact.abs() + slack, got.dtype) - slack - more
    worst = float(excess.max()) if excess.numel() else 0.0
    assert worst <= 0, f"{what}: {worst} more than half an ulp"


def second_rounding(case: Case, y: Tensor) -> Any:
    """What adding the bias to rounded results may cost: transposed convolutions do."""
    bias = getattr(case.layer, "bias", None)
    if not getattr(case.layer, "transposed", False) or bias is None:
        return 0.0
    return half_ulp(y.abs() + float(bias.detach().abs().max()), case.x.dtype)


def assert_case_rounded_once(case: Case) -> None:
    exact, size = doubled(case), magnitudes(case)
    results = {**case.run(), "without gradients": case.inference()}
    for name, got in results.items():
        key = "y" if name == "without gradients" else name
        more = second_rounding(case, exact[key]) if key == "y" else 0.0
        assert got.dtype == case.x.dtype
        if torch.isfinite(got).all():  # float16 may overflow
            assert_rounded_once(got, exact[key], size[key], f"{name} of {case.name}", more)


@over_16_bits
def test_random_layers(dtype):
    start = time.monotonic()
    for seed in itertools.count(START):
        if time.monotonic() - start > SECONDS:
            break
        case = random_case(seed, dtype, [kind for kind in KINDS if kind not in OTHERS])
        assert_case_rounded_once(case)


@over_16_bits
@pytest.mark.parametrize("granularity", ["component", "quaternion"])
def test_components_of_a_sparse_quaternion_convolution(dtype, granularity):
    dense = sparseq.QConv2d(8, 12, 3, padding=1)
    mask = torch.rand(dense.weight.shape) < 0.5
    mask = mask[:1].expand(mask.shape) if granularity == "quaternion" else mask
    layer = sparseq.SparseQConv2d.from_dense(dense, mask).to(dtype)
    x = normal(16, 8, 9, 9, dtype=dtype)
    assert_case_rounded_once(Case(str(layer), layer, x, normal(16, 12, 9, 9, dtype=dtype, seed=1)))


@over_16_bits
@pytest.mark.parametrize("shape", [(300, 5, 7), (40, 3, 30, 30), (2000, 17), (1, 9)])
def test_feature_sums(dtype, shape):
    dy = normal(*shape, dtype=dtype)
    others = [d for d in range(len(shape)) if d != 1]
    exact, magnitude = dy.double().sum(others), dy.double().abs().sum(others)
    assert_rounded_once(feature_sum(dy, 1), exact, magnitude, "the sum")


@over_16_bits
def test_bias_of_a_transposed_convolution(dtype):
    layer = sparseq.QConvTranspose2d(8, 8, 3, padding=1).to(dtype)
    x, dy = normal(64, 8, 16, 16, dtype=dtype), normal(64, 8, 16, 16, dtype=dtype, seed=1)
    assert_case_rounded_once(Case(str(layer), layer, x, dy))
