"""Tiny ImageNet (Stanford CS231n; Le & Yang 2015): 64x64 colored photographs of 200 classes.

It comes as one zip, ROOT/tiny-imagenet-200.zip, and is prepared once, where a download is allowed,
into folders by class, ROOT/tiny-imagenet-200/{train,val}/<class>/*.JPEG. The labels of its test
images were never published: the 10,000 validation images are the test part here, as is usual.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from zipfile import BadZipFile, ZipFile

import torch

from sparseq.data.catalog import Request, dataset
from sparseq.data.images import CropFlip, Normalize
from sparseq.data.pictures import read_pictures
from sparseq.data.sources import fetched, remedy, root_of
from sparseq.data.split import Split

NAME = "tiny-imagenet-200"
URL = f"http://cs231n.stanford.edu/{NAME}.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
CLASSES, SIZE = 200, (64, 64)
NORMALIZE = Normalize((0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821))


@dataset("tiny_imagenet", in_shape=(3, *SIZE), num_classes=CLASSES)
def read_tiny_imagenet(request: Request) -> tuple[Split, Split]:
    """100,000 training and 10,000 test images."""
    place = f"FOLDER/{NAME}"
    root = root_of(request, NAME, place)
    folder, archive = root / NAME, root / f"{NAME}.zip"
    if not folder.exists() and request.download:
        fetched(NAME, root, partial(_download, root))
        prepare(archive, folder)
    if not folder.exists():
        zipped = f", only {archive.name}, which a download unpacks" if archive.exists() else ""
        raise FileNotFoundError(f"{NAME}: {root} has no {NAME}{zipped}; {remedy(place, root)}")
    classes = _classes(folder)
    train, test = (split_of(folder / part, classes) for part in ("train", "val"))
    return train, test.unchanged()


def split_of(folder: Path, classes: list[str]) -> Split:
    """All images of `folder/<class>/`; classes are numbered in the order given."""
    paths = [sorted((folder / name).iterdir()) for name in classes]
    x = read_pictures([path for of_class in paths for path in of_class], SIZE)
    counts = torch.tensor([len(of_class) for of_class in paths])
    y = torch.arange(len(classes)).repeat_interleave(counts)
    return Split(x, y, NORMALIZE, CropFlip(padding=4))


def prepare(archive: Path, folder: Path) -> None:
    """Unpack the zip into folders by class; `folder` appears whole or not at all.

    Raises:
        ValueError: the archive is damaged, or has paths that lead out of it.
        FileExistsError: the folder is there already.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} exists; move it away to prepare it anew")
    scratch = Path(tempfile.mkdtemp(prefix=f".{NAME}-", dir=folder.parent))
    try:
        with ZipFile(archive) as packed:
            for name, place in _places(packed, archive):
                target = scratch / "whole" / place
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(packed.read(name))
        (scratch / "whole").rename(folder)
    except (BadZipFile, KeyError) as error:
        raise ValueError(f"{archive} is damaged ({error}); remove it and get it again") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _places(packed: ZipFile, archive: Path) -> Iterator[tuple[str, str]]:
    """Name of every labeled image in the archive, and its place below the folder."""
    names = packed.namelist()
    for name in names:
        parts = PurePosixPath(name).parts
        if name.startswith("/") or ".." in parts or set(name) & set("\\:"):
            raise ValueError(f"{archive}: {name!r} leads out of the archive; nothing was unpacked")
    notes = packed.read(f"{NAME}/val/val_annotations.txt").decode()
    label_of = dict(line.split("\t")[:2] for line in notes.splitlines())
    for name in names:
        path = PurePosixPath(name)
        if path.match(f"{NAME}/train/*/images/*.JPEG"):
            yield name, f"train/{_plain(path.parts[-3])}/{path.name}"
        elif path.match(f"{NAME}/val/images/*.JPEG"):
            yield name, f"val/{_plain(label_of[path.name])}/{path.name}"


def _plain(label: str) -> str:
    """A class's name, which becomes a folder's; KeyError unless it is letters and digits."""
    if not label.isalnum():
        raise KeyError(f"class {label!r}")
    return label


def _classes(folder: Path) -> list[str]:
    """Names of the class folders, sorted."""
    found = sorted(path.name for path in (folder / "train").glob("*") if path.is_dir())
    if len(found) != CLASSES:
        raise ValueError(
            f"{folder}/train should have {CLASSES} classes, found {len(found)}; "
            "remove the folder and get it again"
        )
    return found


def _download(root: Path) -> None:
    from torchvision.datasets.utils import download_url  # slow to import, and only needed here

    download_url(URL, root, md5=MD5)
