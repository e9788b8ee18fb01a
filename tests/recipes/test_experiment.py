"""The fields of all recipes: defaults of the model, checks, identity."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sparseq.models import std_hparams
from sparseq.recipes import RECIPES, Iterative, Lottery, Train


def test_hyperparameters_default_to_those_of_the_model():
    training = Train(model="lenet_12", data="mnist", lr=0.5).training
    defaults = std_hparams("lenet_12")
    assert (training.lr, training.epochs, training.batch_size) == (0.5, defaults.epochs, 60)


def test_models_with_special_hyperparameters_keep_them_on_small_data():
    assert Train(model="resnet20").training == std_hparams("resnet20")
    training = Train(model="vgg16bn", data="cifar10", lr_step=20, nesterov=False).training
    assert (training.lr_schedule, training.lr_step, training.lr_factor) == ("step", 20, 0.5)
    assert training.nesterov is False


def test_small_data_has_its_own_defaults():
    assert (Train().training.epochs, Train().training.lr) == (20, 4e-3)
    assert Train(epochs=7).training.epochs == 7


def test_each_optimizer_has_a_learning_rate_of_its_own():
    usual = std_hparams("vgg16bn")
    assert (usual.optimizer, usual.lr) == ("sgd", 0.05)
    for fields, lr in (
        ({"optimizer": "adam"}, 1e-3),
        ({"optimizer": "sgd"}, 0.05),
        ({"optimizer": "adam", "lr": 0.05}, 0.05),
        ({}, 0.05),
    ):
        training = Train(model="vgg16bn", data="cifar10", **fields).training
        assert (training.lr, training.weight_decay) == (lr, usual.weight_decay)
    for data in ("digits", "mnist"):
        assert Train(data=data, optimizer="sgd").training.lr == 0.05
        assert Train(data=data, optimizer="adam").training == Train(data=data).training


def test_without_momentum_there_is_no_momentum_of_nesterov():
    assert Train(model="resnet18", momentum=0.0).training.nesterov is False
    assert Train(model="resnet18", momentum=0.5).training.nesterov is True
    assert Train(model="resnet18", nesterov=False).training.nesterov is False
    with pytest.raises(ValueError, match=r"nesterov needs a momentum above 0 .*, got True"):
        Train(model="resnet18", momentum=0.0, nesterov=True)


@pytest.mark.parametrize("recipe", sorted(set(RECIPES.names()) - {"train"}))
def test_only_classifiers_are_pruned_by_accuracy(recipe):
    message = r"model must be a classifier \(only sparseq train accepts others\), got vae"
    with pytest.raises(ValueError, match=message):
        RECIPES.get(recipe)(model="vae")


@pytest.mark.parametrize("recipe", RECIPES.names())
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"lr": 0.0}, "lr must be above 0"),
        ({"momentum": -1.0}, "momentum must be 0 or more"),
        ({"weight_decay": -1.0}, "weight_decay must be 0 or more"),
        ({"threads": 0}, "threads must be at least 1"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"optimizer": "adamax"}, "unknown optimizer 'adamax'; choose one of: adam"),
        ({"lr_step": 0}, "lr_step must be at least 1"),
        ({"lr_factor": 0.0}, "lr_factor must lie in"),
        ({"optimizer": "sgd", "nesterov": True}, "nesterov needs a momentum"),
        ({"lr_schedule": "steep"}, "unknown learning rate schedule 'steep'; choose one of"),
        ({"data": "digit"}, "unknown data set 'digit'; choose one of: .*digits"),
        ({"model": "lenet"}, "unknown model 'lenet'; choose one of: .*lenet_12"),
    ],
)
def test_bad_fields_are_rejected_immediately(recipe, fields, message):
    with pytest.raises(ValueError, match=message):
        RECIPES.get(recipe)(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rounds": -1}, "rounds must be 0 or more"),
        ({"rate": 0.0}, "rate must lie between 0 and 1"),
        ({"rate": 1.0}, "rate must lie between 0 and 1"),
        ({"trials": 0}, "trials must be at least 1"),
        ({"measure_batch": 0}, "measure_batch must be at least 1"),
        ({"stop_accuracy": 1.5}, "stop_accuracy must lie in"),
        ({"algebras": ()}, "algebras must be distinct and among: real, quaternion"),
        ({"algebras": ("real", "real")}, "algebras must be distinct"),
        ({"algebras": ("octonion",)}, "algebras must be distinct"),
        ({"criterion": "luck"}, "unknown criterion 'luck'; choose one of: .*magnitude"),
        ({"schedule": "steep"}, "unknown schedule 'steep'; choose one of: geometric, one_shot"),
        ({"rewind": -1}, "rewind must be 0 or more"),
        ({"rewind": 21}, "rewind must lie within the 20 epochs"),
    ],
)
def test_bad_fields_of_rounds_are_rejected_immediately(fields, message):
    with pytest.raises(ValueError, match=message):
        Lottery(epochs=20, **fields)


@pytest.mark.parametrize("recipe", [Lottery, Iterative])
def test_the_schedule_determines_the_densities(recipe):
    assert recipe(rounds=2, rate=0.5).densities() == [1, 0.5, 0.25]
    assert recipe(rounds=2, rate=0.5, schedule="one_shot").densities() == [1, 0.25]
    assert recipe(rounds=0, schedule="one_shot").densities() == [1]


def test_identity_is_everything_but_locations():
    first, second = Lottery(), Lottery(out=Path("x"), data_dir=Path("y"), download=True)
    assert first.identity() == second.identity()
    assert first.fingerprint() == second.fingerprint()
    assert Lottery(seed=1).fingerprint() != first.fingerprint() != Lottery(rate=0.3).fingerprint()
    assert Iterative().fingerprint() != first.fingerprint()


def test_identity_includes_default_hyperparameters():
    epochs = std_hparams("lenet_300_100").epochs
    assert Train(data="mnist").identity()["epochs"] == epochs
    assert Train(data="mnist").fingerprint() == Train(data="mnist", epochs=epochs).fingerprint()


def test_folder_is_out_or_named_after_the_run():
    assert Lottery(out=Path("a/b")).folder() == Path("a/b")
    assert Lottery().folder() == Path("runs") / f"lottery-digits-{Lottery().fingerprint()}"
    assert Train(data="fake:mnist").folder().name.startswith("train-fake-mnist-")


def test_an_unavailable_device_is_an_error_that_names_it():
    with pytest.raises(ValueError, match=r"device is not available .*nonsense"):
        Train(device="nonsense").open_device()


def test_threads_are_set_inside_and_restored():
    before = torch.get_num_threads()
    with Train(threads=before + 1).torch_threads():
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_identity_includes_the_content_of_the_model_file(tmp_path):
    code = tmp_path / "mine.py"
    code.write_text("one = 1")
    recipe = Lottery(model=f"{code}:net")
    before = recipe.fingerprint()
    assert Lottery(model=f"{code}:net").fingerprint() == before
    code.write_text("one = 2")
    assert recipe.fingerprint() != before
