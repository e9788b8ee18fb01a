"""The file container: every byte checked, never pickled."""

from __future__ import annotations

import json

import pytest
import safetensors.torch
import torch

from sparseq.files import container
from sparseq.files.container import pack_container, read_container, write_container

TENSORS = {
    "a": torch.arange(6, dtype=torch.float64).view(2, 3).t(),
    "b": torch.tensor([1.5, float("nan")], dtype=torch.bfloat16),
    "none": torch.zeros(0, 3),
    "flag": torch.tensor(True),
}


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "f.sparseq"
    write_container(file, TENSORS, {"x": [1, "y", None]}, "model")
    return file


def test_content_survives(path):
    tensors, manifest = read_container(path, "model")
    assert manifest == {"x": [1, "y", None]}
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        torch.testing.assert_close(tensors[name], tensor, rtol=0, atol=0, equal_nan=True)


def test_it_is_a_safetensors_file_with_the_same_bytes_each_time(path):
    assert safetensors.torch.load_file(path).keys() == TENSORS.keys()
    assert path.read_bytes() == pack_container(TENSORS, {"x": [1, "y", None]}, "model")


def test_every_single_byte_is_checked(path):
    data = path.read_bytes()
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 0x11
        path.write_bytes(changed)
        with pytest.raises(ValueError, match="read model: file"):
            read_container(path, "model")


def test_every_truncation_is_noticed(path):
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match="read model: file"):
            read_container(path, "model")
    path.write_bytes(data[:-1])
    with pytest.raises(ValueError, match="truncated"):
        read_container(path, "model")
    path.write_bytes(data + b"\0")
    with pytest.raises(ValueError, match=rf"must have {len(data)} bytes \(was something appended"):
        read_container(path, "model")


@pytest.mark.parametrize("data", [b"", b"PK\3\4 zip, so torch.save", b"\x80\x02pickle", b"\0" * 64])
def test_foreign_files_are_named(tmp_path, data):
    file = tmp_path / "f"
    file.write_bytes(data)
    with pytest.raises(ValueError, match="must be a sparseq file, got another format"):
        read_container(file, "model")


def test_safetensors_files_of_other_programs_are_named(tmp_path):
    file = tmp_path / "f"
    safetensors.torch.save_file({"a": torch.ones(1)}, file, {"format": "pt"})
    with pytest.raises(ValueError, match="safetensors file of another program"):
        read_container(file, "model")
    safetensors.torch.save_file({"a": torch.ones(1)}, file, {"sparseq": "[1]"})
    with pytest.raises(ValueError, match="readable metadata"):
        read_container(file, "model")
    file.write_bytes((2).to_bytes(8, "little") + b"{x")
    with pytest.raises(ValueError, match="JSON header"):
        read_container(file, "model")


def test_other_kinds_and_newer_versions_are_named(path):
    with pytest.raises(ValueError, match="must contain a mask, got a model"):
        read_container(path, "mask")
    newest = container.FORMAT_VERSION
    path.write_bytes(pack_container({}, {}, "model", newest))
    assert read_container(path, "model") == ({}, {})
    path.write_bytes(pack_container({}, {}, "model", newest + 1))
    rule = rf"version {newest} or older \(upgrade sparseq\), got version {newest + 1}"
    with pytest.raises(ValueError, match=rule):
        read_container(path, "model")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_container(tmp_path / "nowhere", "model")


def test_a_manifest_that_imitates_the_checksum_survives(tmp_path):
    manifest = {'quo"te\\': "é\n", "sha256": "0" * 64, '"sha256":"': "0" * 64}
    write_container(tmp_path / "f", {'"sha256":"' + "0" * 64: torch.ones(1)}, manifest, "model")
    assert read_container(tmp_path / "f", "model")[1] == json.loads(json.dumps(manifest))
