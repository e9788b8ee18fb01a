"""select: exact counts, order, ties, scopes, `within`, quaternions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseq.pruning import Mask
from sparseq.pruning.select import kth_largest, select

LEVELS = st.sampled_from([0.0, -0.0, 1.0, 1.0000001, 2.5, 1e-30, 3e38, float("inf")])
SHAPES = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 6)), min_size=1, max_size=4)
DENSITIES = st.floats(0.001, 1.0)
bounded = settings(max_examples=60, deadline=None)


@st.composite
def score_sets(draw, values=LEVELS, dtype=torch.float32):
    """Scores full of ties."""
    scores = {}
    for index, shape in enumerate(draw(SHAPES)):
        count = shape[0] * shape[1]
        entries = draw(st.lists(values, min_size=count, max_size=count))
        scores[f"{index}.weight"] = torch.tensor(entries, dtype=dtype).reshape(shape)
    return scores


def wanted(density, total):
    return max(round(density * total), 1)


def flat(tensors):
    return torch.cat([tensor.flatten() for tensor in tensors.values()])


def by_sorting(scores, count):
    """Reference: the same selection by a stable sort."""
    order = torch.sort(flat(scores).double(), descending=True, stable=True).indices
    keep = torch.zeros(order.numel(), dtype=torch.bool)
    keep[order[:count]] = True
    return keep


@bounded
@given(scores=score_sets(), density=DENSITIES)
def test_global_is_what_a_stable_sort_keeps(scores, density):
    mask = select(scores, density)
    count = wanted(density, mask.total)
    assert mask.kept == count
    assert torch.equal(flat(mask), by_sorting(scores, count))


@bounded
@given(scores=score_sets(), density=DENSITIES)
def test_layerwise_is_global_for_each_layer(scores, density):
    mask = select(scores, density, scope="layerwise")
    for name, score in scores.items():
        assert torch.equal(mask[name], select({name: score}, density)[name])


@bounded
@given(scores=score_sets(), first=DENSITIES, second=DENSITIES)
def test_lower_densities_are_nested(scores, first, second):
    high, low = max(first, second), min(first, second)
    outer = select(scores, high)
    assert (select(scores, low) & outer) == select(scores, low)
    other = {name: -score.clamp(max=9) for name, score in scores.items()}
    inner = select(other, low, within=outer)
    assert inner.kept == wanted(low, outer.total)
    assert (inner & outer) == inner


quaternion_scores = st.fixed_dictionaries(
    {
        "q": st.lists(st.integers(0, 5), min_size=24, max_size=24),
        "r": st.lists(st.integers(0, 5), min_size=0, max_size=9),
    }
)


def quaternions_and_singles(drawn):
    scores = {"q": torch.tensor(drawn["q"], dtype=torch.float32).reshape(4, 2, 3)}
    return {**scores, "r": torch.tensor(drawn["r"], dtype=torch.float32)}


@bounded
@given(drawn=quaternion_scores, density=DENSITIES)
def test_quaternions_are_kept_together_and_the_count_is_exact(drawn, density):
    scores = quaternions_and_singles(drawn)
    mask = select(scores, density, quaternions={"q"})
    keep = mask["q"]
    assert bool((keep == keep[:1]).all())
    singles = scores["r"].numel()
    assert abs(mask.kept - wanted(density, mask.total)) <= (0 if singles >= 3 else 2)
    norms = scores["q"].double().square().sum(0)
    if keep[0].any() and not keep[0].all():
        assert norms[keep[0]].min() >= norms[~keep[0]].max()


@bounded
@given(drawn=quaternion_scores, density=DENSITIES)
def test_a_layer_of_quaternions_is_exact_in_quaternions(drawn, density):
    scores = quaternions_and_singles(drawn)
    mask = select({"q": scores["q"]}, density, quaternions={"q"})
    assert mask.kept == 4 * wanted(density, 6)


def test_quaternions_compare_with_single_weights_by_root_mean_square():
    quaternion = torch.tensor([3.0, 3.0, 3.0, 3.0]).reshape(4, 1, 1)
    smaller = {"q": quaternion, "r": torch.full((8,), 2.9)}
    assert bool(select(smaller, 4 / 12, quaternions={"q"})["q"].all())
    larger = {"q": quaternion, "r": torch.full((8,), 3.1)}
    assert not bool(select(larger, 4 / 12, quaternions={"q"})["q"].any())


def test_norms_of_huge_and_tiny_scores_neither_overflow_nor_vanish():
    scores = torch.stack([torch.tensor([[1e30, 2e30, 1e-30, 2e-30]])] * 4)
    keep = select({"q": scores}, 0.25, quaternions={"q"})["q"][0]
    assert keep.tolist() == [[False, True, False, False]]
    keep = select({"q": scores}, 0.75, quaternions={"q"})["q"][0]
    assert keep.tolist() == [[True, True, False, True]]


def test_millions_of_weights_are_exact_with_float32_ties():
    generator = torch.Generator().manual_seed(0)
    # 1000 levels one unit in the last place apart: every threshold has thousands of ties
    steps = torch.randint(0, 1000, (3_000_000,), generator=generator, dtype=torch.int32)
    scores = {
        "a": (steps[:1_000_000] + 0x3F800000).view(torch.float32).reshape(1000, 1000),
        "b": (steps[1_000_000:] + 0x3F800000).view(torch.float32),
    }
    mask = select(scores, 0.123456)
    assert mask.kept == round(0.123456 * 3_000_000)
    assert torch.equal(flat(mask), by_sorting(scores, mask.kept))


@pytest.mark.parametrize("order", ["rising", "falling", "equal"])
def test_ordered_scores_are_selected_in_linear_time(order):
    # a quadratic selection would take hours for these
    values = torch.arange(3_000_000, dtype=torch.float32)
    values = {"rising": values, "falling": values.flip(0), "equal": values * 0}[order]
    mask = select({"a": values}, 0.1)
    assert mask.kept == 300_000
    first = {"rising": 2_700_000, "falling": 0, "equal": 0}[order]
    assert mask["a"][first : first + 300_000].all()


def test_dtypes_mix_without_rounding():
    scores = {
        "double": torch.tensor([1.0 + 1e-12, 1.0], dtype=torch.float64),
        "single": torch.tensor([1.0, 2.0]),
        "half": torch.tensor([0.5, 3.0], dtype=torch.bfloat16),
        "integer": torch.tensor([2**24 + 1, 0], dtype=torch.int64),
    }
    mask = select(scores, 4 / 8)
    kept = {name: keep.tolist() for name, keep in mask.items()}
    assert kept == {
        "double": [True, False],
        "single": [False, True],
        "half": [False, True],
        "integer": [True, False],
    }


def test_a_mapping_sets_the_density_of_each_layer():
    scores = {name: torch.rand(10, 10) for name in "abc"}
    mask = select(scores, 0.5, scope={"a": 0.07, "b": 0.0})
    assert [int(keep.sum()) for keep in mask.values()] == [7, 0, 50]


def test_something_is_always_kept():
    assert select({"a": torch.rand(100)}, 1e-6).kept == 1
    layers = {name: torch.rand(5) for name in "ab"}
    assert select(layers, 1e-6, scope="layerwise").kept == 2
    assert select({"q": torch.rand(4, 2, 2)}, 1e-6, quaternions={"q"}).kept == 4


def test_empty_parameters_are_supported():
    scores = {"empty": torch.rand(0, 3), "a": torch.rand(4)}
    assert select(scores, 0.5).kept == 2
    assert select(scores, 0.5, scope="layerwise").kept == 2


def test_within_may_be_partial_and_nan_outside_it_is_ignored():
    scores = {"a": torch.tensor([float("nan"), 1.0, 2.0]), "b": torch.tensor([3.0, 4.0, 5.0])}
    within = Mask({"a": torch.tensor([False, True, True])})
    mask = select(scores, 0.5, within=within)
    assert mask["a"].tolist() == [False, False, False]
    assert select(scores, 5 / 6, within=within)["a"].tolist() == [False, True, True]


def test_nan_scores_are_rejected_by_name():
    scores = {"good": torch.rand(3), "bad.weight": torch.tensor([1.0, float("nan")])}
    with pytest.raises(ValueError, match=r"'bad.weight' must not be NaN"):
        select(scores, 0.5)


def test_a_mask_too_small_for_the_density_is_rejected():
    scores = {"a": torch.rand(10), "b": torch.rand(10)}
    within = select(scores, 0.3)
    with pytest.raises(ValueError, match=r"at most what `within` keeps, 6 of 20 in all 2 layers"):
        select(scores, 0.4, within=within)
    with pytest.raises(ValueError, match=r"of 10 in a"):
        select(scores, 1.0, scope="layerwise", within=within)


@pytest.mark.parametrize("density", [0, -0.1, 1.1, float("nan"), float("inf")])
def test_densities_out_of_range_are_rejected(density):
    with pytest.raises(ValueError, match=r"density must lie in \(0, 1\]"):
        select({"a": torch.rand(3)}, density)
    if density != 0:
        with pytest.raises(ValueError, match=r"density of 'a' must lie in \[0, 1\]"):
            select({"a": torch.rand(3)}, 0.5, scope={"a": density})


def test_other_bad_input_is_rejected():
    scores = {"a": torch.rand(3), "b": torch.rand(3)}
    with pytest.raises(ValueError, match="at least one parameter"):
        select({}, 0.5)
    with pytest.raises(ValueError, match=r"unknown scope 'local'.*global, layerwise"):
        select(scores, 0.5, scope="local")
    with pytest.raises(ValueError, match=r"'c'; choose one of: a, b"):
        select(scores, 0.5, scope={"c": 0.5})
    with pytest.raises(ValueError, match=r"within\['a'\] must be a bool tensor of shape \(3,\)"):
        select(scores, 0.5, within={"a": torch.ones(4, dtype=torch.bool)})
    with pytest.raises(ValueError, match=r"'a' must have shape \(4, ...\)"):
        select(scores, 0.5, quaternions={"a"})
    with pytest.raises(ValueError, match=r"k must lie in 1..3"):
        kth_largest(torch.rand(3), 4)


def test_scores_are_not_changed():
    scores = {"q": torch.rand(4, 3, 2), "r": torch.rand(5, dtype=torch.float64)}
    before = {name: score.clone() for name, score in scores.items()}
    select(scores, 0.5, quaternions={"q"})
    assert all(torch.equal(scores[name], before[name]) for name in scores)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_same_mask_on_cuda():
    scores = {"a": torch.randint(0, 50, (300, 40)).float(), "q": torch.rand(4, 20, 30)}
    moved = {name: score.cuda() for name, score in scores.items()}
    mask = select(moved, 0.2, quaternions={"q"})
    assert mask["a"].is_cuda
    assert mask == select(scores, 0.2, quaternions={"q"})
