"""Masks on disk."""

from __future__ import annotations

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseq.files.container import write_container
from sparseq.files.mask_file import unpack_mask
from sparseq.pruning import Mask


def random_mask(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Mask(
        {
            f"layer{i}.weight": torch.rand(shape, generator=generator) < 0.3
            for i, shape in enumerate(shapes)
        }
    )


shape_lists = st.lists(st.lists(st.integers(0, 9), max_size=3).map(tuple), max_size=3)


@settings(max_examples=30, deadline=None)
@given(shapes=shape_lists, seed=st.integers(0, 99))
def test_round_trip(tmp_path_factory, shapes, seed):
    path = tmp_path_factory.mktemp("masks") / "mask.safetensors"
    mask = random_mask(*shapes, seed=seed)
    mask.save(path)
    loaded = Mask.load(path)
    assert loaded == mask
    assert list(loaded) == list(mask)


def test_one_bit_per_weight_and_the_same_bytes_each_time(tmp_path):
    mask = random_mask((1000, 80), (7, 3))
    mask.save(tmp_path / "one")
    mask.save(str(tmp_path / "two"))
    size = (tmp_path / "one").stat().st_size
    assert 10_003 <= size < 10_003 + 700
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_permuted_mask_is_saved_by_its_entries(tmp_path):
    keep = torch.rand(5, 6) < 0.5
    Mask({"a": keep.t()}).save(tmp_path / "mask")
    assert torch.equal(Mask.load(tmp_path / "mask")["a"], keep.t())


def test_never_overwrites_unasked(tmp_path):
    first, second = random_mask((5, 5), seed=1), random_mask((5, 5), seed=2)
    first.save(tmp_path / "mask")
    with pytest.raises(FileExistsError, match="overwrite"):
        second.save(tmp_path / "mask")
    assert Mask.load(tmp_path / "mask") == first
    second.save(tmp_path / "mask", overwrite=True)
    assert Mask.load(tmp_path / "mask") == second
    assert [path.name for path in tmp_path.iterdir()] == ["mask"]


def test_every_flipped_byte_is_noticed(tmp_path):
    path = tmp_path / "mask"
    random_mask((9, 5)).save(path)
    data = path.read_bytes()
    for position in range(0, len(data), 7):
        damaged = bytearray(data)
        damaged[position] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="mask"):
            Mask.load(path)


@pytest.mark.parametrize("end", [0, 5, 60, -1])
def test_a_truncated_file_is_refused(tmp_path, end):
    path = tmp_path / "mask"
    random_mask((9, 5)).save(path)
    path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(ValueError, match="mask"):
        Mask.load(path)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "text").write_text("no mask at all, not even close to one\n")
    safetensors.torch.save_file({"a": torch.ones(3)}, tmp_path / "plain")
    write_container(tmp_path / "model", {"a": torch.ones(3)}, {}, "model")
    for name in ("text", "plain", "model"):
        with pytest.raises(ValueError, match=name):
            Mask.load(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        Mask.load(tmp_path / "nothing")


BITS = {"a": torch.zeros(2, dtype=torch.uint8)}


@pytest.mark.parametrize(
    "shapes",
    [
        None,
        {},
        {"b": [9]},
        {"a": [17]},
        {"a": [8]},
        {"a": [-3, -3]},
        {"a": "9"},
        {"a": [9.0]},
        {"a": [10**9, 10**9]},
    ],
)
def test_shapes_that_do_not_fit_the_bits_are_refused(shapes):
    with pytest.raises(ValueError, match=r"Mask.load: file 'x' must"):
        unpack_mask(BITS, {"shapes": shapes}, "x")


def test_bits_of_another_type_are_refused():
    with pytest.raises(ValueError, match="one bit per entry of 'a'"):
        unpack_mask({"a": torch.zeros(2)}, {"shapes": {"a": [9]}}, "x")
