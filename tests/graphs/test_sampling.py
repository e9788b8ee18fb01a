"""Random numbers by counter: SplitMix64 bit for bit, and the distributions built on it."""

from __future__ import annotations

import numpy as np
import pytest

from sparseq.graphs.sampling import bits, distinct, integers, permutations, stream


def splitmix64(seed: int, count: int) -> list[int]:
    """As published, in Python's integers."""
    word, numbers = 2**64 - 1, []
    for _ in range(count):
        seed = (seed + 0x9E3779B97F4A7C15) & word
        z = ((seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9) & word
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & word
        numbers.append(z ^ (z >> 31))
    return numbers


def test_known_numbers():
    key = np.array([1234567], np.uint64)
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert bits(key, np.arange(4)).tolist() == published == splitmix64(1234567, 4)


@pytest.mark.parametrize("seed", [0, 1, 2**63, 2**64 - 1])
def test_the_hash_is_splitmix64(seed):
    key = np.array([seed], np.uint64)
    assert bits(key, np.arange(100)).tolist() == splitmix64(seed, 100)


def test_streams_differ_by_purpose_and_seed():
    keys = [stream(*parts)[0] for parts in (("a", 0), ("a", 1), ("b", 0), ("a", -1), ("a", 2**70))]
    assert len(set(keys)) == 5
    assert stream("a", 0)[0] == keys[0] == 9085770178114927687


def test_integers_are_uniform():
    drawn = integers(stream("t", 0), np.arange(70_000), 7)
    counts = np.bincount(drawn, minlength=7)
    assert len(counts) == 7
    assert (np.abs(counts - 10_000) < 5 * np.sqrt(10_000)).all()
    assert (integers(stream("t", 0), np.arange(50), np.arange(1, 51)) < np.arange(1, 51)).all()


def test_permutations():
    key = np.stack([stream("t", seed) for seed in range(3)])
    orders = permutations(key, 50)
    assert orders.shape == (3, 50)
    assert (np.sort(orders, axis=1) == np.arange(50)).all()
    assert len({tuple(order) for order in orders}) == 3
    assert (permutations(key[0], 50) == orders[0]).all()


@pytest.mark.parametrize("count", [0, 1, 4, 9, 10])
def test_distinct_picks_the_requested_count(count):
    chosen = distinct(stream("t", 0), 33, 10, count)
    assert chosen.shape == (10, 33)
    assert (chosen.sum(0) == count).all()


def test_distinct_is_uniform():
    chosen = distinct(stream("t", 1), 30_000, 5, 2)
    _, counts = np.unique(np.packbits(chosen, axis=0), return_counts=True)
    assert len(counts) == 10
    assert (np.abs(counts - 3000) < 5 * np.sqrt(3000)).all()
