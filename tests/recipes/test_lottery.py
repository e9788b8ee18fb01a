"""Lottery tickets: rounds, rewinding, controls, the stop rule, and the end of a run."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from sparseq.files.model_file import load
from sparseq.nn.sparse.linear import SparseLinear
from sparseq.pruning import Mask
from sparseq.recipes import Lottery
from sparseq.recipes.folder import RunFolder
from sparseq.recipes.progress import Silent
from sparseq.recipes.rounds.trial import Trial
from sparseq.train import RowLog, copy_state

TINY = {"model": "lenet_12", "epochs": 1, "trials": 1, "rounds": 3, "measure_batch": 8}


def small(**fields):
    return Lottery(**{**TINY, "algebras": ("real",), **fields})


def open_trial(tmp_path, config, data=None):
    folder = RunFolder(tmp_path, config.identity())
    folder.__exit__()
    return Trial(config, data or config.load_data(), folder, RowLog(tmp_path), "real", 0)


def run_rounds(tmp_path, config, starts=None):
    """A complete trial; `starts` collects the masked initial weights and the mask of each round."""
    trial = open_trial(tmp_path, config)
    train = trial._train

    def recording_train(model, mask, report):
        if starts is not None:
            mask.apply_(model)
            starts.append((copy_state(model), mask))
        return train(model, mask, report)

    trial._train = recording_train
    trial.run(Silent())
    return trial


def test_each_round_keeps_the_scheduled_fraction_within_the_previous_mask(tmp_path):
    starts = []
    trial = run_rounds(tmp_path, small(rate=0.5), starts)
    total = trial.rows[0]["weights"]
    assert [row["kept"] for row in trial.rows] == [round(total * 0.5**n) for n in range(4)]
    assert [row["density"] for row in trial.rows] == pytest.approx([1, 0.5, 0.25, 0.125], rel=1e-2)
    masks = [mask for _, mask in starts]
    assert all(before & after == after for before, after in pairwise(masks))


def test_each_round_starts_from_the_first_initialization(tmp_path):
    starts = []
    trial = run_rounds(tmp_path, small(), starts)
    initial = copy_state(trial.new_model())
    for state, mask in starts:
        for name, tensor in state.items():
            expected = torch.where(mask[name], initial[name], 0) if name in mask else initial[name]
            assert torch.equal(tensor, expected)


def test_masks_keep_the_largest_trained_weights(tmp_path):
    trial = run_rounds(tmp_path, small(rounds=1, rate=0.9))
    dense = load(trial.file(0))
    scores = torch.cat([dense.get_parameter(name).abs().flatten() for name in trial.mask])
    kept = torch.cat([keep.flatten() for keep in trial.mask.values()])
    assert scores[kept].min() >= scores[~kept].max()


@pytest.mark.parametrize(("unit", "step"), [("step", 5), ("epoch", 22)])
def test_late_resetting_starts_from_a_later_step(tmp_path, unit, step):
    config = small(rounds=1, epochs=1, rewind=5 if unit == "step" else 1, rewind_unit=unit)
    data = config.load_data()
    assert data.train.steps(60) == 22
    trial = open_trial(tmp_path, config, data)
    trial.run(Silent())
    initial = trial.new_model()
    assert config.rewind_step(22) == step
    changed = {
        name: not torch.equal(tensor, trial.rewound[name])
        for name, tensor in initial.state_dict().items()
    }
    assert all(changed.values())
    again = open_trial(tmp_path, config, data)
    assert all(torch.equal(again.rewound[name], trial.rewound[name]) for name in changed)


def test_late_resetting_to_the_end_rewinds_to_the_trained_weights(tmp_path):
    trial = open_trial(tmp_path, small(rounds=0, rewind=1))
    trial.run(Silent())
    assert all(torch.equal(trial.rewound[name], tensor) for name, tensor in trial.final.items())


def test_rewinding_beyond_the_training_is_rejected(tmp_path):
    with pytest.raises(ValueError, match="rewind must lie within the 22 steps"):
        open_trial(tmp_path, small(rewind=23, rewind_unit="step")).run(Silent())


def test_random_reinitialization_draws_new_weights_every_round(tmp_path):
    starts = []
    run_rounds(tmp_path, small(rounds=2, reinit="random"), starts)
    last = starts[-1][1]["out.weight"]
    first, second, third = (state["out.weight"][last] for state, _ in starts)
    assert len({tuple(weights.tolist()) for weights in (first, second, third)}) == 3


def test_random_masks_keep_the_densities_of_layers_but_not_the_positions(tmp_path):
    scored = run_rounds(tmp_path / "scored", small(rounds=1, rate=0.5)).mask
    drawn = run_rounds(tmp_path / "drawn", small(rounds=1, rate=0.5, mask="random")).mask
    assert drawn.layer_densities() == scored.layer_densities()
    assert drawn != scored
    assert (drawn & scored).kept < 0.75 * scored.kept


def test_random_masks_are_nested(tmp_path):
    starts = []
    run_rounds(tmp_path, small(mask="random"), starts)
    masks = [mask for _, mask in starts]
    assert all(before & after == after for before, after in pairwise(masks))


def test_two_consecutive_rounds_below_the_accuracy_end_a_trial(tmp_path):
    assert len(run_rounds(tmp_path / "a", small(stop_accuracy=1.0)).rows) == 2
    assert len(run_rounds(tmp_path / "b", small(stop_accuracy=0.0)).rows) == 4


def test_one_low_round_ends_nothing(tmp_path):
    trial = open_trial(tmp_path, small(stop_accuracy=0.5))
    trial.rows = [{"validation_accuracy": accuracy} for accuracy in (0.9, 0.4, 0.6, 0.4)][:3]
    assert not trial.finished
    trial.rows[2]["validation_accuracy"] = 0.4
    assert trial.finished


def test_the_rounds_never_use_the_test_split(tmp_path):
    config = small()
    data = replace(config.load_data(), test=None)
    trial = open_trial(tmp_path, config, data)
    trial.run(Silent())
    assert trial.finished


@pytest.mark.filterwarnings("ignore:prune. keeps no weight")
@pytest.mark.parametrize("granularity", ["component", "quaternion"])
def test_both_networks_run_and_the_table_matches_the_files(tmp_path, granularity):
    config = small(algebras=("real", "quaternion"), rate=0.8, granularity=granularity, out=tmp_path)
    results = config.run()
    assert results.algebras == ["real", "quaternion"]
    for level in results.levels:
        file = tmp_path / f"{level.algebra}/trial-0/round-{level.round:02}.sparseq"
        assert level.size == file.stat().st_size
        assert level.weights == {"real": 888, "quaternion": 312}[level.algebra]
        assert (
            Mask.from_zeros(config.new_model(config.load_data(), level.algebra, 0)).total
            == level.weights
        )
        assert 0 <= level.test_accuracy <= 1
        assert min(level.dense_ms, level.sparse_ms, level.speed_up) > 0


def test_saved_networks_have_sparse_layers_with_the_masks_weights(tmp_path):
    wide = small(model="lenet_300_100", rounds=1, rate=0.9, measure_batch=512)
    trial = run_rounds(tmp_path, wide)
    model = load(trial.file(1))
    assert trial.file(1).stat().st_size < trial.file(0).stat().st_size / 2
    layers = {
        name: module for name, module in model.named_modules() if isinstance(module, SparseLinear)
    }
    assert layers
    for name, layer in layers.items():
        assert layer.values.numel() == int(trial.mask[f"{name}.weight"].sum())


def test_table_and_figure_and_logs_are_written(tmp_path):
    results = small(out=tmp_path, trials=2, rounds=1).run()
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(row["trial"], row["round"]) for row in rows] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert {"run", "density", "validation_accuracy", "loss", "seconds", "bytes"} <= rows[0].keys()
    assert not any("test" in key for key in rows[0])
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 5
    assert len((tmp_path / "table.csv").read_text().splitlines()) == 3
    assert (tmp_path / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    mean = (rows[0]["validation_accuracy"] + rows[2]["validation_accuracy"]) / 2
    assert results.levels[0].validation_accuracy == pytest.approx(mean)
    assert results.levels[0].trials == 2
    assert results.levels[0].validation_deviation > 0


def test_excluded_layers_are_not_pruned(tmp_path):
    trial = run_rounds(tmp_path, small(rounds=1, rate=0.5, exclude=("out",)))
    assert set(trial.mask) == {"fc1.weight"}
    assert trial.rows[1]["kept"] == trial.rows[1]["weights"] / 2


def test_sgd_and_weight_decay_train_too(tmp_path):
    trial = run_rounds(
        tmp_path, small(rounds=1, optimizer="sgd", lr=0.05, momentum=0.9, weight_decay=1e-4)
    )
    assert trial.rows[0]["validation_accuracy"] > 0.5


def test_a_diverging_training_is_an_error_that_names_the_round(tmp_path):
    config = small(optimizer="sgd", lr=1e30)
    rule = r"lr must be lower .*real/trial-0, round 0.*1e\+30"
    with (
        pytest.warns(UserWarning, match=r"training diverges \(loss nan in epoch 1, 3\.15 in"),
        pytest.raises(ValueError, match=rule),
    ):
        open_trial(tmp_path, config).run(Silent())
