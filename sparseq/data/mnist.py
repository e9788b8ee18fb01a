"""MNIST (LeCun et al. 1998) and Fashion-MNIST (Xiao et al. 2017): 28x28 gray, 60,000 + 10,000.

The files are read in place from ROOT/MNIST/raw and ROOT/FashionMNIST/raw, where torchvision stores
them, gzipped or not. The root may be read-only; only torchvision's download writes to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor

from sparseq.data.catalog import Request, dataset
from sparseq.data.idx import read_idx
from sparseq.data.sources import download_hint, downloaded, root_of
from sparseq.data.split import Split


@dataclass(frozen=True)
class Variant:
    """MNIST or a data set in its format.

    Attributes:
        folder: name of torchvision's class and of its folder.
        mean, std: of the training pixels scaled to 0..1.
        files: name of each file (without .gz) -> MD5 of its decompressed content.
    """

    folder: str
    mean: float
    std: float
    files: dict[str, str]


MNIST = Variant(
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
FASHION_MNIST = Variant(
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
    return read_variant(MNIST, request)


@dataset("fashion_mnist", in_shape=(1, 28, 28), num_classes=10)
def read_fashion_mnist(request: Request) -> tuple[Split, Split]:
    """60,000 training and 10,000 test images of clothing."""
    return read_variant(FASHION_MNIST, request)


def read_variant(variant: Variant, request: Request) -> tuple[Split, Split]:
    """(train, test) of one variant; errors as in `load_data`."""
    location = f"FOLDER/{variant.folder}/raw"
    root = root_of(request, variant.folder, location)
    raw = root / variant.folder / "raw"
    missing = missing_files(variant, raw)
    if missing and request.download:
        downloaded(variant.folder, root, partial(_download, variant, root))
        missing = missing_files(variant, raw)
    if missing:
        raise FileNotFoundError(
            f"{variant.folder}: {raw} has no {', '.join(missing)} (nor as .gz); "
            + download_hint(location, root)
        )
    train_x, train_y, test_x, test_y = (
        read_idx(raw, name, md5) for name, md5 in variant.files.items()
    )
    return _split(variant, train_x, train_y), _split(variant, test_x, test_y)


def missing_files(variant: Variant, raw: Path) -> list[str]:
    """Names of the variant's files that `raw` has neither gzipped nor decompressed."""
    return [
        name
        for name in variant.files
        if not ((raw / name).is_file() or (raw / f"{name}.gz").is_file())
    ]


def _split(variant: Variant, x: Tensor, y: Tensor) -> Split:
    return Split(x.float().div_(255).sub_(variant.mean).div_(variant.std).unsqueeze(1), y.long())


def _download(variant: Variant, root: Path) -> None:
    from torchvision import datasets  # slow to import

    getattr(datasets, variant.folder)(root, download=True)
