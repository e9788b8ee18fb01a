"""Tensors with many zeros are stored without them, and decoding restores every bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from sparseq import models
from sparseq.compression.sparsify import compress
from sparseq.files.container import check_container, pack_container, read_container, write_container
from sparseq.files.contents import describe_file
from sparseq.files.gap_coding import pack_numbers
from sparseq.files.model_file import load, save
from sparseq.files.tensors import decode_zeros, encode_zeros

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.bool]
SHAPES = [(40, 50), (16, 8, 5, 5), (4, 10, 30), (2000,), (2000, 1)]


def bits(tensor):
    return tensor.detach().contiguous().view(-1).view(torch.uint8)


def with_zeros(shape, dtype, density=0.1):
    generator = torch.Generator().manual_seed(5)
    keep = torch.rand(shape, generator=generator) < density
    return torch.randn(shape, generator=generator).mul(4).to(dtype).masked_fill(~keep, 0)


def round_trip(tensors):
    stored = dict(tensors)
    zeros = encode_zeros(stored, list(tensors))
    size = sum(tensor.nbytes for tensor in stored.values())
    decode_zeros(zeros, stored)
    assert stored.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert stored[name].dtype == tensor.dtype
        assert stored[name].shape == tensor.shape
        assert torch.equal(bits(stored[name]), bits(tensor))
    return zeros, size


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_tensors_survive_in_fewer_bytes(dtype, shape):
    tensor = with_zeros(shape, dtype)
    zeros, size = round_trip({"weight": tensor})
    assert zeros == {"weight": {"shape": list(shape)}}
    kept = int(tensor.count_nonzero())
    assert size < kept * tensor.element_size() + 0.8 * kept + 2


@pytest.mark.parametrize("dtype", DTYPES[:4])
def test_every_bit_survives(dtype):
    tensor = torch.zeros(40, 50, dtype=dtype)
    odd = torch.tensor([-0.0, float("nan"), -float("nan"), float("inf"), 1.0], dtype=dtype)
    tensor[7, :5], tensor[39, 49] = odd, torch.finfo(dtype).smallest_normal / 2
    zeros, size = round_trip({"weight": tensor, "transposed": tensor.t()})
    assert zeros == {"weight": {"shape": [40, 50]}, "transposed": {"shape": [50, 40]}}
    assert size < 2 * (6 * tensor.element_size() + 40)


@pytest.mark.parametrize("dtype", DTYPES[:4])
def test_many_negative_zeros_are_stored_by_position(dtype):
    """They occur in a weight that was multiplied by a mask."""
    keep = with_zeros((40, 50), torch.float32) != 0
    tensor = torch.randn(40, 50, generator=torch.Generator().manual_seed(0)).to(dtype) * keep
    zeros, size = round_trip({"weight": tensor})
    negative = int((tensor.signbit() & (tensor == 0)).sum())
    assert zeros == {"weight": {"shape": [40, 50], "negative": negative}}
    assert size < int(keep.sum()) * (tensor.element_size() + 0.8) + 0.3 * negative
    assert round_trip({"weight": torch.full((40, 50), -0.0, dtype=dtype)})[1] == 252


@pytest.mark.parametrize("shape", SHAPES)
def test_tensors_of_only_zeros_take_one_byte(shape):
    assert round_trip({"weight": torch.zeros(shape)}) == ({"weight": {"shape": list(shape)}}, 1)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(()),
        torch.zeros(0, 3),
        torch.zeros(12),
        torch.ones(90, 90),
        torch.eye(4),
        torch.zeros(90, 90, dtype=torch.complex64),
        torch.ones(8, 8).tril(),
    ],
)
def test_tensors_that_would_not_shrink_are_stored_as_is(tensor):
    assert round_trip({"weight": tensor}) == ({}, tensor.nbytes)


@pytest.mark.parametrize("density", [0, 0.02, 0.3, 0.7, 0.9, 0.95, 0.97, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_file_never_gets_larger(tmp_path, density, dtype):
    for width in (1, 5, 8, 14, 120):
        model = nn.Sequential(nn.Linear(width, 9), nn.Linear(9, 3)).to(dtype)
        model[0].weight.data = with_zeros((9, width), dtype, density)
        save(model, tmp_path / "new", overwrite=True)
        state = {name: value.detach() for name, value in model.state_dict().items()}
        manifest = read_container(tmp_path / "new", "model")[1]
        manifest.pop("zeros", None)
        size = (tmp_path / "new").stat().st_size
        assert size <= len(pack_container(state, manifest, "model"))
        again = load(tmp_path / "new").state_dict()
        assert all(torch.equal(bits(again[name]), bits(state[name])) for name in state)


@pytest.mark.parametrize("algebra", ["real", "quaternion"])
def test_a_pruned_network_shrinks_where_its_layers_stay_dense(tmp_path, algebra):
    model = models.build("lenet_12", algebra, in_shape=(1, 28, 28))
    generator = torch.Generator().manual_seed(1)
    weights = {name: value for name, value in model.named_parameters() if value.dim() > 1}
    mask = {n: torch.rand(w.shape, generator=generator) < 0.1 for n, w in weights.items()}
    sparse = compress(model, mask, "sparse")
    for network in (model, sparse):
        save(network, tmp_path / ("sparse" if network is sparse else "dense"))
    with torch.no_grad():
        for name, weight in weights.items():
            weight.masked_fill_(~mask[name], 0)
    save(model, tmp_path / "zeros")
    sizes = {name: (tmp_path / name).stat().st_size for name in ("dense", "zeros", "sparse")}
    assert sizes["zeros"] < 0.4 * sizes["dense"]
    assert sizes["zeros"] < 1.1 * sizes["sparse"]
    x = torch.randn(3, 1, 28, 28)
    assert torch.equal(load(tmp_path / "zeros")(x), model(x))


def test_shared_weights_are_stored_once_and_stay_shared(tmp_path):
    model = nn.Sequential(nn.Embedding(90, 40), nn.Linear(40, 90, bias=False))
    model[1].weight = model[0].weight
    model[0].weight.data.zero_()
    save(model, tmp_path / "m")
    again = load(tmp_path / "m")
    assert again[1].weight is again[0].weight
    assert (tmp_path / "m").stat().st_size < 1000


def test_the_omitted_zeros_are_described(tmp_path):
    model = nn.Linear(60, 50)
    model.weight.data = with_zeros((50, 60), torch.float32)
    save(model, tmp_path / "m")
    rows = {row.name: row for row in describe_file(tmp_path / "m")}
    assert rows["weight"].encoding == "without the zeros of 50 x 60"
    assert rows["weight"].shape == (int(model.weight.count_nonzero()),)
    assert rows["weight.nonzero"].encoding.startswith("gaps in ")
    assert rows["bias"].encoding == "as is"
    assert sum(row.bytes for row in rows.values()) == (tmp_path / "m").stat().st_size


def test_only_files_that_need_it_have_the_newer_format(tmp_path):
    model = nn.Linear(60, 50)
    for version in (1, 2):
        path = tmp_path / str(version)
        save(model, path)
        assert check_container(path.read_bytes(), path, "model")["version"] == version
        model.weight.data.zero_()


@pytest.mark.parametrize("position", [3000, 2**33])
def test_positions_outside_the_tensor_are_refused(tmp_path, position):
    model = nn.Linear(60, 50)
    model.weight.data.zero_()[0, 0] = 1
    save(model, tmp_path / "m")
    tensors, manifest = read_container(tmp_path / "m", "model")
    tensors["weight.nonzero"] = torch.from_numpy(pack_numbers(np.array([position])))
    write_container(tmp_path / "bad", tensors, manifest, "model", version=2)
    with pytest.raises(ValueError, match=r"must be below 3000, got 3000|fit int32"):
        load(tmp_path / "bad")
