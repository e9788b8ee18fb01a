"""Mutated files under a valid checksum: a ValueError that names the file, or a model.

    SPARSEQ_MUTATIONS=50000 pytest tests/files/test_mutations.py

tries that many files, each given by its number; a file that fails is named by it.
"""

from __future__ import annotations

import copy
import json
import os
import random
import resource
import signal
import warnings
from collections import Counter
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from torch import nn

from sparseq.files.container import pack_container, write_container
from sparseq.files.contents import describe_file
from sparseq.files.mask_file import read_mask, write_mask
from sparseq.files.model_file import MODEL_BUILDERS, load, recorded_builder, save
from sparseq.files.modules import module_specs
from sparseq.nn import ExpanderConv2d, ExpanderLinear, QLinear, SparseConv2d, SparseLinear
from sparseq.train import load_checkpoint
from tests.files.resigning import joined, parts, resigned

CASES = int(os.environ.get("SPARSEQ_MUTATIONS", 2000))
MOST = 2**26  # bytes that a file may take
SECONDS = 20  # of a file, after which it hangs
NASTY = [
    *(None, True, False, [], {}, "", "x", "\0", "a.b", "é" * 300, [[]], [[[[1]]]], {"": {}}),
    *(0, 1, -1, 2, 7, 255, 2**31 - 1, 2**31, 2**32, 2**62, 2**63 - 1, 2**63, -(2**63), 10**30),
    *(0.5, -0.0, 1e308, float("inf"), float("nan"), [10**6, 10**6], [0, 10**18], [-1], [1] * 200),
    *(
        "Linear",
        "SparseLinear",
        "ExpanderLinear",
        "Sequential",
        "ModuleDict",
        "Bilinear",
        "QLinear",
    ),
    *("regular", "regular(tries=1000000000)", "random", "block(2)", "block(3, xnet)", "radix"),
    *("(" * 500, "block(1, " * 100, "regular(pick=10**9)", "circulant", "F4", "U64", "BOOL", "C64"),
    {"type": "Linear", "args": {"in_features": 10**6, "out_features": 10**6}},
    {"type": "ExpanderLinear", "args": {"in_features": 10**6, "out_features": 10**6, "degree": 3}},
    {"custom": "Own"},
    {"same_as": ""},
]


class Own(nn.Module):
    """A class that only a registered builder can build."""

    def __init__(self, width, depth):
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(width, width) for _ in range(min(depth, 9))))

    def forward(self, x):
        return self.layers(x)


def pruned(*sizes, density=0.2):
    keep = torch.rand(*sizes) < density
    return SparseLinear.from_dense(nn.Linear(sizes[1], sizes[0]), keep)


def linear_model():
    first = nn.Linear(40, 40)
    first.weight.data.mul_(torch.rand(40, 40) < 0.05)
    model = nn.Sequential(first, pruned(40, 40), nn.ReLU(), QLinear(40, 8), pruned(4, 8), first)
    model = nn.Sequential(*model[:4], nn.BatchNorm1d(8), model[4])
    model[1].bias = first.bias
    model[0].bias.requires_grad_(False)
    return model, torch.randn(3, 40)


def image_model():
    keep = torch.rand(8, 4, 3, 3) < 0.3
    conv = SparseConv2d.from_dense(nn.Conv2d(4, 8, 3, padding=1), keep)
    layers = (conv, nn.ReLU(), ExpanderConv2d(8, 8, 3, 2, "xnet"), nn.MaxPool2d(2), nn.Flatten())
    head = ExpanderLinear(72, 6, 3, "regular(tries=2)")
    return nn.Sequential(*layers, head, nn.Softmax(1)), torch.randn(2, 4, 8, 8)


def built_model():
    model = Own(6, 2)
    model.recipe = {"name": "own", "kwargs": {"width": 6, "depth": 2}}
    return model, torch.randn(2, 6)


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """(bytes, function that reads the file), of files of all kinds."""
    folder = tmp_path_factory.mktemp("originals")
    MODEL_BUILDERS._entries["own"] = Own
    files = []
    for number, make in enumerate((linear_model, image_model, built_model)):
        model, x = make()
        save(model, folder / str(number))
        read = partial(read_model, x=x, unchanged=arguments_of(model))
        files.append(((folder / str(number)).read_bytes(), read))
    write_mask({"a": torch.rand(5, 7) < 0.5, "b": torch.rand(9) < 0.5}, folder / "mask", False)
    files.append(((folder / "mask").read_bytes(), read_mask))
    packed = pack_container({"model.a": torch.ones(3)}, {"epoch": 3}, "checkpoint")
    files.append((packed, load_checkpoint))
    yield files
    del MODEL_BUILDERS._entries["own"]


def read_model(file, x, unchanged):
    """All that is done with a file that somebody else made."""
    describe_file(file)
    recorded_builder(file)
    model = load(file, max_bytes=MOST)
    if arguments_of(model) == unchanged:  # others may compute anything, of any size
        with torch.no_grad():
            model.eval()(x)


def arguments_of(model):
    specs = module_specs(model).items()  # as texts, since -0.0 == 0 == False
    return {path: json.dumps([spec.get("type"), spec.get("args")]) for path, spec in specs}


def places(tree, path=()):
    """Paths of all values of a JSON tree."""
    yield path
    if isinstance(tree, dict | list):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from places(value, (*path, key))


def at(tree, path):
    for key in path:
        tree = tree[key]
    return tree


def change(tree, draw):
    """Replace, remove, copy or nudge a random value of a JSON tree, in place."""
    paths = [path for path in places(tree) if path]
    if not paths:
        return
    *parent, key = draw.choice(paths)
    holder, other = at(tree, parent), copy.deepcopy(at(tree, draw.choice(paths)))
    value = holder[key]
    action = draw.randrange(6)
    if action == 0:
        del holder[key]
    elif action == 1:
        holder[key] = other
    elif action == 2 and isinstance(holder, dict):
        holder[draw.choice(["", "0", "9.weight", "x.y", f"{key}.0", "forward"])] = other
    elif action <= 4 and isinstance(value, int | float):
        holder[key] = value + draw.choice([-1, 1, 7, -value, value, 2**31, -2 * value])
    else:
        holder[key] = copy.deepcopy(draw.choice(NASTY))


def mutated(data, draw):
    """The bytes with one to three random changes, under a valid checksum."""
    index, metadata, tensors = parts(data)
    for _ in range(draw.choice([1, 1, 2, 3])):
        kind = draw.randrange(10)
        if kind < 6 and metadata["description"]:
            change(metadata["description"], draw)
        elif kind == 6 and index:
            change(index, draw)
        elif kind == 7:
            change(metadata, draw)
            metadata.setdefault("description", {})
            if not isinstance(metadata["description"], dict):
                break
        elif tensors:
            tensors = changed_bytes(tensors, draw)
    whole = joined(index, metadata, tensors)
    if draw.random() < 0.1:
        whole = resigned(changed_bytes(whole, draw))
    return whole


def changed_bytes(data, draw):
    data = bytearray(data)
    for _ in range(draw.choice([1, 1, 4])):
        data[draw.randrange(len(data))] = draw.choice([0, 1, 255, draw.randrange(256)])
    cut = draw.randrange(20)
    return bytes(data[: draw.randrange(len(data))] if cut == 0 else data)


@contextmanager
def time_limit(number):
    def hangs(*_):
        pytest.fail(f"file {number} takes longer than {SECONDS} seconds")

    handler = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)


def peak():
    """The most memory that this process has taken, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def verdict(read, path):
    """ "read", "refused" as it must be, or what is wrong."""
    try:
        read(path)
    except ValueError as error:
        return "refused" if repr(str(path)) in str(error) else f"the file is not named: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "read"


def test_a_mutated_file_is_a_value_error_that_names_it_or_a_model(originals, tmp_path):
    path, verdicts = tmp_path / "mutated.sparseq", Counter()
    torch.set_num_threads(1)
    for number in range(CASES):
        data, read = originals[number % len(originals)]
        path.write_bytes(mutated(data, random.Random(number)))
        before = peak()
        with time_limit(number), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = verdict(read, path)
        assert result in ("read", "refused"), f"file {number}: {result}"
        verdicts[result] += 1
        grown = peak() - before
        assert grown < 4 * MOST, f"file {number} takes {grown:,} bytes"
    print(f"{CASES} files: {dict(verdicts)}")
    assert CASES < 1000 or 0.05 < verdicts["read"] / CASES < 0.5  # both ends are reached


def test_files_that_are_not_mutated_are_read(originals, tmp_path):
    for number, (data, read) in enumerate(originals):
        for same in (data, joined(*parts(data))):
            (tmp_path / str(number)).write_bytes(same)
            read(tmp_path / str(number))
    with pytest.raises(ValueError, match="must contain a model, got a mask"):
        load(tmp_path / "3")
    write_container(tmp_path / "empty", {}, {}, "model")
    with pytest.raises(ValueError, match="entry 'training' must be a bool"):
        load(tmp_path / "empty")
