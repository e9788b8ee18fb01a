"""Modules see the version of their state, as after `load_state_dict` of a `state_dict`."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from sparseq import models
from sparseq.compression.sparsify import compress
from sparseq.files.container import read_container, write_container
from sparseq.files.model_file import load, save
from sparseq.nn.layer_types import LAYER_TYPES, layer_type


class Scaled(nn.Module):
    """Of version 3: states of version 1 hold half the scale, those without one a tenth."""

    _version = 3
    seen: list[object]

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2))
        self.seen = []

    def forward(self, x):
        return self.scale * x

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *rest):
        version = local_metadata.get("version")
        self.seen.append(version)
        factor = {None: 10, 1: 2}.get(version, 1)
        state_dict[f"{prefix}scale"] = factor * state_dict[f"{prefix}scale"]
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)


class Holder(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(Scaled(), nn.BatchNorm1d(2))
        self.again = self.inner[0]


@pytest.fixture
def registered():
    """Scaled as a type that a file may name."""
    layer_type()(Scaled)
    yield
    del LAYER_TYPES._entries["Scaled"]


def test_a_module_of_ones_own_loads_as_the_same_function(tmp_path):
    model = Holder()
    save(model, tmp_path / "m")
    again = load(tmp_path / "m", Holder())
    assert torch.equal(again.inner[0].scale, model.inner[0].scale)
    assert set(again.inner[0].seen) == {3}


def test_a_registered_module_too(tmp_path, registered):
    model = nn.Sequential(Scaled(), nn.Linear(2, 2))
    save(model, tmp_path / "m")
    again = load(tmp_path / "m")
    assert torch.equal(again(torch.ones(1, 2)), model(torch.ones(1, 2)))


def test_a_file_of_an_earlier_version_of_the_class_is_converted(tmp_path, monkeypatch):
    monkeypatch.setattr(Scaled, "_version", 1)
    save(Holder(), tmp_path / "m")
    monkeypatch.undo()
    assert torch.equal(load(tmp_path / "m", Holder()).inner[0].scale, torch.full((2,), 2.0))


def test_a_file_of_before_versions_were_stored_is_read_as_it_was(tmp_path):
    save(Holder(), tmp_path / "m")
    stored, manifest = read_container(tmp_path / "m", "model")
    for spec in manifest["modules"].values():
        spec.pop("version", None)
    write_container(tmp_path / "old", stored, manifest, "model", version=2)
    again = load(tmp_path / "old", Holder())
    assert set(again.inner[0].seen) == {None}
    model = models.build("lenet_12")
    save(model, tmp_path / "plain")
    stored, manifest = read_container(tmp_path / "plain", "model")
    manifest["modules"][""].pop("version")
    write_container(tmp_path / "older", stored, manifest, "model")
    assert torch.equal(load(tmp_path / "older").out.weight, model.out.weight)


def test_only_versions_other_than_the_first_are_written(tmp_path):
    save(Holder(), tmp_path / "m")
    modules = read_container(tmp_path / "m", "model")[1]["modules"]
    versions = {path: spec["version"] for path, spec in modules.items() if "version" in spec}
    assert versions == {"": 1, "inner.0": 3, "inner.1": 2}


@pytest.mark.parametrize("sparse", [False, True])
def test_a_network_that_asks_for_its_version_loads(tmp_path, sparse):
    def build():
        return torchvision.models.mnasnet0_5(weights=None).eval()

    model = build()
    if sparse:
        mask = {
            name: torch.rand(weight.shape) < 0.3
            for name, weight in model.named_parameters()
            if weight.dim() == 4
        }
        model = compress(model, mask, "sparse")
    save(model, tmp_path / "m")
    again, x = load(tmp_path / "m", build()), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again(x), model(x))


class Chained(nn.Module):
    """A class of one's own around chains of layers that `compress` joins."""

    def __init__(self):
        super().__init__()
        layers = (nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
        self.body = nn.ModuleDict({"net": nn.Sequential(*layers)})

    def forward(self, x):
        return self.body["net"](x)


def test_containers_of_a_given_model_become_those_of_the_file(tmp_path):
    dense = Chained()
    mask = {name: torch.rand(64, 64) < 0.05 for name, p in dense.named_parameters() if p.dim() == 2}
    small, x = compress(dense, mask, "sparse").eval(), torch.randn(32, 64)
    for model, skeleton in ((small, Chained()), (dense, small), (small, small), (dense, dense)):
        before = [type(module) for module in skeleton.modules()]
        save(model, tmp_path / "m", overwrite=True)
        again = load(tmp_path / "m", skeleton)
        assert [type(m) for m in again.modules()] == [type(m) for m in model.modules()]
        assert [type(module) for module in skeleton.modules()] == before
        with torch.no_grad():
            assert torch.equal(again(x), model(x))
