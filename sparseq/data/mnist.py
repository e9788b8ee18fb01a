"""MNIST (LeCun et al. 1998) and Fashion-MNIST (Xiao et al. 2017): 28x28 grey, 60,000 + 10,000.

The files lie where torchvision keeps them, ROOT/MNIST/raw and ROOT/FashionMNIST/raw, packed or
not. They are read in place, so the root may be read-only; only a download writes, and that is
torchvision's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor

from sparseq.data.catalog import Request, dataset
from sparseq.data.idx import read_idx
from sparseq.data.sources import fetched, remedy, root_of
from sparseq.data.split import Split


@dataclass(frozen=True)
class Family:
    """One of MNIST's relatives.

    Attributes:
        folder: torchvision's class name, which is the folder's name too.
        mean, std: the usual constants, of the training pixels scaled to 0..1.
        files: name of a file (without .gz) -> md5 of its unpacked content.
    """

    folder: str
    mean: float
    std: float
    files: dict[str, str]


MNIST = Family(
    "MNIST",
    0.1307,
    0.3081,
    {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    },
)
FASHION_MNIST = Family(
    "FashionMNIST",
    0.2860,
    0.3530,
    {
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    },
)


@dataset("mnist", in_shape=(1, 28, 28), num_classes=10)
def read_mnist(request: Request) -> tuple[Split, Split]:
    """60,000 training and 10,000 test images of handwritten digits."""
    return read_family(MNIST, request)


@dataset("fashion_mnist", in_shape=(1, 28, 28), num_classes=10)
def read_fashion_mnist(request: Request) -> tuple[Split, Split]:
    """60,000 training and 10,000 test images of clothes."""
    return read_family(FASHION_MNIST, request)


def read_family(family: Family, request: Request) -> tuple[Split, Split]:
    """(train, test) of one family; see `load_data` for what it raises."""
    place = f"FOLDER/{family.folder}/raw"
    root = root_of(request, family.folder, place)
    raw = root / family.folder / "raw"
    absent = missing_files(family, raw)
    if absent and request.download:
        fetched(family.folder, root, partial(_download, family, root))
        absent = missing_files(family, raw)
    if absent:
        raise FileNotFoundError(
            f"{family.folder}: {raw} has no {', '.join(absent)} (nor as .gz); "
            + remedy(place, root)
        )
    train_x, train_y, test_x, test_y = (
        read_idx(raw, name, md5) for name, md5 in family.files.items()
    )
    return _split(family, train_x, train_y), _split(family, test_x, test_y)


def missing_files(family: Family, raw: Path) -> list[str]:
    """Names of the family's files that are in `raw` neither packed nor unpacked."""
    return [
        name
        for name in family.files
        if not ((raw / name).is_file() or (raw / f"{name}.gz").is_file())
    ]


def _split(family: Family, x: Tensor, y: Tensor) -> Split:
    return Split(x.float().div_(255).sub_(family.mean).div_(family.std).unsqueeze(1), y.long())


def _download(family: Family, root: Path) -> None:
    from torchvision import datasets  # slow to import, and only needed here

    getattr(datasets, family.folder)(root, download=True)
