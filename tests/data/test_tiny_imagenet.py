import io
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from PIL import Image

from sparseq.data import CropFlip, load_data, tiny_imagenet
from sparseq.data.tiny_imagenet import CLASSES, NAME, prepare
from tests.data.synthetic import md5

NOTES = f"{NAME}/val/val_annotations.txt"


def classes():
    return [f"n{number:08}" for number in range(CLASSES)]


def picture(shade, mode="RGB", size=64):
    shape = (size, size, 3) if mode == "RGB" else (size, size)
    file = io.BytesIO()
    Image.fromarray(np.full(shape, shade, np.uint8)).save(file, "JPEG")
    return file.getvalue()


def pack(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with ZipFile(path, "w") as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return path


def original():
    """Members of an archive in the original layout: per class two training and one val image."""
    members = {f"{NAME}/wnids.txt": "\n".join(classes())}
    notes = []
    for number, label in enumerate(classes()):
        for k in range(2):
            mode = "L" if number == 3 else "RGB"
            members[f"{NAME}/train/{label}/images/{label}_{k}.JPEG"] = picture(number, mode)
        members[f"{NAME}/train/{label}/{label}_boxes.txt"] = f"{label}_0.JPEG\t0\t0\t62\t62"
        # the order of the files is not that of the classes
        file = f"val_{CLASSES - 1 - number}.JPEG"
        members[f"{NAME}/val/images/{file}"] = picture(number)
        notes.append(f"{file}\t{label}\t0\t0\t62\t62")
    members[f"{NAME}/test/images/test_0.JPEG"] = picture(9)
    return {**members, NOTES: "\n".join(notes)}


@pytest.fixture(scope="module")
def members():
    return original()


@pytest.fixture
def archive(tmp_path, members, monkeypatch, serve):
    path = pack(tmp_path / "root" / f"{NAME}.zip", members)
    monkeypatch.setattr(tiny_imagenet, "MD5", md5(path))
    monkeypatch.setattr(tiny_imagenet, "URL", f"{serve(path.parent)}/{path.name}")
    return path


def test_the_archive_is_unpacked_when_allowed_and_not_needed_afterwards(archive):
    root = archive.parent
    with pytest.raises(FileNotFoundError, match=r"only tiny-imagenet-200.zip.*--download"):
        load_data("tiny_imagenet", data_dir=root)
    assert [path.name for path in root.iterdir()] == [archive.name]
    bundle = load_data("tiny_imagenet", data_dir=root, download=True, validation=0.5)
    assert sorted(path.name for path in root.iterdir()) == [NAME, archive.name]
    archive.unlink()
    again = load_data("tiny_imagenet", data_dir=root, validation=0.5)
    assert torch.equal(again.train.x, bundle.train.x)
    assert [len(s) for s in (again.train, again.validation, again.test)] == [200, 200, 200]
    assert again.train.y.tolist() == again.test.y.tolist() == list(range(CLASSES))
    # every image has the shade of its class, up to the loss of compression
    shades = again.test.x.float().mean((1, 2, 3))
    assert (shades - torch.arange(CLASSES)).abs().max() < 2
    assert (again.train.x.float().mean((1, 2, 3)) - torch.arange(CLASSES)).abs().max() < 2
    assert again.train.augment == CropFlip(padding=4)
    assert again.test.augment is again.validation.augment is None


def test_downloaded_on_request_and_otherwise_missing(archive, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    with pytest.raises(FileNotFoundError, match=r"has no tiny-imagenet-200; .*--download"):
        load_data("tiny_imagenet", data_dir=elsewhere)
    assert len(load_data("tiny_imagenet", data_dir=elsewhere, download=True).test) == CLASSES


@pytest.mark.parametrize(
    "name",
    ["../outside.JPEG", f"{NAME}/train/../../x.JPEG", "/etc/x.JPEG", "C:\\x.JPEG", "a\\..\\b"],
)
def test_paths_that_lead_out_are_rejected_and_nothing_is_written(tmp_path, name):
    path = pack(tmp_path / "root" / "bad.zip", {NOTES: "", name: b"x"})
    with pytest.raises(ValueError, match="leads out of the archive"):
        prepare(path, tmp_path / "root" / NAME)
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "root", path]


@pytest.mark.parametrize(
    "wrong",
    [
        {f"{NAME}/val/images/val_0.JPEG": b"x"},
        {f"{NAME}/val/images/val_0.JPEG": b"x", NOTES: "val_1.JPEG\tn1"},
        {f"{NAME}/val/images/val_0.JPEG": b"x", NOTES: "val_0.JPEG\t../n1"},
    ],
)
def test_damaged_archives_leave_nothing_behind(tmp_path, wrong):
    path = pack(tmp_path / "bad.zip", wrong)
    with pytest.raises(ValueError, match="is damaged"):
        prepare(path, tmp_path / NAME)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match="is damaged"):
        prepare(path, tmp_path / NAME)
    assert list(tmp_path.iterdir()) == [path]


def test_an_existing_folder_is_never_replaced(archive):
    folder = archive.parent / NAME
    folder.mkdir()
    with pytest.raises(FileExistsError, match="move it away"):
        prepare(archive, folder)
    with pytest.raises(ValueError, match="must have 200 classes, got 0"):
        load_data("tiny_imagenet", data_dir=archive.parent)


def test_images_are_checked(archive, members, tmp_path):
    first = f"{NAME}/train/n00000000/images/n00000000_0.JPEG"
    for number, content in enumerate((picture(1, size=32), b"no image")):
        folder = tmp_path / str(number) / NAME
        prepare(pack(tmp_path / str(number) / "x.zip", {**members, first: content}), folder)
        with pytest.raises(ValueError, match=r"n00000000_0.JPEG (must have|cannot be read)"):
            load_data("tiny_imagenet", data_dir=folder.parent)
