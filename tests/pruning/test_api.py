"""prune: criterion and selection in one call."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from sparseq.nn.quaternion.linear import QLinear
from sparseq.pruning import CRITERIA, Mask, prune


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(QLinear(16, 20), nn.ReLU(), nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 5))


@pytest.mark.parametrize("criterion", ["magnitude", "random"])
@pytest.mark.parametrize("granularity", ["component", "quaternion"])
@pytest.mark.parametrize("density", [0.013, 0.1, 0.5, 0.777, 1.0])
@pytest.mark.filterwarnings("ignore:prune. keeps no weight")
def test_keeps_exactly_the_requested_density(criterion, granularity, density):
    mask = prune(network(), criterion, density=density, granularity=granularity)
    assert mask.total == 80 + 600 + 150
    assert mask.kept == round(density * mask.total)


def test_does_not_change_the_model():
    model = network().train()
    model(torch.randn(2, 16)).sum().backward()
    before = copy.deepcopy(model)
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    random = torch.get_rng_state()
    prune(model, "random", density=0.2)
    assert torch.equal(torch.get_rng_state(), random)
    assert list(model.state_dict()) == list(before.state_dict())
    triples = zip(model.parameters(), before.parameters(), gradients, strict=True)
    for parameter, old, gradient in triples:
        assert torch.equal(parameter, old)
        assert torch.equal(parameter.grad, gradient)


def test_magnitude_keeps_the_largest():
    model = network()
    mask = prune(model, density=0.25)
    weights = {name: model.get_parameter(name).detach().abs() for name in mask}
    kept = min(float(weights[name][keep].min()) for name, keep in mask.items())
    dropped = max(float(weights[name][~keep].max()) for name, keep in mask.items())
    assert kept >= dropped


def test_layerwise_and_mapped_densities():
    layerwise = prune(network(), density=0.2, scope="layerwise")
    assert [int(keep.sum()) for keep in layerwise.values()] == [16, 120, 30]
    mapped = prune(network(), density=0.2, scope={"4.weight": 1.0})
    assert [int(keep.sum()) for keep in mapped.values()] == [16, 120, 150]


def test_excluded_layers_are_not_in_the_mask_and_not_counted():
    mask = prune(network(), density=0.1, exclude=("@last",))
    assert list(mask) == ["0.weight", "2.weight"]
    assert mask.kept == 68


def test_quaternions_are_pruned_together_only_on_request():
    together = prune(network(), density=0.3, granularity="quaternion")["0.weight"]
    assert bool((together == together[:1]).all())
    single = prune(network(), density=0.3)["0.weight"]
    assert not bool((single == single[:1]).all())


def test_pruning_again_keeps_only_kept_weights():
    model, mask = network(), None
    for density in (0.8, 0.64, 0.512, 0.1):
        mask_before = mask
        mask = prune(model, "random", density=density, within=mask, seed=int(100 * density))
        assert mask.kept == round(density * mask.total)
        assert mask_before is None or (mask & mask_before) == mask
    with pytest.raises(ValueError, match="`within` keeps, 83 of 830"):
        prune(model, density=0.2, within=mask)


def test_random_masks_depend_on_the_seed():
    model = network()
    first, same, other = (prune(model, "random", density=0.3, seed=seed) for seed in (1, 1, 2))
    assert first == same
    assert first != other


@pytest.mark.parametrize("granularity", ["component", "quaternion"])
def test_random_masks_favor_no_layer(granularity):
    model = nn.Sequential(QLinear(400, 400), nn.Linear(400, 100))
    mask = prune(model, "random", density=0.1, granularity=granularity)
    assert all(abs(density - 0.1) < 0.01 for density in mask.layer_densities().values())


def test_nan_weights_are_named():
    model = network()
    with torch.no_grad():
        model[2].weight[3, 3] = float("nan")
    with pytest.raises(ValueError, match=r"scores of '2.weight' must not be NaN"):
        prune(model, density=0.5)
    outside = Mask.ones(model)
    outside["2.weight"][3, 3] = False
    assert prune(model, density=0.5, within=outside).kept == 415


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"criterion": "size"}, r"unknown criterion 'size'; choose one of: .*magnitude.*random"),
        ({"density": 0.0}, r"density must lie in \(0, 1\], got 0.0"),
        ({"density": 2}, r"density must lie in \(0, 1\], got 2"),
        ({"scope": "local"}, r"unknown scope 'local'; choose one of: global, layerwise"),
        ({"scope": {"1.weight": 0.5}}, r"'1.weight'; choose one of: 0.weight, 2.weight, 4.weight"),
        ({"granularity": "octonion"}, r"unknown granularity 'octonion'; .*component, quaternion"),
        ({"exclude": "fc"}, r"exclude must match one of: 0.weight.*got 'fc'"),
        ({"exclude": "*"}, r"must be a module with weights.*without prunable weights"),
        (
            {"within": {"fc.weight": torch.ones(2).bool()}},
            r"prune: within must name parameters .* got 'fc.weight'",
        ),
        (
            {"within": {"2.weight": torch.ones(2).bool()}},
            r"within\['2.weight'\] must be a bool tensor of shape",
        ),
        (
            {"within": {"2.weight": torch.ones(30, 20)}},
            r"within\['2.weight'\] must be a bool tensor",
        ),
    ],
)
def test_bad_arguments_are_rejected_with_the_valid_choices(options, message):
    with pytest.raises(ValueError, match=message):
        prune(network(), **options)


@pytest.mark.parametrize("model", [nn.ReLU(), nn.Sequential(), nn.LayerNorm(4), "a model"])
def test_models_without_prunable_weights_are_rejected(model):
    with pytest.raises(ValueError, match="must be a module with weights"):
        prune(model)


@pytest.mark.parametrize("scores", [{}, {"0.weight": torch.rand(3)}])
def test_a_criterion_with_missing_scores_is_rejected(monkeypatch, scores):
    monkeypatch.setitem(CRITERIA._entries, "broken", lambda context: scores)
    with pytest.raises(
        ValueError, match=r"broken: scores of '0.weight' must have shape \(4, 5, 4\)"
    ):
        prune(network(), "broken")
