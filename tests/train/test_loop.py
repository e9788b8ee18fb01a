import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sparseq.data import Split, load_data
from sparseq.models import HParams, build
from sparseq.train import Callback, evaluate, fit, make_optimizer
from tests.source_tree import ROOT, imported_modules, python_files

SETTINGS = {"batch_size": 32, "seed": 5}
OPTIMIZERS = [
    HParams(optimizer="adam", lr=1e-2, weight_decay=1e-3),
    HParams(optimizer="sgd", lr=1e-2, momentum=0.9, weight_decay=1e-3),
    HParams(optimizer="sgd", lr=1e-2, momentum=0.9, nesterov=True),
]


class Record(Callback):
    def __init__(self):
        self.events = []

    def on_train_start(self, state):
        self.events.append(("start", state.epoch, state.step))

    def on_epoch_start(self, state):
        self.events.append(("epoch", state.epoch, state.step))

    def on_step(self, state):
        self.events.append(("step", state.epoch, state.step))

    def on_epoch_end(self, state):
        self.events.append(("epoch end", state.epoch, state.step))

    def on_train_end(self, state):
        self.events.append(("end", state.epoch, state.step))


def test_training_equals_a_plain_torch_loop(split, make_model, same):
    ours, theirs = make_model(0.0), make_model(0.0)
    fit(ours, torch.optim.SGD(ours.parameters(), 0.1), split, epochs=2, **SETTINGS)
    optimizer = torch.optim.SGD(theirs.parameters(), 0.1)
    for epoch in range(2):
        for x, y in split.batches(32, seed=5, epoch=epoch):
            optimizer.zero_grad()
            F.cross_entropy(theirs(x), y).backward()
            optimizer.step()
    assert same(ours, theirs)


def test_it_learns(split, make_model):
    model = make_model()
    before = evaluate(model, split)
    state = fit(model, make_optimizer(model, OPTIMIZERS[0]), split, epochs=8, **SETTINGS)
    after = evaluate(model, split)
    assert after.accuracy > 0.9 > before.accuracy
    assert after.loss < before.loss
    assert state.metrics["loss"] < before.loss
    assert (state.epoch, state.step) == (8, 32)


@pytest.mark.parametrize("hparams", OPTIMIZERS)
def test_two_runs_are_bitwise_equal_regardless_of_the_global_state(
    split, make_model, same, hparams
):
    models = [make_model(), make_model()]
    for number, model in enumerate(models):
        torch.manual_seed(number)
        fit(model, make_optimizer(model, hparams), split, epochs=3, **SETTINGS)
    assert same(*models)


def test_another_seed_is_another_run(split, make_model, same):
    models = [make_model(0.0), make_model(0.0)]
    for seed, model in enumerate(models):
        fit(model, make_optimizer(model, HParams()), split, epochs=1, batch_size=32, seed=seed)
    assert not same(*models)


def test_the_global_random_state_is_left_alone(split, make_model):
    model = make_model()
    before = torch.get_rng_state()
    fit(model, make_optimizer(model, HParams()), split, epochs=2, **SETTINGS)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("hparams", OPTIMIZERS)
@pytest.mark.parametrize("interrupted_at", [0, 1, 3, 4])
def test_a_resumed_run_equals_an_uninterrupted_one(
    split, make_model, same, hparams, interrupted_at
):
    uninterrupted, parts = make_model(), make_model()
    fit(uninterrupted, make_optimizer(uninterrupted, hparams), split, epochs=4, **SETTINGS)
    optimizer = make_optimizer(parts, hparams)
    fit(parts, optimizer, split, epochs=interrupted_at, **SETTINGS)
    torch.rand(7)
    record = Record()
    fit(
        parts,
        optimizer,
        split,
        epochs=4,
        start_epoch=interrupted_at,
        callbacks=[record],
        **SETTINGS,
    )
    assert same(uninterrupted, parts)
    assert record.events[0] == ("start", interrupted_at, 4 * interrupted_at)
    assert record.events[-1] == ("end", 4, 16)


def test_callbacks_are_called_in_order(split, make_model):
    model, record = make_model(), Record()
    fit(
        model,
        make_optimizer(model, HParams()),
        split,
        epochs=2,
        batch_size=60,
        seed=0,
        callbacks=[record],
    )
    assert record.events == [
        ("start", 0, 0),
        ("epoch", 0, 0),
        ("step", 0, 1),
        ("step", 0, 2),
        ("epoch end", 1, 2),
        ("epoch", 1, 2),
        ("step", 1, 3),
        ("step", 1, 4),
        ("epoch end", 2, 4),
        ("end", 2, 4),
    ]


@pytest.mark.parametrize(
    ("max_steps", "steps", "epochs"),
    [(0, 0, 0), (3, 3, 0), (4, 4, 1), (5, 5, 1), (8, 8, 2), (99, 8, 2), (None, 8, 2)],
)
def test_max_steps(split, make_model, same, max_steps, steps, epochs):
    model = make_model()
    state = fit(
        model, make_optimizer(model, HParams()), split, epochs=2, max_steps=max_steps, **SETTINGS
    )
    assert (state.step, state.epoch) == (steps, epochs)
    assert same(model, make_model()) == (steps == 0)


class StopAt(Callback):
    def __init__(self, unit, number):
        self.unit, self.number = unit, number

    def on_step(self, state):
        state.stop |= self.unit == "step" and state.step == self.number

    def on_epoch_end(self, state):
        state.stop |= self.unit == "epoch" and state.epoch == self.number


@pytest.mark.parametrize(
    ("unit", "number", "end"), [("step", 2, (0, 2)), ("step", 4, (1, 4)), ("epoch", 2, (2, 8))]
)
def test_a_callback_can_stop(split, make_model, unit, number, end):
    model, record = make_model(), Record()
    state = fit(
        model,
        make_optimizer(model, HParams()),
        split,
        epochs=5,
        callbacks=[StopAt(unit, number), record],
        **SETTINGS,
    )
    assert (state.epoch, state.step) == end
    assert record.events[-1] == ("end", *end)


class ZeroFirstRow(Callback):
    def on_step(self, state):
        with torch.no_grad():
            state.model[0].weight[0] = 0


def test_a_callback_can_change_the_weights(split, make_model):
    model = make_model()
    fit(
        model,
        make_optimizer(model, HParams()),
        split,
        epochs=2,
        callbacks=[ZeroFirstRow()],
        **SETTINGS,
    )
    assert model[0].weight[0].abs().sum() == 0
    assert model[0].weight[1:].abs().min() > 0


def test_the_loss_reported_is_the_mean_over_examples(split, make_model):
    model = make_model(0.0)
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    state = fit(model, optimizer, split, epochs=1, batch_size=50, seed=0)
    assert state.metrics["loss"] == pytest.approx(evaluate(model, split).loss, rel=1e-6)
    assert state.metrics["seconds"] > 0


def test_another_loss(split, make_model):
    def tenfold(outputs, y):
        return 10 * F.cross_entropy(outputs, y)

    model = make_model(0.0)
    state = fit(
        model,
        torch.optim.SGD(model.parameters(), 0.0),
        split,
        epochs=1,
        loss_fn=tenfold,
        **SETTINGS,
    )
    assert state.metrics["loss"] == pytest.approx(10 * evaluate(model, split).loss, rel=1e-6)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": -1}, "epochs must be at least 0"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"start_epoch": 3}, "start_epoch must lie in 0..2"),
        ({"start_epoch": -1}, "start_epoch must lie in 0..2"),
        ({"max_steps": -1}, "max_steps must be at least 0"),
    ],
)
def test_bad_numbers(split, make_model, wrong, message):
    model = make_model()
    with pytest.raises(ValueError, match=message):
        fit(
            model,
            make_optimizer(model, HParams()),
            split,
            **{"epochs": 2, "batch_size": 3, "seed": 0, **wrong},
        )


def test_empty_splits_are_rejected(make_model):
    model, empty = make_model(), Split(torch.zeros(0, 8), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ValueError, match="fit: split must have at least one example"):
        fit(model, make_optimizer(model, HParams()), empty, epochs=1, **SETTINGS)
    with pytest.raises(ValueError, match="evaluate: split must have at least one example"):
        evaluate(model, empty)


def test_evaluate_restores_every_mode(split, make_model):
    model = make_model()
    model.train()
    model[2].eval()
    result = evaluate(model, split, batch_size=7)
    assert [module.training for module in model] == [True, True, False, True]
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    single_batch = evaluate(model, split, batch_size=1000)
    assert result.accuracy == single_batch.accuracy
    assert result.loss == pytest.approx(single_batch.loss, rel=1e-6)


def test_evaluate_restores_modes_after_an_error(split):
    model = nn.Linear(5, 2)
    with pytest.raises(RuntimeError):
        evaluate(model, split)
    assert model.training


@pytest.mark.parametrize("wrong", [{"lr": 0.0}, {"lr": -1.0}, {"optimizer": "adamw"}])
def test_bad_optimizers(make_model, wrong):
    with pytest.raises(ValueError, match=r"lr must be positive|choose one of: adam, sgd"):
        make_optimizer(make_model(), HParams(**wrong))


def test_frozen_parameters_are_not_trained(make_model):
    model = make_model()
    model[0].requires_grad_(False)
    assert len(make_optimizer(model, HParams()).param_groups[0]["params"]) == 2
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="trainable"):
        make_optimizer(model, HParams())


@pytest.mark.parametrize("algebra", ["real", "quaternion"])
def test_digits_are_learned(algebra):
    data = load_data("digits")
    model = build("lenet_300_100", algebra, data.in_shape, data.num_classes)
    fit(model, make_optimizer(model, HParams()), data.train, epochs=5, batch_size=60, seed=0)
    assert evaluate(model, data.test).accuracy > 0.95


def test_training_knows_nothing_about_pruning():
    above = {"sparseq.pruning", "sparseq.recipes", "sparseq.compression.sparsify"}
    imported = {name for path in python_files("sparseq/train") for name in imported_modules(path)}
    assert (ROOT / "sparseq/train/loop.py") in python_files("sparseq/train")
    assert not {name for name in imported if ".".join(name.split(".")[:2]) in above}
