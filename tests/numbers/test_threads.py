"""Layers, their gradients and inference have the same bits on any number of threads.

The sweep takes SPARSEQ_SWEEP_SECONDS (25), from the seed SPARSEQ_SWEEP_START (0) on.
"""

from __future__ import annotations

import itertools
import os
import time

import pytest
import torch
from torch import Tensor, nn

import sparseq
from sparseq.ops._backend import activate
from sparseq.ops.feature_sum import feature_sum
from tests.numbers.random_layers import Case, random_case
from tests.ops.cases import normal

SECONDS = float(os.environ.get("SPARSEQ_SWEEP_SECONDS", "25"))
START = int(os.environ.get("SPARSEQ_SWEEP_START", "0"))
# whose bits once were those of torch's convolution, which depend on the threads
KNOWN_SEEDS = (48, 161, 202, 222, 228, 287, 408, 492, 643, 723, 785, 1001)


@pytest.fixture(autouse=True)
def only_compiled():
    if set(activate("cpu").values()) != {"compiled"}:
        pytest.skip("plain torch serves, whose sums may differ")


def results(case: Case, threads: int) -> dict[str, Tensor]:
    """All that a layer computes from one state."""
    state = {name: tensor.clone() for name, tensor in case.layer.state_dict().items()}
    torch.set_num_threads(threads)
    found = {**case.run(), "without gradients": case.inference()}
    case.layer.load_state_dict(state)
    return found


def assert_same_bits(case: Case) -> None:
    one = results(case, 1)
    for threads in (2, 3, 4):
        more = results(case, threads)
        differ = [name for name in one if not torch.equal(one[name], more[name])]
        assert not differ, f"{differ} on {threads} threads, {case.name}"


@pytest.mark.parametrize("seed", KNOWN_SEEDS)
def test_known_cases(seed):
    assert_same_bits(random_case(seed))


def test_random_layers():
    start = time.monotonic()
    for seed in itertools.count(START):
        if time.monotonic() - start > SECONDS:
            break
        assert_same_bits(random_case(seed))


def case_of(layer: nn.Module, *shape: int) -> Case:
    x = normal(*shape, dtype=torch.float32)
    return Case(str(layer), layer, x, torch.randn_like(layer(x)))


def test_bias_of_a_sparse_convolution_and_an_odd_batch():
    dense = nn.Conv3d(3, 5, 3, padding=1)
    layer = sparseq.SparseConv3d.from_dense(dense, torch.rand(dense.weight.shape) < 0.3)
    assert_same_bits(case_of(layer, 257, 3, 5, 6, 3))


def test_one_position_of_a_grouped_quaternion_convolution():
    assert_same_bits(case_of(sparseq.QConv1d(32, 32, 1, groups=4), 1, 32, 1))


@pytest.mark.parametrize("batch", [1, 2, 5, 33])
def test_quaternion_convolutions_that_torch_computes(batch):
    layer = sparseq.QConv2d(12, 20, 3, stride=2, padding=1)
    assert_same_bits(case_of(layer, batch, 12, 61, 67))


@pytest.mark.parametrize("shape", [(257, 5, 90), (4099, 1), (3000, 37), (1, 3, 70000)])
def test_feature_sums(shape):
    dy, found = normal(*shape, dtype=torch.float32), []
    for threads in (1, 2, 3, 4):
        torch.set_num_threads(threads)
        found.append(feature_sum(dy, 1))
    assert all(torch.equal(found[0], other) for other in found)
