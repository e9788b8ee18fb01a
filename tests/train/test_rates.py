import math

import pytest
import torch

from sparseq.models import HParams
from sparseq.train import (
    RATES,
    Callback,
    ChangeRate,
    Progress,
    fit,
    load_checkpoint,
    make_optimizer,
    pack_training,
    save_checkpoint,
    unpack_training,
)

SETTINGS = {"batch_size": 60, "seed": 0}


class RecordRates(Callback):
    def __init__(self):
        self.rates = []

    def on_epoch_end(self, state):
        self.rates.append(state.optimizer.param_groups[0]["lr"])


def rates(split, model, optimizer, change, **settings):
    record = RecordRates()
    fit(model, optimizer, split, callbacks=[change, record], **SETTINGS, **settings)
    return record.rates


@pytest.mark.parametrize("name", RATES.names())
def test_every_rate_starts_at_one_and_stays_positive(name):
    factors = [RATES.get(name)(Progress(i, 50, every=20)) for i in range(50)]
    assert factors[0] == 1
    assert all(0 < factor <= 1 for factor in factors)


def test_cosine(split, make_model):
    model = make_model()
    recorded = rates(split, model, torch.optim.SGD(model.parameters(), 0.5), ChangeRate(), epochs=4)
    expected = [0.25 * (1 + math.cos(math.pi * epoch / 4)) for epoch in range(4)]
    assert recorded == pytest.approx(expected)


def test_step_changes_the_rate_every_few_epochs(split, make_model):
    model = make_model()
    change = ChangeRate("step", every=2, factor=0.5)
    recorded = rates(split, model, torch.optim.SGD(model.parameters(), 0.8), change, epochs=5)
    assert recorded == pytest.approx([0.8, 0.8, 0.4, 0.4, 0.2])


def test_progress_counts_from_the_first_epoch(split, make_model):
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    once = rates(split, model, optimizer, ChangeRate(), epochs=3)
    again = rates(split, model, optimizer, ChangeRate(first_epoch=3), epochs=6, start_epoch=3)
    assert once == again


def test_a_resumed_run_has_the_rates_of_an_uninterrupted_one(tmp_path, split, make_model, same):
    hparams, uninterrupted = HParams(lr=0.01), make_model()
    interrupted, resumed = make_model(), make_model()
    expected = rates(
        split, uninterrupted, make_optimizer(uninterrupted, hparams), ChangeRate(), epochs=5
    )

    class Stop(Callback):
        def on_epoch_end(self, state):
            state.stop = state.epoch == 2

    optimizer = make_optimizer(interrupted, hparams)
    fit(interrupted, optimizer, split, epochs=5, callbacks=[ChangeRate(), Stop()], **SETTINGS)
    save_checkpoint(tmp_path / "c", *pack_training(interrupted, optimizer))
    fresh = make_optimizer(resumed, hparams)
    unpack_training(load_checkpoint(tmp_path / "c"), resumed, fresh)
    assert rates(split, resumed, fresh, ChangeRate(), epochs=5, start_epoch=2) == expected[2:]
    assert same(uninterrupted, resumed)


def test_bad_arguments(split, make_model):
    with pytest.raises(ValueError, match="unknown learning rate schedule 'steps'"):
        ChangeRate("steps")
    with pytest.raises(ValueError, match="every must be at least 1"):
        ChangeRate("step", every=0)
    for factor in (0, 1.5):
        with pytest.raises(ValueError, match="factor must lie in"):
            ChangeRate("step", factor=factor)
    model = make_model()
    for first in (-1, 2):
        with pytest.raises(ValueError, match=r"first_epoch must lie in 0\.\.1"):
            fit(
                model,
                make_optimizer(model, HParams()),
                split,
                epochs=4,
                start_epoch=1,
                callbacks=[ChangeRate(first_epoch=first)],
                **SETTINGS,
            )
