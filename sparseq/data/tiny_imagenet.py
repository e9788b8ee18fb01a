"""Tiny ImageNet (Stanford CS231n; Le & Yang 2015): 64x64 color photographs of 200 classes.

It is distributed as ROOT/tiny-imagenet-200.zip. If a download is allowed, the archive is unpacked
once into folders by class, ROOT/tiny-imagenet-200/{train,val}/<class>/*.JPEG. The labels of the
test images were never published: as usual, the 10,000 validation images are the test part.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from zipfile import BadZipFile, ZipFile

import torch

from sparseq.data.catalog import Request, dataset
from sparseq.data.image_files import read_images
from sparseq.data.sources import download_hint, downloaded, root_of
from sparseq.data.split import Split
from sparseq.data.transforms import CropFlip, Normalize

NAME = "tiny-imagenet-200"
URL = f"http://cs231n.stanford.edu/{NAME}.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
CLASSES, SIZE = 200, (64, 64)
NORMALIZE = Normalize((0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821))


@dataset("tiny_imagenet", in_shape=(3, *SIZE), num_classes=CLASSES)
def read_tiny_imagenet(request: Request) -> tuple[Split, Split]:
    """100,000 training and 10,000 test images."""
    location = f"FOLDER/{NAME}"
    root = root_of(request, NAME, location)
    folder, archive = root / NAME, root / f"{NAME}.zip"
    if not folder.exists() and request.download:
        downloaded(NAME, root, partial(_download, root))
        prepare(archive, folder)
    if not folder.exists():
        note = f", only {archive.name}, which a download unpacks" if archive.exists() else ""
        raise FileNotFoundError(
            f"{NAME}: {root} has no {NAME}{note}; {download_hint(location, root)}"
        )
    classes = _classes(folder)
    train, test = (split_of(folder / part, classes) for part in ("train", "val"))
    return train, test.unaugmented()


def split_of(folder: Path, classes: list[str]) -> Split:
    """All images of `folder/<class>/`; classes are numbered in the order of the list."""
    paths = [sorted((folder / name).iterdir()) for name in classes]
    x = read_images(list(itertools.chain.from_iterable(paths)), SIZE)
    counts = torch.tensor([len(class_paths) for class_paths in paths])
    y = torch.arange(len(classes)).repeat_interleave(counts)
    return Split(x, y, NORMALIZE, CropFlip(padding=4))


def prepare(archive: Path, folder: Path) -> None:
    """Unpack the archive into folders by class; `folder` is created complete or not at all.

    Raises:
        ValueError: the archive is damaged, or has paths that lead out of it.
        FileExistsError: the folder already exists.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} exists; move it away to unpack it again")
    scratch = Path(tempfile.mkdtemp(prefix=f".{NAME}-", dir=folder.parent))
    try:
        with ZipFile(archive) as packed:
            for name, image_path in _image_paths(packed, archive):
                path = scratch / NAME / image_path
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(packed.read(name))
        (scratch / NAME).rename(folder)
    except (BadZipFile, KeyError) as error:
        raise ValueError(
            f"{archive} is damaged ({error}); remove it and download it again"
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _image_paths(packed: ZipFile, archive: Path) -> Iterator[tuple[str, str]]:
    """Name of every labeled image in the archive, and its path relative to the folder."""
    names = packed.namelist()
    for name in names:
        parts = PurePosixPath(name).parts
        if name.startswith("/") or ".." in parts or set(name) & set("\\:"):
            raise ValueError(f"{archive}: {name!r} leads out of the archive; nothing was unpacked")
    annotations = packed.read(f"{NAME}/val/val_annotations.txt").decode()
    label_of = dict(line.split("\t")[:2] for line in annotations.splitlines())
    for name in names:
        path = PurePosixPath(name)
        if path.match(f"{NAME}/train/*/images/*.JPEG"):
            yield name, f"train/{_folder_name(path.parts[-3])}/{path.name}"
        elif path.match(f"{NAME}/val/images/*.JPEG"):
            yield name, f"val/{_folder_name(label_of[path.name])}/{path.name}"


def _folder_name(label: str) -> str:
    """The folder of a class; KeyError unless its name consists of letters and digits."""
    if not label.isalnum():
        raise KeyError(f"class {label!r}")
    return label


def _classes(folder: Path) -> list[str]:
    """Names of the class folders, sorted."""
    names = sorted(path.name for path in (folder / "train").glob("*") if path.is_dir())
    if len(names) != CLASSES:
        raise ValueError(
            f"{folder}/train must have {CLASSES} classes, got {len(names)}; "
            "remove the folder and download it again"
        )
    return names


def _download(root: Path) -> None:
    from torchvision.datasets.utils import download_url  # slow to import

    download_url(URL, root, md5=MD5)
