"""How recipes compress: for batches of their data set, by each policy."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparseq.data import DataBundle, Split
from sparseq.files.model_file import load
from sparseq.nn import SparseLinear
from sparseq.pruning import Mask
from sparseq.recipes import Iterative, Lottery, OneShot
from sparseq.recipes.compressing import compressed, examples
from sparseq.recipes.rounds.footnotes import dense_notes
from tests.compression.clocks import by_kind, install

TINY = {"model": "lenet_12", "epochs": 1}


def split(count):
    return Split(torch.arange(2.0 * count).view(count, 2), torch.zeros(count, dtype=torch.long))


def test_examples_are_the_first_ones_repeated_where_there_are_too_few():
    assert torch.equal(examples(split(5), 2), torch.tensor([[0.0, 1], [2, 3]]))
    rows = examples(split(3), 7)[:, 0].tolist()
    assert rows == [0, 2, 4, 0, 2, 4, 0]


@pytest.mark.parametrize(
    ("policy", "batches"), [("measured", [6, 6]), ("auto", []), ("sparse", [])]
)
def test_each_policy_decides_by_what_it_names(monkeypatch, policy, batches):
    clock = install(monkeypatch, by_kind(dense=2, sparse=1))
    model = nn.Sequential(nn.Linear(2, 4))
    mask = Mask({"0.weight": torch.arange(8).view(4, 2) > 3})
    data = DataBundle(split(9), split(4), split(9), (2,), 2, "none")
    small = compressed(model, mask, policy, data, 6)
    seen = [work.call.args[0].shape[0] for works in clock.layers_timed() for work in works]
    assert seen == batches
    assert (type(small[0]) is SparseLinear) is (policy != "auto")


@pytest.mark.parametrize("ms", [1, 3])
@pytest.mark.parametrize("recipe", [Lottery, Iterative])
def test_rounds_save_what_was_measured_to_be_faster(monkeypatch, tmp_path, recipe, ms):
    clock = install(monkeypatch, by_kind(dense=2, sparse=ms))
    fields = {**TINY, "trials": 1, "rounds": 1, "measure_batch": 8, "algebras": ("real",)}
    (notes,) = recipe(**fields, out=tmp_path).run().notes.values()
    if ms == 1:
        assert notes == []
    else:
        assert notes[0].startswith("fc1 is dense in round 1: 2 ms dense, 3 ms sparse; in a row of")
        assert [note.split()[0] for note in notes] == ["fc1", "out"]
    layer = load(tmp_path / "real/trial-0/round-01.sparseq").fc1
    assert (type(layer) is SparseLinear) is (ms == 1)
    assert {work.call.args[0].shape[0] for works in clock.works for work in works} == {8}


@pytest.mark.parametrize("ms", [1, 3])
def test_pruning_once_saves_what_was_measured_to_be_faster(monkeypatch, tmp_path, ms):
    clock = install(monkeypatch, by_kind(dense=2, sparse=ms))
    OneShot(**TINY, finetune=0, measure_batch=3, out=tmp_path).run()
    assert (type(load(tmp_path / "model.sparseq").fc1) is SparseLinear) is (ms == 1)
    assert {work.call.args[0].shape[0] for works in clock.works for work in works} == {3}
    with pytest.raises(ValueError, match="prune: measure_batch must be at least 1, got 0"):
        OneShot(**TINY, measure_batch=0)


def test_footnotes_name_each_layer_with_its_rounds_and_last_reason():
    rounds = [{}, {"a": "1 ms", "b": "2 ms"}, {"a": "3 ms"}, {"a": "4 ms"}, {}, {"a": "5 ms"}]
    assert dense_notes(rounds) == [
        "a is dense in rounds 1-3, 5: 5 ms",
        "b is dense in round 1: 2 ms",
    ]
    assert dense_notes([{}, {"": "slow"}]) == ["the model is dense in round 1: slow"]
    many = dense_notes([{}, {str(n): "slow" for n in range(20)}])
    assert (len(many), many[-1]) == (9, "and so are 12 other layers")
    assert len(dense_notes([{str(n): "slow" for n in range(9)}])) == 9
