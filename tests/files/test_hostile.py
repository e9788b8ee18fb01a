"""Files of a few bytes that ask for much: refused at once, by name, and without the memory."""

from __future__ import annotations

import copy
import resource
import time

import pytest
import torch
from torch import nn

from sparseq.files.container import read_container, write_container
from sparseq.files.model_file import MODEL_BUILDERS, load, save
from sparseq.files.tensors import POSITIONS
from sparseq.nn import ExpanderConv2d, ExpanderLinear, QLinear, SparseConv2d, SparseLinear

HUGE = 10**6


def masked(module, density=0.5):
    return type_of_sparse(module).from_dense(module, torch.rand(module.weight.shape) < density)


def type_of_sparse(module):
    return SparseLinear if isinstance(module, nn.Linear) else SparseConv2d


LAYERS = {
    "linear": (nn.Linear(4, 4), {"in_features": HUGE, "out_features": HUGE}),
    "linear of 3.4 GiB": (nn.Linear(4, 4), {"in_features": 30_000, "out_features": 30_000}),
    "embedding": (nn.Embedding(4, 4), {"num_embeddings": 10**8, "embedding_dim": 100}),
    "convolution": (nn.Conv2d(4, 4, 3), {"kernel_size": [50_000, 50_000]}),
    "normalization": (nn.BatchNorm1d(4), {"num_features": 10**9}),
    "quaternion": (QLinear(4, 4), {"in_features": 10**5, "out_features": 10**5}),
    "sparse inputs": (masked(nn.Linear(4, 4)), {"in_features": 2**31 - 1}),
    "sparse outputs": (masked(nn.Linear(4, 4)), {"out_features": 2**30}),
    "sparse kernel": (masked(nn.Conv2d(4, 4, 3)), {"kernel_size": [20_000, 20_000]}),
    "graph of 10^12 cells": (
        ExpanderLinear(8, 8, 2),
        {"in_features": HUGE, "out_features": HUGE, "degree": 3},
    ),
    "graph with a long search": (
        ExpanderLinear(8, 8, 2),
        {"graph": "regular(tries=1000000000)"},
    ),
    "graph with large sets": (ExpanderLinear(8, 8, 2), {"graph": "regular(samples=1000000000)"}),
    "graph of blocks": (
        ExpanderLinear(8, 8, 2),
        {"graph": "block(100000)", "in_features": 10**5, "out_features": 10**5, "degree": 10**5},
    ),
    "graph between slices": (ExpanderConv2d(8, 8, 3, 2), {"kernel_size": [30_000, 30_000]}),
}


@pytest.fixture(autouse=True)
def at_once():
    """The test takes neither time nor memory."""
    before, start = peak(), time.perf_counter()
    yield
    assert time.perf_counter() - start < 10
    assert peak() - before < 2**28


def peak():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def rewritten(model, path, change):
    """Save a model, change its tensors and manifest, and write them again."""
    save(model, path, overwrite=True)
    stored, manifest = read_container(path, "model")
    change(stored, manifest)
    write_container(path, stored, manifest, "model", overwrite=True, version=2)
    assert path.stat().st_size < 100_000


def refused(path, match, *arguments, **options):
    with pytest.raises(ValueError, match=match) as error:
        load(path, *arguments, **options)
    assert repr(str(path)) in str(error.value)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("count", [1, 50])
def test_arguments_of_a_layer_are_compared_with_what_is_stored(tmp_path, name, count):
    layer, arguments = LAYERS[name]

    def change(stored, manifest):
        for path, spec in manifest["modules"].items():
            if path:
                spec.setdefault("args", {}).update(arguments)

    path = tmp_path / "m.sparseq"
    rewritten(nn.Sequential(*(copy.deepcopy(layer) for _ in range(count))), path, change)
    refused(path, r"spec of module|tensor '0\.|layers must take at most|graph")


def test_many_layers_cannot_share_one_tensor_to_grow(tmp_path):
    layers = [nn.Linear(1000, 1000, bias=False, device="meta") for _ in range(90)]
    weight = nn.Parameter(torch.zeros(1000, 1000))
    for layer in layers:
        layer.weight = weight
    save(nn.Sequential(*layers), tmp_path / "m.sparseq")
    assert (tmp_path / "m.sparseq").stat().st_size < 20_000
    refused(tmp_path / "m.sparseq", "the layers must take at most 100,000,000", max_bytes=10**8)


@pytest.mark.parametrize("shape", [[30_000, 30_000], [2**31 - 1], [2**62, 4], [10**30]])
def test_tensors_without_their_zeros_are_bounded(tmp_path, shape):
    first = nn.Linear(40, 40, bias=False)
    first.weight.data.mul_(torch.rand(40, 40) < 0.05)

    def change(stored, manifest):
        assert "0.weight" + POSITIONS in stored
        manifest["zeros"]["0.weight"]["shape"] = shape

    path = tmp_path / "m.sparseq"
    rewritten(nn.Sequential(first), path, change)
    refused(path, "without their zeros must take at most 1,073,741,824 bytes")


def test_the_cap_is_an_argument(tmp_path):
    path = tmp_path / "m.sparseq"
    model = nn.Linear(500, 500)
    model.weight.data.zero_()
    save(model, path)
    refused(
        path, r"at most 1,000,000 bytes .*pass max_bytes to allow more\), got 1,0", max_bytes=10**6
    )
    assert torch.equal(load(path, max_bytes=2 * 10**6).weight, model.weight)
    assert torch.equal(load(path).weight, model.weight)
    for wrong in (-1, 1.5, "1", True):
        refused(path, "max_bytes must be a number of bytes", max_bytes=wrong)
    save(ExpanderLinear(2000, 2000, 1, "xnet"), path, overwrite=True)
    refused(path, r"graph: xnet must be .*max_bytes raises the limit", max_bytes=10**6)


WRONG_KWARGS = [
    ({"nope": 1}, "unexpected keyword argument"),
    ({"in_shape": "x"}, "in_shape"),
    ({"in_shape": [3, 4 * HUGE, 4 * HUGE]}, "tensor|at most"),
    ({"in_shape": None}, "in_shape|NoneType"),
]


@pytest.mark.parametrize(("kwargs", "match"), WRONG_KWARGS)
def test_a_registered_builder_is_tried_before_it_allocates(tmp_path, monkeypatch, kwargs, match):
    from sparseq.models import build

    monkeypatch.setattr("sparseq.models.vae.HIDDEN", (16, 24))
    model = build("vae", in_shape=(1, 8, 8))
    for parameter in model.parameters():
        parameter.data.zero_()
    path = tmp_path / "m.sparseq"
    rewritten(model, path, lambda stored, manifest: manifest["builder"].update(kwargs=kwargs))
    refused(path, match)


class NeedsData(nn.Module):
    """A class whose constructor cannot run on the meta device."""

    def __init__(self, width=3):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(float(torch.ones(width).sum())))
        self.register_buffer("table", torch.arange(3.0), persistent=False)


@pytest.mark.parametrize("error", [KeyError, MemoryError, RecursionError, OverflowError, OSError])
def test_errors_of_a_builder_are_value_errors_that_name_the_file(tmp_path, monkeypatch, error):
    def build(width):
        if width == 7:
            raise error("inside")
        return NeedsData(width)

    monkeypatch.setitem(MODEL_BUILDERS._entries, "mine", build)
    model, path = build(3), tmp_path / "m.sparseq"
    model.recipe = {"name": "mine", "kwargs": {"width": 3}}
    save(model, path)
    assert load(path).scale == 3
    assert torch.equal(load(path).table, torch.arange(3.0))  # of the builder, not of the file
    rewritten(model, path, lambda _, manifest: manifest["builder"].update(kwargs={"width": 7}))
    if error is OSError:
        with pytest.raises(OSError, match="inside"):
            load(path)
    else:
        refused(path, rf"{error.__name__}: '?inside'?")


def test_deeply_nested_modules_are_refused(tmp_path):
    def change(stored, manifest):
        path = ""
        for _ in range(3000):
            path = f"{path}.0" if path else "0"
            manifest["modules"][path] = {"type": "Sequential"}

    file = tmp_path / "m.sparseq"
    save(nn.Sequential(), file)
    stored, manifest = read_container(file, "model")
    change(stored, manifest)
    write_container(file, stored, manifest, "model", overwrite=True)
    refused(file, "RecursionError")


@pytest.mark.parametrize("root", ["a", ""])
def test_modules_that_are_shared_in_levels_are_refused(tmp_path, root):
    def change(stored, manifest):
        path = ""  # each level holds the next one twice: 2^60 paths
        for _ in range(60):
            first, second = f"{path}.a".lstrip("."), f"{path}.b".lstrip(".")
            manifest["modules"][first] = {"type": "Sequential"}
            manifest["modules"][second] = {"same_as": root and first}
            path = first

    file = tmp_path / "m.sparseq"
    rewritten(nn.Sequential(), file, change)
    refused(file, "must have the modules of the file, shared in the same way")


class Scaled(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))


def test_errors_about_a_given_model_name_the_file(tmp_path):
    path = tmp_path / "m.sparseq"
    save(nn.Linear(3, 4), path)
    refused(path, "must have the modules of the file", nn.Sequential(nn.Linear(3, 4)))
    save(Scaled(3), path, overwrite=True)
    refused(path, "model must fit the file", Scaled(4))
