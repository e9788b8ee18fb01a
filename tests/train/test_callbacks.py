import math

import pytest
import torch
from rich.progress import Progress

from sparseq.data import Split
from sparseq.models import HParams
from sparseq.train import (
    Callback,
    EarlyBest,
    LogRows,
    RowLog,
    ShowProgress,
    TrainState,
    Validate,
    evaluate,
    fit,
    make_optimizer,
)


class Scripted(Callback):
    """Sets the weight after each epoch, and thereby the accuracy."""

    def __init__(self, weights):
        self.weights = weights

    def on_epoch_end(self, state):
        with torch.no_grad():
            state.model.weight.fill_(self.weights[state.epoch - 1])


class Threshold(torch.nn.Module):
    """Predicts class 1 if x > weight; the closer the weight is to 0, the higher the accuracy."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return torch.cat([torch.zeros_like(x), x - self.weight], dim=1)


LINE = Split(torch.linspace(-1, 1, 40).unsqueeze(1), (torch.linspace(-1, 1, 40) > 0).long())


def run(weights, *callbacks, start_epoch=0):
    model = Threshold()
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    fit(
        model,
        optimizer,
        LINE,
        epochs=len(weights),
        batch_size=40,
        seed=0,
        start_epoch=start_epoch,
        callbacks=[Scripted(weights), *callbacks],
    )
    return model


def test_early_best_keeps_the_best_not_the_last():
    best = EarlyBest(LINE)
    model = run([0.9, 0.5, 0.1, 0.7], best)
    assert model.weight.item() == pytest.approx(0.7)
    assert best.epoch == 3
    best.restore(model)
    assert model.weight.item() == pytest.approx(0.1)
    assert evaluate(model, LINE).accuracy == best.accuracy


def test_the_earliest_of_equally_good_epochs_is_kept():
    best = EarlyBest(LINE)
    run([0.5, 0.1, 0.1001, 0.1], best)
    assert best.epoch == 2


class Pair(torch.nn.Module):
    """Not a classifier: its outputs are a tuple."""

    def __init__(self, model):
        super().__init__()
        self.inner = model

    def forward(self, x):
        return (self.inner(x), x)


def test_without_scores_the_lowest_loss_is_best():
    losses, model = iter([3.0, 1.0, 2.0, 1.0]), Pair(Threshold())
    best = EarlyBest(LINE, loss_fn=lambda outputs, y: torch.tensor(next(losses)))
    states = [TrainState(model, None, 4, 1, epoch) for epoch in (1, 2, 3, 4)]
    for state in states:
        best.on_epoch_end(state)
    assert [state.metrics for state in states] == [
        {"validation_loss": loss} for loss in (3.0, 1.0, 2.0, 1.0)
    ]
    assert (best.epoch, best.loss, best.accuracy) == (2, 1.0, -1)
    again = EarlyBest(LINE)
    again.resume(*best.state())
    assert (again.epoch, again.loss) == (2, 1.0)
    assert math.isnan(evaluate(model, LINE, loss_fn=lambda outputs, y: torch.ones(())).accuracy)


def test_best_weights_are_a_copy():
    best = EarlyBest(LINE)
    model = run([0.1, 0.5], best)
    best.restore(model)
    with torch.no_grad():
        model.weight.fill_(9)
    assert best.best["weight"].item() == pytest.approx(0.1)


@pytest.mark.parametrize("interrupted_at", [0, 1, 2, 3])
def test_early_best_resumes_from_its_state(interrupted_at):
    weights, uninterrupted = [0.5, 0.2, 0.4, 0.3], EarlyBest(LINE)
    run(weights, uninterrupted)
    first, second = EarlyBest(LINE), EarlyBest(LINE)
    run(weights[:interrupted_at], first)
    second.resume(*first.state())
    run(weights, second, start_epoch=interrupted_at)
    assert (second.epoch, second.accuracy) == (uninterrupted.epoch, uninterrupted.accuracy)
    assert torch.equal(second.best["weight"], uninterrupted.best["weight"])


def test_nothing_to_restore_before_the_first_epoch():
    with pytest.raises(ValueError, match="needs a completed epoch"):
        EarlyBest(LINE).restore(Threshold())


def test_validate_adds_metrics_that_later_callbacks_see(tmp_path):
    log = RowLog(tmp_path)
    run([0.5, 0.0], Validate(LINE), LogRows(log, round=3))
    assert [row["validation_accuracy"] for row in log.rows] == [0.75, 1.0]
    assert list(log.rows[0]) == [
        *("round", "epoch", "step", "loss", "seconds"),
        *("validation_loss", "validation_accuracy"),
    ]
    assert [row["epoch"] for row in log.rows] == [1, 2]


def test_validation_does_not_disturb_training(split, make_model, same):
    models = [make_model(), make_model()]
    for model, callbacks in zip(models, ([], [EarlyBest(split)]), strict=True):
        fit(
            model,
            make_optimizer(model, HParams()),
            split,
            epochs=3,
            batch_size=32,
            seed=0,
            callbacks=callbacks,
        )
    assert same(*models)


def test_the_log_of_a_resumed_run_has_each_epoch_once(tmp_path):
    log = RowLog(tmp_path)
    log.append({"round": 2, "epoch": 3, "other": True})
    run([0.1, 0.2, 0.3], LogRows(log, round=1))
    run([0.1, 0.2, 0.3, 0.4], LogRows(log, round=1), start_epoch=2)
    epochs = [(row["round"], row["epoch"]) for row in RowLog(tmp_path).rows]
    assert epochs == [(2, 3), (1, 1), (1, 2), (1, 3), (1, 4)]


def test_progress_shows_the_steps_and_is_removed(split, make_model):
    seen = []

    class Observe(Callback):
        def on_epoch_end(self, state: TrainState):
            task = progress.tasks[0]
            seen.append((task.description, task.completed, task.total))

    progress, model = Progress(disable=True), make_model()
    fit(
        model,
        make_optimizer(model, HParams()),
        split,
        epochs=3,
        start_epoch=1,
        batch_size=32,
        seed=0,
        callbacks=[ShowProgress(progress, "round 1"), Observe()],
    )
    assert seen == [("round 1", 8, 12), ("round 1", 12, 12)]
    assert not progress.tasks
