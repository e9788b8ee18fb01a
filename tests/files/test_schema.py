"""Complete model files with an invalid manifest: the error names the file and the entry."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from sparseq.files.container import read_container, write_container
from sparseq.files.contents import describe_file
from sparseq.files.model_file import load, recorded_builder, save
from sparseq.nn.sparse.linear import SparseLinear

BUILDER = {"name": "mine", "kwargs": {"width": 3}}


@pytest.fixture
def parts(tmp_path):
    """Tensors and manifest of a file that has one of everything."""
    first = nn.Linear(60, 60)
    first.weight.data.mul_(torch.rand(60, 60) < 0.05)
    keep = torch.rand(60, 60) < 0.1
    model = nn.Sequential(first, SparseLinear.from_dense(nn.Linear(60, 60), keep), first)
    model[1].bias = first.bias
    model[0].bias.requires_grad_(False)
    model.recipe = BUILDER
    save(model, tmp_path / "good")
    stored, manifest = read_container(tmp_path / "good", "model")
    assert manifest.keys() == {
        "modules",
        "patterns",
        "zeros",
        "aliases",
        "frozen",
        "training",
        "builder",
    }
    assert manifest["zeros"]["0.weight"]["negative"] > 0
    return stored, manifest


def changed(manifest, path, value):
    """A copy with another value at a path of keys; None removes the key."""
    manifest = copy.deepcopy(manifest)
    entry = manifest
    for key in path[:-1]:
        entry = entry[key]
    if value is None:
        del entry[path[-1]]
    else:
        entry[path[-1]] = value
    return manifest


CASES = [
    (("modules",), None, "entry 'modules' must have a root"),
    (("modules",), [1], "entry 'modules' must be a dict"),
    (("modules", ""), None, "entry 'modules' must have a root"),
    (("modules", "1"), 3, "of module '1' must be a dict, got 3"),
    (("modules", "1"), {}, "of module '1' must name one of type, custom, same_as"),
    (("modules", "1", "custom"), "Net", "of module '1' must name one of type, custom, same_as"),
    (("modules", "1", "type"), 3, "of module '1' must name one of"),
    (("modules", "1", "args"), [3], "of module '1' must have named args"),
    (("modules", "1", "training"), "yes", "of module '1' must have a bool as training, got 'yes'"),
    (("modules", "a.b"), {"type": "ReLU"}, "of module 'a.b' must have a name and follow"),
    (("modules", "1."), {"type": "ReLU"}, "of module '1.' must have a name"),
    (("patterns",), [], "entry 'patterns' must be a dict, got"),
    (("patterns", "1"), "60", "pattern '1' must be its number of rows, got '60'"),
    (("patterns", "7"), 60, "pattern '7' must have a byte stream '7.row_ptr', got None"),
    (("zeros", "0.weight"), [60, 60], "zeros of '0.weight' must give the shape of a tensor"),
    (("zeros", "0.weight", "shape"), [60, -1], "zeros of '0.weight' must give the shape"),
    (("zeros", "0.weight", "negative"), 0.5, "zeros of '0.weight' must give the shape"),
    (("zeros", "0.bias"), {"shape": [60]}, "must have a byte stream '0.bias.nonzero'"),
    (("zeros", "none"), {"shape": [60]}, "zeros of 'none' must give the shape of a tensor"),
    (("aliases", "1.bias"), "nowhere", "alias '1.bias' must name a tensor of the file"),
    (("aliases", "1.bias"), 7, "alias '1.bias' must name a tensor of the file"),
    (("frozen",), [1], "entry 'frozen' must contain names"),
    (("training",), None, "entry 'training' must be a bool, got None"),
    (("training",), "yes", "entry 'training' must be a bool, got 'yes'"),
    (("builder",), {"name": "mine"}, "entry 'builder' must have a name and kwargs"),
]


@pytest.mark.parametrize(("path", "value", "message"), CASES)
def test_an_invalid_entry_is_named(tmp_path, parts, path, value, message):
    file = tmp_path / "bad.sparseq"
    write_container(file, parts[0], changed(parts[1], path, value), "model", version=2)
    for read in (load, describe_file, recorded_builder):
        with pytest.raises(ValueError, match=r"bad\.sparseq': manifest") as error:
            read(file)
        assert message in str(error.value)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("modules", "1", "type"), "Nope", "unknown module type 'Nope'"),
        (("modules", "1", "args"), {"in_features": "x"}, "must be valid arguments of SparseLinear"),
        (("modules", "forward"), {"type": "ReLU"}, "must have an unused name"),
        (("modules", "1"), {"same_as": "2"}, "must name an earlier module"),
        (("patterns", "1"), 61, "bad.sparseq' must contain patterns and zeros that can be decoded"),
        (("zeros", "0.weight", "shape"), [2, 2], "tensor '0.weight' must have shape (60, 60)"),
        (("zeros", "0.weight", "shape"), [10**9, 10**9], "must take at most 1,073,741,824 bytes"),
        (("zeros", "0.weight", "shape"), [10**30], "must take at most 1,073,741,824 bytes"),
        (("zeros", "0.weight", "negative"), 5, "can be decoded"),
        (("zeros", "0.weight", "shape"), [3600], "model must fit the file"),
    ],
)
def test_an_entry_that_cannot_be_used_is_named(tmp_path, parts, path, value, message):
    file = tmp_path / "bad.sparseq"
    write_container(file, parts[0], changed(parts[1], path, value), "model", version=2)
    with pytest.raises(ValueError, match=r"load|unknown") as error:
        load(file)
    assert message in str(error.value)


def test_streams_must_be_bytes(tmp_path, parts):
    for name in ("1.col_idx", "0.weight.nonzero", "0.weight.negative"):
        stored = {**parts[0], name: torch.ones(3)}
        write_container(tmp_path / name, stored, parts[1], "model", version=2)
        with pytest.raises(ValueError, match=f"byte stream '{name}', got 'torch.float32"):
            load(tmp_path / name)


def test_the_recorded_builder_is_read(tmp_path, parts):
    assert recorded_builder(tmp_path / "good") == BUILDER
    save(nn.Linear(2, 2), tmp_path / "plain")
    assert recorded_builder(tmp_path / "plain") == {}
