"""Specs of modules: every registered type is rebuilt from its own spec."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from sparseq.files.modules import (
    build_module,
    build_tree,
    custom_modules,
    module_spec,
    module_specs,
    tuples,
)
from sparseq.formats import CSRPattern
from sparseq.nn import SparseLinear, SparseQLinear
from sparseq.nn.layer_types import LAYER_TYPES, layer_type
from sparseq.nn.quaternion.linear import QLinear

# positional arguments, none of them the default
ARGUMENTS = {
    "Sequential": [],
    "SparseSequential": [],
    "ModuleList": [],
    "ModuleDict": [],
    "Linear": [3, 5, False],
    "Bilinear": [3, 4, 5, False],
    "Embedding": [7, 3, 1, 2.0, 1.0, True],
    "Identity": [],
    "Flatten": [2, 3],
    "Unflatten": [1, (2, 3)],
    "LayerNorm": [(3, 4), 1e-3, False],
    "GroupNorm": [2, 6, 1e-3, False],
    "ReLU": [True],
    "ReLU6": [True],
    "LeakyReLU": [0.3, True],
    "PReLU": [3, 0.5],
    "ELU": [0.7, True],
    "GELU": ["tanh"],
    "SiLU": [True],
    "Mish": [True],
    "Hardtanh": [-2.0, 3.0, True],
    "Hardswish": [True],
    "Softplus": [2.0, 10.0],
    "Sigmoid": [],
    "Tanh": [],
    "Softmax": [1],
    "LogSoftmax": [1],
    "ZeroPad2d": [(1, 2, 3, 4)],
    "Upsample": [None, 2.0, "bilinear", True],
    "QLinear": [8, 4, False],
    "ImageToQuaternion": [],
    "Residual": [nn.Identity(), nn.Identity()],
    "QMaxPool2d": [3, 2, 1, 2, True],
    "VectorMaxPool2d": [3, 2, 1, 2, True, True],
    "QModReLU": [8, -0.5],
    "QuaternionToReal": [],
    "QDropout": [0.25, True],
    "ExpanderLinear": [8, 12, 4, "block(4, xnet)"],
    "ExpanderQLinear": [16, 12, 2, "circulant"],
}
for _number in (1, 2, 3):
    ARGUMENTS[f"Conv{_number}d"] = [4, 6, 3, 2, 1, 2, 2, False, "circular"]
    ARGUMENTS[f"ConvTranspose{_number}d"] = [4, 6, 3, 2, 1, 1, 2, False, 1]
    ARGUMENTS[f"QConv{_number}d"] = [16, 8, 3, 2, 1, 2, 2, False, "circular"]
    ARGUMENTS[f"QConvTranspose{_number}d"] = [16, 8, 3, 2, 1, 1, 2, False, 1]
    ARGUMENTS[f"BatchNorm{_number}d"] = [5, 1e-3, None, False, False]
    ARGUMENTS[f"QBatchNorm{_number}d"] = [8, 1e-3, None, False, False]
    ARGUMENTS[f"Dropout{_number}d"] = [0.25, True]
    ARGUMENTS[f"MaxPool{_number}d"] = [3, 2, 1, 2, True, True]
    ARGUMENTS[f"AvgPool{_number}d"] = [3, 2, 1, True, False]
    ARGUMENTS[f"AdaptiveAvgPool{_number}d"] = [2]
    ARGUMENTS[f"AdaptiveMaxPool{_number}d"] = [2, True]
ARGUMENTS["ImageToQuaternion"] = []
for _name in ("ExpanderConv1d", "ExpanderConv2d", "ExpanderQConv1d", "ExpanderQConv2d"):
    ARGUMENTS[_name] = [8, 12, 3, 2]
ARGUMENTS["Dropout"] = [0.25, True]


def sparse_layer(name):
    mask = torch.rand(8, 4, generator=torch.Generator().manual_seed(0)) < 0.4
    if name == "SparseLinear":
        return SparseLinear(4, 8, CSRPattern.from_mask(mask), bias=False)
    if "Conv" in name:
        kind = LAYER_TYPES.get(name).layer
        twin = kind.dense(16, 8, 3, 2, 1, 2, 2, False, "circular")
        return kind.from_dense(twin)
    return SparseQLinear(16, 8, CSRPattern.from_mask(mask), bias=False)


@pytest.mark.parametrize("name", LAYER_TYPES.names())
def test_registered_types_are_rebuilt(name):
    kind = LAYER_TYPES.get(name).layer
    sparse = name.startswith(("SparseLinear", "SparseQLinear", "SparseConv", "SparseQConv"))
    module = sparse_layer(name) if sparse else kind(*ARGUMENTS[name])
    spec = json.loads(json.dumps(module_spec(module)))
    again = build_module("a", spec)
    assert type(again) is kind
    assert tuples(module_spec(again)) == tuples(spec)
    if not sparse:  # the pattern of a sparse layer is part of its state
        assert repr(again) == repr(module)
        assert {k: v.shape for k, v in again.state_dict().items()} == {
            k: v.shape for k, v in module.state_dict().items()
        }


def test_quaternion_options_survive():
    layer = QLinear(8, 4, init="glorot", algorithm="16")
    assert build_module("", module_spec(layer)).extra_repr() == layer.extra_repr()
    pattern = CSRPattern.from_mask(torch.ones(2, 4, dtype=torch.bool))
    layer = SparseQLinear(16, 8, pattern, granularity="quaternion")
    assert build_module("", module_spec(layer)).granularity == "quaternion"


def test_defaults_are_omitted():
    assert module_spec(nn.ReLU()) == {"type": "ReLU"}
    assert module_spec(nn.Linear(3, 4)) == {
        "type": "Linear",
        "args": {"in_features": 3, "out_features": 4},
    }


def test_subclasses_and_unknown_types_are_custom():
    class Linear(nn.Linear):
        pass

    spec = module_spec(Linear(3, 4))
    assert spec["custom"].endswith("Linear")
    model = nn.Sequential(nn.ReLU(), Linear(3, 4))
    assert custom_modules(module_specs(model)) == [f"1 ({spec['custom']})"]


def test_trees_are_rebuilt_with_shared_modules_and_names():
    shared = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    model = nn.Sequential()
    model.add_module("first", shared)
    model.add_module("list", nn.ModuleList([nn.Identity(), shared]))
    model.add_module("dict", nn.ModuleDict({"again": shared[0]}))
    specs = module_specs(model)
    assert specs["list.1"] == {"same_as": "first"}
    again = build_tree(json.loads(json.dumps(specs)))
    assert repr(again) == repr(model)
    assert again.list[1] is again.first
    assert again.dict["again"] is again.first[0]
    assert module_specs(again) == specs


def test_modes_that_differ_are_recorded():
    model = nn.Sequential(nn.Dropout(), nn.Dropout()).eval()
    model[1].train()
    specs = module_specs(model)
    assert [specs[path].get("training") for path in ("", "0", "1")] == [None, None, True]


def test_invalid_specs_are_refused():
    with pytest.raises(ValueError, match=r"unknown module type 'Nope'; choose one of: Adaptive"):
        build_module("a", {"type": "Nope"})
    with pytest.raises(ValueError, match="spec of module 'a' must be valid arguments of Linear"):
        build_module("a", {"type": "Linear", "args": {"nope": 1}})
    sizes = {"in_features": 3, "out_features": 2}
    for store in (3, "float", {"name": "nope"}, {"name": "float", "bits": 4}):
        with pytest.raises(ValueError, match="must be valid arguments of SparseLinear"):
            build_module("a", {"type": "SparseLinear", "args": {**sizes, "store": store}})
    with pytest.raises(ValueError, match="must name an earlier module"):
        build_tree({"": {"type": "Sequential"}, "a": {"same_as": "b"}})


def test_a_type_is_registered_once():
    with pytest.raises(ValueError, match="registered twice"):
        layer_type()(nn.Linear)


def test_numbers_of_numpy_and_torch_are_written_as_numbers():
    layers = [
        nn.Linear(np.int64(3), np.int32(4)),
        nn.Dropout(np.float32(0.25), np.bool_(True)),
        nn.MaxPool2d(tuple(np.array([2, 3])), stride=torch.tensor(2)),
        nn.LayerNorm(np.array([3, 4]).tolist(), eps=np.float64(1e-3)),
    ]
    spec = [module_spec(layer) for layer in layers]
    assert json.loads(json.dumps(spec)) == spec
    assert spec[1]["args"] == {"p": 0.25, "inplace": True}
    again = [build_module("", entry) for entry in spec]
    assert repr(again[0]) == "Linear(in_features=3, out_features=4, bias=True)"
    assert [module_spec(layer) for layer in again] == spec


def test_an_argument_that_is_no_json_is_named():
    layer = nn.Dropout(0.5)
    layer.p = object()
    with pytest.raises(ValueError, match=r"save: argument 'p' of a Dropout must be numbers"):
        module_spec(layer)
