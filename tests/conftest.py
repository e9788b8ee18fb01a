"""What all tests share: fixed seeds, restored threads, and where real images are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import matplotlib as mpl
import pytest
import torch

mpl.use("Agg")
# no test fails for being slow, and every run tries the same examples
hypothesis.settings.register_profile("sparseq", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("sparseq")


@pytest.fixture(autouse=True)
def same_start() -> Iterator[None]:
    """Each test draws the same numbers, whichever ran before, and may set threads."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def data_root() -> Path:
    """Folder of the real data sets, in torchvision's layout; without it the test is skipped."""
    place = os.environ.get("SPARSEQ_DATA")
    if not place:
        pytest.skip("SPARSEQ_DATA names no data folder")
    return Path(place)
