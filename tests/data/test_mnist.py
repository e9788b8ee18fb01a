import gzip
import hashlib
import os
from pathlib import Path

import pytest
import torch

from sparseq.data import Request, load_data
from sparseq.data.idx import parse_idx, read_idx
from sparseq.data.mnist import FASHION_MNIST, MNIST, Variant, read_variant

ROOT = os.environ.get("SPARSEQ_DATA")
needs_data = pytest.mark.skipif(not ROOT, reason="SPARSEQ_DATA is not set")


def idx(tensor):
    sizes = b"".join(size.to_bytes(4, "big") for size in tensor.shape)
    return bytes([0, 0, 8, tensor.dim()]) + sizes + tensor.numpy().tobytes()


@pytest.fixture
def small(tmp_path):
    """A root with five training and three test images, all files gzipped."""
    generator = torch.Generator().manual_seed(0)
    raw = tmp_path / "Small" / "raw"
    raw.mkdir(parents=True)
    files = {}
    for name, shape in (
        ("a-images", (5, 2, 3)),
        ("a-labels", (5,)),
        ("b-images", (3, 2, 3)),
        ("b-labels", (3,)),
    ):
        content = idx(torch.randint(0, 10, shape, generator=generator, dtype=torch.uint8))
        (raw / f"{name}.gz").write_bytes(gzip.compress(content))
        files[name] = hashlib.md5(content).hexdigest()
    return Variant("Small", 0.5, 0.25, files), tmp_path, raw


def test_reads_gzipped_files_in_place_without_writing(small):
    variant, root, raw = small
    before = sorted(raw.iterdir())
    train, test = read_variant(variant, Request(root))
    assert train.x.shape == (5, 1, 2, 3)
    assert test.y.shape == (3,)
    stored = parse_idx(gzip.decompress((raw / "a-images.gz").read_bytes()), "x")
    torch.testing.assert_close(train.x.squeeze(1), (stored.float() / 255 - 0.5) / 0.25)
    assert sorted(raw.iterdir()) == before


def test_reads_decompressed_files_too(small):
    variant, root, raw = small
    train, _ = read_variant(variant, Request(root))
    for packed in list(raw.glob("*.gz")):
        packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
        packed.unlink()
    assert torch.equal(read_variant(variant, Request(root))[0].x, train.x)


def test_missing_files_are_named_with_a_hint(small):
    variant, root, raw = small
    (raw / "b-labels.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"Small: .*raw has no b-labels .*SPARSEQ_DATA"):
        read_variant(variant, Request(root))
    with pytest.raises(FileNotFoundError, match=r"no a-images, a-labels.*download=True"):
        read_variant(variant, Request(root / "elsewhere"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-20],
        lambda data: data[:40] + bytes([data[40] ^ 1]) + data[41:],
        lambda data: b"not gzipped at all",
        lambda data: b"",
        lambda data: gzip.compress(b"another file"),
    ],
)
def test_damaged_files_are_rejected(small, damage):
    variant, root, raw = small
    path = raw / "a-images.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(
        ValueError, match=r"a-images.gz (is damaged|cannot be decompressed).*download it again"
    ):
        read_variant(variant, Request(root))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0\0",
        b"\0\0\x08\0",
        b"\0\0\x0d\x01\0\0\0\0",
        b"\0\0\x08\x02\0\0\0\x01",
        b"\0\0\x08\x01\0\0\0\x02a",
        b"\0\0\x08\x01\0\0\0\0",
        b"\x01\0\x08\x01\0\0\0\x01a",
    ],
)
def test_other_content_than_idx_is_rejected(content):
    with pytest.raises(ValueError, match="somewhere"):
        parse_idx(content, "somewhere")


def test_another_md5_is_rejected(tmp_path):
    (tmp_path / "x").write_bytes(idx(torch.zeros(3, dtype=torch.uint8)))
    with pytest.raises(ValueError, match="expected 00"):
        read_idx(tmp_path, "x", "00")


def test_without_a_folder_the_error_lists_the_ways_to_specify_it(monkeypatch):
    monkeypatch.delenv("SPARSEQ_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match=r"MNIST needs a data folder.*--data-dir"):
        load_data("mnist")


def test_a_failed_download_is_an_error(tmp_path, monkeypatch):
    from torchvision import datasets

    monkeypatch.setattr(datasets.MNIST, "mirrors", [f"{tmp_path.as_uri()}/nowhere/"])
    with pytest.raises(FileNotFoundError, match="MNIST could not be downloaded"):
        load_data("mnist", data_dir=tmp_path, download=True)


@needs_data
@pytest.mark.parametrize(("name", "variant"), [("mnist", MNIST), ("fashion_mnist", FASHION_MNIST)])
def test_real_images(name, variant):
    bundle = load_data(name, data_dir=ROOT)
    sizes = [len(split) for split in (bundle.train, bundle.validation, bundle.test)]
    assert sizes == [54000, 6000, 10000]
    assert abs(bundle.train.x.mean()) < 2e-3
    assert abs(bundle.train.x.std() - 1) < 2e-3
    assert bundle.test.y.bincount().tolist() == (
        [1000] * 10
        if variant is FASHION_MNIST
        else [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    )


@needs_data
def test_images_are_those_of_torchvision(tmp_path):
    from torchvision import datasets

    (tmp_path / "MNIST").mkdir()
    (tmp_path / "MNIST" / "raw").mkdir()
    for name in MNIST.files:
        source = Path(ROOT, "MNIST", "raw", f"{name}.gz")
        if not source.is_file():
            pytest.skip("the images are not gzipped")
        (tmp_path / "MNIST" / "raw" / source.name).symlink_to(source)
    theirs = datasets.MNIST(tmp_path, train=False, download=True)
    ours = read_variant(MNIST, Request(tmp_path))[1]
    torch.testing.assert_close(
        ours.x.squeeze(1) * 0.3081 + 0.1307, theirs.data / 255.0, rtol=0, atol=1e-6
    )
    assert torch.equal(ours.y, theirs.targets)


@needs_data
def test_missing_files_are_downloaded_by_torchvision(tmp_path, monkeypatch, serve):
    from torchvision import datasets

    raw = Path(ROOT, "MNIST", "raw")
    if not (raw / "train-images-idx3-ubyte.gz").is_file():
        pytest.skip("the images are not gzipped")
    monkeypatch.setattr(datasets.MNIST, "mirrors", [f"{serve(raw)}/"])
    bundle = load_data("mnist", data_dir=tmp_path, download=True)
    assert len(bundle.test) == 10000
