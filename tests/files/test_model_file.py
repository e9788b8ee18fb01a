"""Model files: models survive bit for bit; other files are neither read nor overwritten."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from sparseq import models
from sparseq.compression.sparsify import compress
from sparseq.files.contents import describe_file
from sparseq.files.model_file import MODEL_BUILDERS, load, save
from sparseq.nn import SparseLinear, SparseQLinear
from sparseq.nn.quaternion.linear import QLinear


def pruned(model, density=0.1, whole=False):
    generator = torch.Generator().manual_seed(3)
    mask = {}
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            keep = torch.rand(parameter.shape, generator=generator) < density
            mask[name] = keep[:1].expand_as(keep).clone() if whole else keep
    return compress(model, mask, "sparse")


def bits(tensor):
    return tensor.detach().contiguous().view(-1).view(torch.uint8)


def assert_same_state(one, other):
    states = one.state_dict(), other.state_dict()
    assert list(states[0]) == list(states[1])
    for name, tensor in states[0].items():
        assert tensor.dtype == states[1][name].dtype, name
        assert tensor.shape == states[1][name].shape, name
        assert torch.equal(bits(tensor), bits(states[1][name])), name


def round_trip(model, folder, skeleton=None):
    save(model, folder / "m.sparseq")
    again = load(folder / "m.sparseq", skeleton)
    assert_same_state(again, model)
    assert [type(module) for module in again.modules()] == [type(m) for m in model.modules()]
    return again


class Custom(nn.Module):
    def __init__(self, width=12, layer=nn.Linear):
        super().__init__()
        self.first = layer(8, width)
        self.norm = nn.BatchNorm1d(width)
        self.last = nn.Linear(width, 4)
        self.scale = nn.Parameter(torch.full((4,), 2.0))

    def forward(self, x):
        return self.last(torch.tanh(self.norm(self.first(x)))) * self.scale


@pytest.mark.parametrize("algebra", ["real", "quaternion"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("whole", [False, True])
def test_a_compressed_model_survives_bit_for_bit(tmp_path, algebra, dtype, whole):
    model = models.build("lenet_12", algebra, in_shape=(1, 8, 8)).to(dtype)
    model = pruned(model, whole=whole and algebra == "quaternion")
    again = round_trip(model, tmp_path)
    x = torch.randn(7, 1, 8, 8).to(dtype)
    assert torch.equal(again(x), model(x))
    assert again.recipe == model.recipe


@pytest.mark.parametrize("algebra", ["real", "quaternion"])
def test_a_dense_model_survives(tmp_path, algebra):
    model = models.build("lenet_12", algebra, in_shape=(1, 8, 8))
    again = round_trip(model, tmp_path)
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(again(x), model(x))


@pytest.mark.parametrize("density", [0.0, 0.01, 0.5, 1.0])
def test_patterns_of_any_density(tmp_path, density):
    model = nn.Sequential(nn.Linear(70, 30), nn.ReLU(), nn.Linear(30, 10))
    again = round_trip(pruned(model, density), tmp_path)
    again[0].row_ptr_t.sum()  # the transposed pattern was rebuilt
    again(torch.randn(3, 70)).sum().backward()


def test_a_network_of_many_layers_survives_with_mode_and_options(tmp_path):
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect"),
        nn.BatchNorm2d(4, eps=1e-3),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.3),
        pruned(nn.Linear(16, 8)),
    )
    model(torch.randn(5, 2, 4, 4))
    model.eval()
    model[5].train()
    again = round_trip(model, tmp_path)
    assert repr(again) == repr(model)
    assert [m.training for m in again.modules()] == [m.training for m in model.modules()]
    again.eval(), model.eval()
    x = torch.randn(5, 2, 4, 4)
    assert torch.equal(again(x), model(x))


def test_shared_modules_stay_shared_and_are_stored_once(tmp_path):
    block = nn.Sequential(pruned(nn.Linear(8, 8)), nn.ReLU())
    model = nn.Sequential(block, block, block[0])
    again = round_trip(model, tmp_path)
    assert again[0] is again[1]
    assert again[2] is again[0][0]
    names = {row.name for row in describe_file(tmp_path / "m.sparseq")}
    assert "0.0.values" in names
    assert "1.0.values" not in names


def test_shared_weights_stay_shared(tmp_path):
    model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 9, bias=False))
    model[1].weight = model[0].weight
    again = round_trip(model, tmp_path)
    assert again[1].weight is again[0].weight


def test_frozen_parameters_stay_frozen(tmp_path):
    model = nn.Sequential(nn.Linear(3, 4), pruned(nn.Linear(4, 4)))
    model[0].weight.requires_grad_(False)
    model[1].values.requires_grad_(False)
    again = round_trip(model, tmp_path)
    flags = [parameter.requires_grad for parameter in model.parameters()]
    assert [parameter.requires_grad for parameter in again.parameters()] == flags


@pytest.mark.parametrize("layer", [SparseLinear, SparseQLinear, QLinear, nn.Linear])
def test_a_bare_layer(tmp_path, layer):
    dense = QLinear(8, 8) if layer in (QLinear, SparseQLinear) else nn.Linear(8, 8)
    round_trip(pruned(dense, 0.3) if hasattr(layer, "pattern") else dense, tmp_path)


def test_odd_tensors(tmp_path):
    model = nn.Linear(3, 4)
    with torch.no_grad():
        model.weight = nn.Parameter(torch.tensor([float("nan"), -0.0, float("inf")]).expand(4, 3))
    round_trip(model, tmp_path)


def test_custom_models_load_through_a_skeleton(tmp_path):
    model = pruned(Custom().double())
    skeleton = Custom()
    before = copy.deepcopy(skeleton.state_dict())
    again = round_trip(model, tmp_path, skeleton)
    x = torch.randn(6, 8, dtype=torch.float64)
    assert torch.equal(again(x), model(x))
    assert type(skeleton.first) is nn.Linear
    assert all(torch.equal(value, before[name]) for name, value in skeleton.state_dict().items())


def test_a_skeleton_may_be_on_the_meta_device(tmp_path):
    model = pruned(Custom())
    with torch.device("meta"):
        skeleton = Custom()
    again = round_trip(model, tmp_path, skeleton)
    assert torch.equal(again.eval()(torch.ones(2, 8)), model.eval()(torch.ones(2, 8)))


def test_custom_models_need_a_skeleton_that_fits(tmp_path):
    path = tmp_path / "m.sparseq"
    save(pruned(Custom()), path)
    with pytest.raises(ValueError, match=r"load\(path, model=...\), got model \(Custom\)"):
        load(path)
    other = Custom()
    other.scale = nn.Parameter(torch.ones(5))
    with pytest.raises(ValueError, match=r"(?s)model must fit the file.*scale"):
        load(path, other)
    with pytest.raises(ValueError, match=r"must have the modules of the file.*'first'"):
        load(path, nn.Sequential(Custom()))
    smaller = Custom()
    del smaller.scale
    with pytest.raises(ValueError, match=r"(?s)model must fit the file.*scale"):
        load(path, smaller)


def test_layers_of_a_skeleton_become_those_of_the_file(tmp_path):
    model = Custom()
    model.norm.eps = 0.5
    save(model, tmp_path / "m")
    again = load(tmp_path / "m", Custom(width=16))
    assert repr(again) == repr(model)
    assert torch.equal(again.eval()(torch.ones(2, 8)), model.eval()(torch.ones(2, 8)))


def test_a_skeleton_must_share_as_the_file_does(tmp_path):
    one, two = nn.Linear(4, 4), nn.Linear(4, 4)
    save(nn.Sequential(one, two), tmp_path / "m")
    with pytest.raises(ValueError, match="shared in the same way"):
        load(tmp_path / "m", nn.Sequential(one, one))
    two.weight = one.weight
    with pytest.raises(ValueError, match="share only"):
        load(tmp_path / "m", nn.Sequential(one, two))


def test_registered_builders_rebuild_custom_models(tmp_path, monkeypatch):
    monkeypatch.setattr(MODEL_BUILDERS, "_entries", dict(MODEL_BUILDERS._entries))
    MODEL_BUILDERS.register("mine")(Custom)
    model = Custom(width=16, layer=QLinear)
    model.recipe = {"name": "mine", "kwargs": {"width": 16}}
    again = round_trip(pruned(model), tmp_path)  # quaternion, where the builder makes it real
    assert again.recipe == model.recipe


def test_another_attribute_called_recipe_is_left_alone(tmp_path):
    model = nn.Linear(2, 2)
    model.recipe = torch.ones(2)
    assert not hasattr(round_trip(model, tmp_path), "recipe")


def test_a_file_runs_no_code_that_it_names(tmp_path):
    code = tmp_path / "code.py"
    code.write_text("raise SystemExit('executed')")
    model = Custom()
    model.recipe = {"name": f"{code}:build", "kwargs": {}}
    save(model, tmp_path / "m.sparseq")
    with pytest.raises(ValueError, match="only their own code can build"):
        load(tmp_path / "m.sparseq")
    assert b"pickle" not in (tmp_path / "m.sparseq").read_bytes()


def test_numbers_of_numpy_in_the_recipe_are_written_as_numbers(tmp_path):
    model = nn.Linear(2, 2)
    kwargs = {"width": np.int64(3), "shape": (np.int32(1), 2), "rate": np.float32(0.5)}
    model.recipe = {"name": "mine", "kwargs": kwargs}
    save(model, tmp_path / "m")
    assert load(tmp_path / "m").recipe["kwargs"] == {"width": 3, "shape": [1, 2], "rate": 0.5}


def test_loading_touches_no_global_randomness(tmp_path):
    save(nn.Sequential(nn.Linear(3, 4), QLinear(4, 4)), tmp_path / "m")
    state = torch.get_rng_state()
    load(tmp_path / "m")
    assert torch.equal(torch.get_rng_state(), state)


def test_saving_changes_nothing_and_is_reproducible(tmp_path):
    model = pruned(models.build("lenet_12", in_shape=(1, 8, 8)))
    before = copy.deepcopy(model.state_dict())
    save(model, tmp_path / "one")
    save(model, tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_existing_files_are_kept_unless_asked(tmp_path):
    path = tmp_path / "m.sparseq"
    path.write_bytes(b"precious")
    with pytest.raises(FileExistsError, match="pass overwrite=True"):
        save(nn.Linear(2, 2), path)
    assert path.read_bytes() == b"precious"
    save(nn.Linear(2, 2), path, overwrite=True)
    load(path)


def test_models_that_cannot_be_stored_are_refused(tmp_path):
    with pytest.raises(ValueError, match="state 'weight' must contain data, got a meta tensor"):
        save(nn.Linear(2, 2, device="meta"), tmp_path / "m")

    class Extra(nn.Linear):
        def get_extra_state(self):
            return {"anything": 1}

    with pytest.raises(ValueError, match="'_extra_state' must be a dense tensor, got dict"):
        save(Extra(2, 2), tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_modified_truncated_and_other_files_are_refused(tmp_path):
    path = tmp_path / "m.sparseq"
    save(pruned(nn.Linear(9, 9)), path)
    data = path.read_bytes()
    for bad in (data[:-1], data[:40], data[:-1] + b"?", b"hello", b""):
        path.write_bytes(bad)
        for read in (load, describe_file):
            with pytest.raises(ValueError, match=r"read model: file '.*m.sparseq' must"):
                read(path)
    safetensors.torch.save_file({"weight": torch.ones(2, 2)}, path)
    with pytest.raises(ValueError, match="another program"):
        load(path)
