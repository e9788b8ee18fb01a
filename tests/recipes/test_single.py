"""Recipes for a single network: training and one-shot pruning."""

from __future__ import annotations

import json

import pytest
import torch
from rich.console import Console
from torch import nn

from sparseq.data import DataBundle, Request, load_data
from sparseq.data.catalog import DataSet
from sparseq.data.fake import fake_like
from sparseq.files.model_file import load, save
from sparseq.models import build
from sparseq.models.vae import vae_loss
from sparseq.nn.convert import to_dense
from sparseq.nn.expander.linear import ExpanderLinear, ExpanderQLinear
from sparseq.nn.sparse.patterned import PatternedLayer
from sparseq.pruning import Mask
from sparseq.recipes import Lottery, OneShot, Train
from sparseq.recipes.outcome import Outcome
from sparseq.train import evaluate
from tests.recipes.test_resume import Count, Stop

TINY = {"model": "lenet_12", "epochs": 3}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The outcome of a training, with its folder."""
    return Train(**TINY, out=tmp_path_factory.mktemp("trained")).run()


def state(folder):
    return load(folder / "model.sparseq").state_dict()


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_saved_network_has_the_reported_metrics(trained):
    data = load_data("digits")
    model = load(trained.folder / "model.sparseq")
    assert evaluate(model, data.validation).accuracy == trained.metrics["validation_accuracy"]
    assert evaluate(model, data.test).accuracy == trained.metrics["test_accuracy"]
    assert (trained.folder / "model.sparseq").stat().st_size == trained.metrics["bytes_on_disk"]
    assert len((trained.folder / "log.jsonl").read_text().splitlines()) == 3


def test_the_saved_network_is_that_of_the_best_epoch(trained):
    lines = (trained.folder / "log.csv").read_text().splitlines()
    column = lines[0].split(",").index("validation_accuracy")
    best = max(float(line.split(",")[column]) for line in lines[1:])
    assert trained.metrics["validation_accuracy"] == best


@pytest.mark.parametrize("epochs", [0, 1, 2])
def test_a_resumed_training_ends_with_the_same_network(trained, tmp_path, epochs):
    with pytest.raises(KeyboardInterrupt):
        Train(**TINY, out=tmp_path).run(Stop(epochs))
    assert Train(**TINY, out=tmp_path).run().metrics == trained.metrics
    assert same(state(tmp_path), state(trained.folder))


@pytest.fixture
def faces(monkeypatch):
    """Fields of a Train recipe of a small autoencoder, on small images in 0..1."""
    monkeypatch.setattr("sparseq.models.vae.HIDDEN", (16, 24))
    source = fake_like(DataSet((1, 8, 8), 4, lambda request: None, unit=True))
    train, test = source.read(Request())
    bundle = DataBundle(train, test, test, source.in_shape, source.num_classes, "faces")
    monkeypatch.setattr(Train, "load_data", lambda self: bundle)
    return {"model": "vae", "epochs": 3}


def test_an_autoencoder_is_trained_with_its_own_loss(faces, tmp_path, capsys):
    outcome = Train(**faces, out=tmp_path / "a").run()
    assert outcome.metrics.keys() == {"validation_loss", "test_loss", "bytes_on_disk"}
    log = rows(tmp_path / "a")
    assert all("validation_accuracy" not in row for row in log)
    losses = [row["validation_loss"] for row in log]
    assert losses[-1] < losses[0]
    assert outcome.metrics["validation_loss"] == min(losses)
    model = load(outcome.folder / "model.sparseq").eval()
    with torch.no_grad():
        test = Train(**faces).load_data().test
        assert vae_loss(model(test.x)).item() == pytest.approx(
            outcome.metrics["test_loss"], rel=1e-4
        )
    with pytest.raises(KeyboardInterrupt):
        Train(**faces, out=tmp_path / "b").run(Stop(2))
    assert Train(**faces, out=tmp_path / "b").run().metrics == outcome.metrics
    outcome.show(Console())
    assert "validation loss" in capsys.readouterr().out


def test_an_autoencoder_rejects_normalized_images(tmp_path):
    config = Train(model="vae", data="digits", epochs=1, out=tmp_path)
    with pytest.raises(
        ValueError, match=r"original must be images in 0..1, such as those of celeba"
    ):
        config.run()


def test_a_complete_training_is_read(trained):
    count = Count()
    assert Train(**TINY, out=trained.folder).run(count) == trained
    assert count.done is None


def test_the_learning_rate_schedule_affects_the_network(trained, tmp_path):
    Train(**TINY, lr_schedule="cosine", out=tmp_path).run()
    assert not same(state(tmp_path), state(trained.folder))


def test_pruning_a_file_keeps_the_largest_weights(trained, tmp_path):
    file = trained.folder / "model.sparseq"
    outcome = OneShot(file=file, density=0.2, finetune=0, policy="sparse", out=tmp_path).run()
    dense, pruned = load(file), load(tmp_path / "model.sparseq")
    assert outcome.metrics["weights_kept"] == round(0.2 * 888)
    assert outcome.metrics["density"] == pytest.approx(0.2, rel=1e-2)
    assert outcome.metrics["unpruned_validation_accuracy"] == trained.metrics["validation_accuracy"]
    for name in ("fc1", "out"):
        kept = pruned.get_submodule(name).to_dense().weight
        weight = dense.get_submodule(name).weight
        assert torch.equal(kept[kept != 0], weight[kept != 0])


def test_fine_tuning_keeps_the_mask_and_improves_the_accuracy(trained, tmp_path):
    file = trained.folder / "model.sparseq"
    before = OneShot(file=file, density=0.1, finetune=0, out=tmp_path / "a").run().metrics
    after = OneShot(file=file, density=0.1, finetune=3, out=tmp_path / "b").run().metrics
    assert after["weights_kept"] == before["weights_kept"] == round(0.1 * 888)
    assert after["pruned_validation_accuracy"] == before["pruned_validation_accuracy"]
    assert after["validation_accuracy"] > before["validation_accuracy"]


def rows(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_both_stages_of_pruning_log_each_epoch_once(tmp_path):
    config = OneShot(**TINY, finetune=2, out=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        config.run(Stop(4))
    config.run()
    stages = [(row["stage"], row["epoch"]) for row in rows(tmp_path)]
    assert stages == [("train", 1), ("train", 2), ("train", 3), ("finetune", 1), ("finetune", 2)]
    assert all({"loss", "validation_accuracy"} <= row.keys() for row in rows(tmp_path))


def test_the_error_for_a_damaged_checkpoint_names_the_file_to_delete(trained, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        Train(**TINY, out=tmp_path).run(Stop(2))
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=rf"delete {path}, so that the training starts again, or"):
        Train(**TINY, out=tmp_path).run()
    path.unlink()
    assert Train(**TINY, out=tmp_path).run().metrics == trained.metrics


@pytest.mark.parametrize("fields", [{"model": "nowhere.py:net"}, {"data": "mnist"}])
@pytest.mark.parametrize("recipe", [Train, OneShot, Lottery])
def test_a_run_that_fails_early_leaves_no_folder(tmp_path, recipe, fields):
    config = recipe(**fields, data_dir=tmp_path / "none", out=tmp_path / "o")
    with pytest.raises(FileNotFoundError):
        config.run()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("granularity", ["component", "quaternion"])
def test_pruning_without_a_file_trains_first(tmp_path, granularity):
    config = OneShot(
        **TINY,
        algebra="quaternion",
        density=0.25,
        granularity=granularity,
        policy="sparse",
        out=tmp_path,
    )
    count = Count()
    outcome = config.run(count)
    assert count.units == 3 + 5
    layer = load(tmp_path / "model.sparseq").fc1
    assert layer.granularity == granularity
    assert outcome.metrics["validation_accuracy"] > 0.3
    assert Outcome.read(tmp_path) == outcome


def test_a_pruned_file_can_be_pruned_further(trained, tmp_path):
    file = trained.folder / "model.sparseq"
    for density, name in ((0.2, "a"), (0.1, "b")):
        OneShot(file=file, density=density, finetune=0, policy="sparse", out=tmp_path / name).run()
        file = tmp_path / name / "model.sparseq"
    first, second = (load(tmp_path / name / "model.sparseq") for name in "ab")
    masks = [
        Mask({name: model.get_submodule(name).pattern.mask() for name in ("fc1", "out")})
        for model in (first, second)
    ]
    assert masks[0] & masks[1] == masks[1]


def test_pruned_weights_stay_pruned(trained, tmp_path):
    file = trained.folder / "model.sparseq"
    for name, fields in (("a", {"density": 0.2}), ("b", {"density": 0.1, "criterion": "random"})):
        OneShot(file=file, finetune=0, out=tmp_path / name, **fields).run()
        file = tmp_path / name / "model.sparseq"
    first, second = (Mask.from_zeros(load(tmp_path / name / "model.sparseq")) for name in "ab")
    assert (first.kept, second.kept) == (round(0.2 * 888), round(0.1 * 888))
    assert first & second == second
    with pytest.raises(
        ValueError, match=r"density must be at most 0.1002, that of the network in the file"
    ):
        OneShot(file=file, density=0.5, out=tmp_path / "c").run()


def test_quaternions_can_be_pruned_together_after_their_components(tmp_path):
    fields = {**TINY, "algebra": "quaternion", "finetune": 0}
    OneShot(**fields, density=0.5, out=tmp_path / "a").run()
    file = tmp_path / "a/model.sparseq"
    OneShot(**fields, file=file, density=0.2, granularity="quaternion", out=tmp_path / "b").run()
    keep = load(tmp_path / "b/model.sparseq").fc1.weight != 0
    assert keep.any(0).float().mean() < 0.3


@pytest.mark.parametrize("algebra", ["real", "quaternion"])
def test_expander_layers_of_a_file_can_be_pruned(tmp_path, algebra):
    layer = ExpanderQLinear(64, 32, 4) if algebra == "quaternion" else ExpanderLinear(64, 32, 16)
    save(nn.Sequential(nn.Flatten(), layer, nn.Linear(32, 10)), tmp_path / "m.sparseq")
    with pytest.warns(UserWarning, match="keeps no weight in 1 of 2 layers"):
        OneShot(file=tmp_path / "m.sparseq", density=0.1, finetune=1, out=tmp_path / "o").run()
    model = load(tmp_path / "o/model.sparseq")
    mask = Mask.from_zeros(to_dense(model) if isinstance(model[1], PatternedLayer) else model)
    weights = (2048 if algebra == "real" else 512) + 320
    assert (mask.kept, mask.total) == (round(0.1 * weights), weights)


def test_a_network_of_another_shape_is_rejected(tmp_path):
    save(build("lenet_12", in_shape=(1, 28, 28)), tmp_path / "mnist.sparseq")
    with pytest.raises(ValueError, match="file must accept the examples of digits"):
        OneShot(file=tmp_path / "mnist.sparseq", out=tmp_path / "out").run()


def test_a_network_without_prunable_weights_is_rejected(tmp_path):
    save(nn.Sequential(nn.Flatten(), nn.Identity()), tmp_path / "flat.sparseq")
    with pytest.raises(ValueError, match="without prunable weights"):
        OneShot(file=tmp_path / "flat.sparseq", out=tmp_path / "out").run()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"density": 0.0}, "density must lie in"),
        ({"density": 1.1}, "density must lie in"),
        ({"finetune": -1}, "finetune must be 0 or more"),
        ({"criterion": "luck"}, "unknown criterion"),
    ],
)
def test_bad_fields_are_rejected_immediately(fields, message):
    with pytest.raises(ValueError, match=message):
        OneShot(**fields)
