import os
import pickle
import shutil
import tarfile

import pytest
import torch

from sparseq.data import CropFlip, load_data
from tests.data.synthetic import md5, pixels

NAMES = {"cifar10": ("CIFAR10", "labels"), "cifar100": ("CIFAR100", "fine_labels")}


@pytest.fixture(params=sorted(NAMES))
def small(request, tmp_path, monkeypatch):
    """A root with 20 training (40 of CIFAR-100) and 10 test images of one of the two sets."""
    from torchvision import datasets

    name, key = NAMES[request.param]
    dataset = getattr(datasets, name)
    folder = tmp_path / "root" / dataset.base_folder
    folder.mkdir(parents=True)
    files = [file for file, _ in dataset.train_list + dataset.test_list]
    for number, file in enumerate(files):
        count = 40 if name == "CIFAR100" and file == "train" else 10 if file in files[-1:] else 4
        content = {"data": pixels(count, 3072, seed=number), key: [n % 2 for n in range(count)]}
        (folder / file).write_bytes(pickle.dumps(content))
    (folder / dataset.meta["filename"]).write_bytes(pickle.dumps({dataset.meta["key"]: ["a", "b"]}))
    sums = {path.name: md5(path) for path in folder.iterdir()}
    for part in ("train_list", "test_list"):
        monkeypatch.setattr(dataset, part, [[f, sums[f]] for f, _ in getattr(dataset, part)])
    digest = sums[dataset.meta["filename"]]
    monkeypatch.setattr(dataset, "meta", {**dataset.meta, "md5": digest})
    return request.param, tmp_path / "root", folder, dataset


def test_reads_in_place_and_keeps_uint8(small):
    name, root, folder, dataset = small
    before = sorted(root.rglob("*"))
    bundle = load_data(name, data_dir=root, validation=0.5)
    counts = [len(split) for split in (bundle.train, bundle.validation, bundle.test)]
    assert counts == ([20, 20, 10] if name == "cifar100" else [10, 10, 10])
    assert {split.x.dtype for split in (bundle.train, bundle.test)} == {torch.uint8}
    stored = pickle.loads((folder / dataset.test_list[0][0]).read_bytes())["data"]
    assert torch.equal(bundle.test.x, torch.from_numpy(stored).reshape(-1, 3, 32, 32))
    assert sorted(root.rglob("*")) == before


def test_only_training_images_are_augmented(small):
    name, root, *_ = small
    bundle = load_data(name, data_dir=root)
    assert bundle.train.augment == CropFlip(padding=4, flip=True)
    assert bundle.validation.augment is bundle.test.augment is None
    ((x, _),) = bundle.test.batches(10, seed=0)
    assert x.dtype == torch.float32
    assert -2.5 < x.min() < x.max() < 2.5


def test_missing_files_are_named_with_a_hint(small):
    name, root, folder, dataset = small
    (folder / dataset.test_list[0][0]).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{dataset.__name__}: .*no test.*SPARSEQ_DATA"):
        load_data(name, data_dir=root)
    with pytest.raises(FileNotFoundError, match=r"--download"):
        load_data(name, data_dir=root / "elsewhere")


def test_damaged_files_are_rejected_before_unpickling(small):
    name, root, folder, dataset = small
    path = folder / dataset.train_list[0][0]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"damaged or not the expected .*download them again"):
        load_data(name, data_dir=root)


def test_without_a_folder_the_error_lists_the_ways_to_specify_it(small, monkeypatch):
    monkeypatch.delenv("SPARSEQ_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match=r"CIFAR10.* needs a data folder.*--data-dir"):
        load_data(small[0])


def test_missing_files_are_downloaded_on_request(small, tmp_path, monkeypatch, serve):
    name, root, folder, dataset = small
    archive = tmp_path / dataset.filename
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(folder, dataset.base_folder)
    shutil.rmtree(folder)
    monkeypatch.setattr(dataset, "url", f"{serve(tmp_path)}/{dataset.filename}")
    with pytest.raises(FileNotFoundError, match="could not be downloaded"):
        load_data(name, data_dir=root, download=True)  # the hash is that of the original
    (root / dataset.filename).unlink()
    monkeypatch.setattr(dataset, "tgz_md5", md5(archive))
    assert len(load_data(name, data_dir=root, download=True).test) == 10


@pytest.mark.skipif(not os.environ.get("SPARSEQ_DATA"), reason="SPARSEQ_DATA is not set")
def test_real_images(data_root):
    if not (data_root / "cifar-10-batches-py").is_dir():
        pytest.skip("SPARSEQ_DATA has no CIFAR-10")
    bundle = load_data("cifar10", data_dir=data_root)
    sizes = [len(split) for split in (bundle.train, bundle.validation, bundle.test)]
    assert sizes == [45000, 5000, 10000]
    assert bundle.test.y.bincount().tolist() == [1000] * 10
    assert bundle.train.x.nbytes == 45000 * 3 * 32 * 32
    x = torch.cat([x for x, _ in bundle.train.take(torch.arange(0, 45000, 9)).batches(1000)])
    assert x.mean((0, 2, 3)).abs().max() < 0.02
    assert (x.std((0, 2, 3)) - 1).abs().max() < 0.02
