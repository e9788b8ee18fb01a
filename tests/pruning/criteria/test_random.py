"""Random scores."""

from __future__ import annotations

import torch
from torch import nn

from sparseq.nn.quaternion.linear import QLinear
from sparseq.pruning import CRITERIA, ScoreContext
from sparseq.pruning.prunable import prunable_parameters


def scores_of(model, seed=0, quaternions=frozenset()):
    generator = torch.Generator().manual_seed(seed)
    parameters = prunable_parameters(model)
    context = ScoreContext(model, parameters, generator=generator, quaternions=quaternions)
    return CRITERIA.get("random")(context)


def test_is_uniform_and_depends_on_the_generator_alone():
    model = nn.Sequential(nn.Linear(200, 100), nn.Linear(100, 50))
    scores = scores_of(model)
    for score in scores.values():
        assert 0 <= float(score.min()) < 0.01
        assert 0.99 < float(score.max()) < 1
        assert abs(float(score.mean()) - 0.5) < 0.02
        assert score.unique().numel() == score.numel()
    torch.rand(5)
    assert all(torch.equal(score, scores[name]) for name, score in scores_of(model).items())
    assert not torch.equal(scores_of(model, seed=1)["0.weight"], scores["0.weight"])


def test_draws_once_per_quaternion_when_its_components_stay_together():
    model = QLinear(40, 40)
    single = scores_of(model)["weight"]
    assert not torch.equal(single, single[:1].expand_as(single))
    together = scores_of(model, quaternions=frozenset({"weight"}))["weight"]
    assert torch.equal(together, together[:1].expand_as(together))
