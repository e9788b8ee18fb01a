import pytest
import torch

from sparseq.data import load_data
from tests.data.synthetic import jpeg

COUNT = 30


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A root with 30 faces: 20 for training, 4 for validation, 6 for testing; odd ones smile."""
    from torchvision.datasets import CelebA

    folder = tmp_path / "celeba"
    names = [f"{n:06}.jpg" for n in range(COUNT)]
    for n, name in enumerate(names):
        jpeg(folder / "img_align_celeba" / name, 218, 178, 8 * n)
    part = [0] * 20 + [1] * 4 + [2] * 6
    tables = {
        "list_eval_partition.txt": [f"{name} {part[n]}" for n, name in enumerate(names)],
        "identity_CelebA.txt": [f"{name} {n}" for n, name in enumerate(names)],
        "list_bbox_celeba.txt": [str(COUNT), "image_id x_1", *(f"{n} 1" for n in names)],
        "list_landmarks_align_celeba.txt": [str(COUNT), "eye", *(f"{n} 1" for n in names)],
        "list_attr_celeba.txt": [
            str(COUNT),
            "Male Smiling Young",
            *(f"{name} 1 {2 * (n % 2) - 1:2} -1" for n, name in enumerate(names)),
        ],
    }
    for name, lines in tables.items():
        (folder / name).write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(
        CelebA, "_check_integrity", lambda self: True
    )  # expects the hashes of the original files
    return tmp_path


def test_faces_are_cropped_scaled_and_labeled_by_their_smile(small):
    bundle = load_data("celeba", data_dir=small, validation=0.25)
    assert [len(s) for s in (bundle.train, bundle.validation, bundle.test)] == [18, 6, 6]
    assert bundle.test.y.tolist() == [0, 1] * 3
    shades = bundle.test.x.float().mean((1, 2, 3))
    assert (shades - 8 * torch.arange(24, 30)).abs().max() < 2
    ((x, _),) = bundle.test.batches(6)
    assert x.shape == (6, 3, 64, 64)
    assert x.dtype == torch.float32
    assert 0 <= x.min() < x.max() <= 1


def test_missing_files_are_named(small):
    (small / "celeba" / "identity_CelebA.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"CelebA: .*no identity_CelebA.txt; .*--download"):
        load_data("celeba", data_dir=small)


def test_damaged_images_are_named(small):
    (small / "celeba" / "img_align_celeba" / "000007.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"000007.jpg cannot be read as an image"):
        load_data("celeba", data_dir=small)
