"""scikit-learn's digits: 1,797 gray images of 8x8, installed with it (Alpaydin & Kaynak 1998)."""

from __future__ import annotations

import torch

from sparseq.data.catalog import Request, dataset
from sparseq.data.split import Split, stratified_split
from sparseq.seeds import derived_generator

TEST_FRACTION = 0.2
# of the 1,438 training images, pixels scaled from 0..16 to 0..1
MEAN, STD = 0.3053, 0.3762


@dataset("digits", in_shape=(1, 8, 8), num_classes=10)
def read_digits(request: Request) -> tuple[Split, Split]:
    """1,438 training and 359 test images.

    The data set has no test part: a stratified fifth, the same for every seed, is set aside.
    """
    from sklearn.datasets import load_digits  # slow to import

    pixels, labels = load_digits(return_X_y=True)
    x = torch.from_numpy(pixels).float().div_(16).sub_(MEAN).div_(STD).reshape(-1, 1, 8, 8)
    digits = Split(x, torch.from_numpy(labels).long())
    train, test = stratified_split(digits.y, TEST_FRACTION, derived_generator("digits test split"))
    return digits.take(train), digits.take(test)
