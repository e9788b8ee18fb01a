"""A graph is stored as its name and seed: state_dicts, files and copies have no indices."""

from __future__ import annotations

import copy
import io

import pytest
import safetensors
import torch
from torch import nn

import sparseq
from sparseq.files.contents import describe_file
from sparseq.files.modules import build_module, module_spec
from sparseq.nn import ExpanderLinear, ExpanderQLinear, SparseLinear
from tests.nn.expanders import inputs, make, over_graphs, over_kinds


@over_graphs
@over_kinds
def test_a_state_dict_has_no_indices(kind, graph):
    layer = make(kind, graph)
    assert list(layer.state_dict()) == ["values", "bias"]
    assert list(make(kind, graph, bias=False).state_dict()) == ["values"]
    other = make(kind, graph)
    other.load_state_dict(layer.state_dict())
    x = inputs(layer)
    assert torch.equal(other(x), layer(x))


def through_a_file(state):
    stream = io.BytesIO()
    torch.save(state, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=True)


@over_kinds
@pytest.mark.parametrize("change", [{"seed": 4}, {"graph": "circulant"}])
def test_the_values_of_another_graph_are_refused(kind, change):
    model = nn.Sequential(make(kind, "radix"))
    other = nn.Sequential(make(kind, **{"graph": "radix", **change}))
    for state in (model.state_dict(), through_a_file(model.state_dict())):
        with pytest.raises(RuntimeError, match=r"0: Expander\w+: graph must be .*, got radix of"):
            other.load_state_dict(state)
        model.load_state_dict(state)


def test_misfit_states_are_refused():
    layer = make(ExpanderLinear)
    sparse = SparseLinear.from_dense(layer.to_dense())
    with pytest.raises(RuntimeError, match="ExpanderLinear: state_dict must not contain a pattern"):
        layer.load_state_dict(sparse.state_dict())
    with pytest.raises(RuntimeError, match="size mismatch for values"):
        layer.load_state_dict({"values": torch.zeros(3), "bias": layer.bias})
    with pytest.raises(RuntimeError, match=r"weight must have shape \(48, 32\)"):
        layer.load_state_dict(nn.Linear(48, 32).state_dict())
    with pytest.raises(RuntimeError, match=r"weight must have shape \(4, 48, 32\)"):
        make(ExpanderQLinear).load_state_dict(nn.Linear(128, 192).state_dict())


@over_kinds
def test_layers_built_on_the_meta_device(kind):
    layer = make(kind, "block(4, xnet)")
    x = inputs(layer)
    for assign in (False, True):
        empty = make(kind, "block(4, xnet)", device="meta")
        assert empty.pattern.is_meta
        if not assign:
            empty.to_empty(device="cpu")
        empty.load_state_dict(layer.state_dict(), assign=assign)
        assert torch.equal(empty(x), layer(x))
    emptied = make(kind, "block(4, xnet)").to_empty(device="cpu")
    emptied.load_state_dict(layer.state_dict())
    assert torch.equal(emptied(x), layer(x))
    with torch.device("meta"):
        assert make(kind).values.is_meta


@over_graphs
@over_kinds
def test_a_file_has_no_indices(kind, graph, tmp_path):
    model = nn.Sequential(make(kind, graph, dtype=torch.float64), nn.ReLU())
    model[0].bias.data.fill_(0.5)  # zeros would be stored by their positions
    path = tmp_path / "m.sparseq"
    sparseq.save(model, path)
    with safetensors.safe_open(path, "pt") as file:
        names = list(file.keys())
    assert {name.removesuffix(".nonzero") for name in names} == {"0.values", "0.bias"}
    rows = {row.name: row.bytes for row in describe_file(path)}
    assert rows["0.values"] == model[0].values.nbytes
    again = sparseq.load(path)
    x = inputs(model[0])
    assert torch.equal(again(x), model(x))
    assert torch.equal(again[0].col_idx, model[0].col_idx)
    assert again[0].identity == model[0].identity
    skeleton = nn.Sequential(make(kind, graph, seed=77), nn.ReLU())
    assert torch.equal(sparseq.load(path, skeleton)(x), model(x))


@over_kinds
def test_the_spec_is_the_constructor(kind):
    layer = make(kind, "block(4, xnet)", seed=9, bias=False, init="dense_fan")
    spec = module_spec(layer)
    assert spec["args"]["graph"] == "block(4, of=xnet)"
    again = build_module("", spec)
    assert repr(again) == repr(layer)
    assert module_spec(again) == spec


def test_a_loaded_graph_is_not_searched_for_again():
    layer = ExpanderLinear(24, 24, 3)
    assert layer.graph.startswith("regular(pick=")
    assert module_spec(layer)["args"]["graph"] == layer.graph
    assert torch.equal(build_module("", module_spec(layer)).col_idx, layer.col_idx)


@over_kinds
def test_copies_are_independent(kind):
    layer = make(kind, "group(2, xnet)")
    twin = copy.deepcopy(layer)
    nn.init.zeros_(twin.values)
    assert layer.values.count_nonzero() == layer.nnz
    assert twin.identity == layer.identity
