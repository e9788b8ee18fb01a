import numpy as np
import pytest
import scipy.io
import torch

from sparseq.data import CropFlip, load_data
from tests.data.synthetic import md5, pixels


@pytest.fixture
def small(tmp_path, monkeypatch, serve):
    """A root with 40 training and 20 test images, labels 1..10 as in the original."""
    from torchvision.datasets import SVHN

    sources = dict(SVHN.split_list)
    for number, (part, count) in enumerate((("train", 40), ("test", 20))):
        path = tmp_path / f"{part}_32x32.mat"
        labels = (np.arange(count) % 10 + 1).astype(np.uint8)[:, None]
        scipy.io.savemat(path, {"X": pixels(32, 32, 3, count, seed=number), "y": labels})
        sources[part] = [f"{serve(tmp_path)}/{path.name}", path.name, md5(path)]
    monkeypatch.setattr(SVHN, "split_list", sources)
    return tmp_path


def test_images_and_labels_are_those_of_the_files(small):
    bundle = load_data("svhn", data_dir=small)
    assert [len(s) for s in (bundle.train, bundle.validation, bundle.test)] == [36, 4, 20]
    stored = torch.from_numpy(pixels(32, 32, 3, 20, seed=1)).permute(3, 2, 0, 1)
    assert torch.equal(bundle.test.x, stored)
    assert bundle.test.y.tolist() == [(n % 10 + 1) % 10 for n in range(20)]
    assert bundle.train.augment == CropFlip(padding=4, flip=False)
    assert bundle.validation.augment is bundle.test.augment is None


def test_missing_files_are_named_and_downloaded_on_request(small, tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match=r"SVHN: .*no train_32x32.mat, test_32x32.mat; .*"
        r"SPARSEQ_DATA.*--download",
    ):
        load_data("svhn", data_dir=tmp_path / "elsewhere")
    bundle = load_data("svhn", data_dir=tmp_path / "elsewhere", download=True)
    assert len(bundle.test) == 20


def test_damaged_files_are_rejected(small):
    (small / "test_32x32.mat").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"SVHN: .*damaged"):
        load_data("svhn", data_dir=small)
