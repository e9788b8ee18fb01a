"""Accuracy on digits and MNIST against named thresholds. These checks do fail.

The accuracy is that of the compressed file, loaded again, on the test split; a lottery recipe
looks at that split once, when all is decided.
"""

from __future__ import annotations

import os

import pytest

from sparseq.recipes.lottery import Lottery

SEED = 0
# test accuracy of the unpruned network, at least
DIGITS_DENSE = 0.95
MNIST_DENSE = {"real": 0.98, "quaternion": 0.97}
# what the last round may lose against it, at most
DIGITS_LOSS = 0.03
MNIST_LOSS = 0.005

over_algebras = pytest.mark.parametrize("algebra", ["real", "quaternion"])


def tickets(algebra: str, folder, **settings):
    """Levels of a short lottery with one trial."""
    common = {"model": "lenet_300_100", "algebras": (algebra,), "trials": 1, "seed": SEED}
    return Lottery(**common, **settings, out=folder / "run").run().levels


def note(record, levels, data: str, algebra: str, dense: float, loss: float) -> None:
    """A row per level; then the two thresholds."""
    first, last = levels[0], levels[-1]
    for level in levels:
        floor = dense if level is first else first.test_accuracy - loss if level is last else ""
        record(suite="accuracy", subject=f"lenet_300_100 {algebra}", case=data, seed=SEED,
               density=round(level.density, 4), accuracy=round(level.test_accuracy, 4),
               threshold=floor and round(floor, 4), bytes=level.size)  # fmt: skip
    assert first.test_accuracy >= dense
    assert last.test_accuracy >= first.test_accuracy - loss


@over_algebras
def test_digits(record, tmp_path, algebra):
    levels = tickets(algebra, tmp_path, data="digits", epochs=30, rounds=7, rate=0.3)
    note(record, levels, "digits", algebra, DIGITS_DENSE, DIGITS_LOSS)


@pytest.mark.skipif("SPARSEQ_DATA" not in os.environ, reason="SPARSEQ_DATA names no data folder")
@over_algebras
def test_mnist(record, tmp_path, algebra):
    # 0.57**6 = 3.4 % of the weights
    levels = tickets(algebra, tmp_path, data="mnist", epochs=8, rounds=6, rate=0.43)
    loss = MNIST_LOSS if algebra == "real" else 2 * MNIST_LOSS
    note(record, levels, "MNIST", algebra, MNIST_DENSE[algebra], loss)
