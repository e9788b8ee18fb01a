"""Random numbers by counter: number i of a stream is a hash of the stream's key and i.

Graphs are saved as their seeds, so these numbers must never change, on any platform or with any
version of a library. The hash is SplitMix64 (Steele, Lea & Flood 2014, "Fast splittable
pseudorandom number generators", figure 16), in 64-bit integers that wrap around. As the hash is
one to one, the numbers of a stream are distinct, and sorting by them has a single outcome.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparseq.seeds import derive_seed

Bits = NDArray[np.uint64]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MULTIPLIERS = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
SHIFTS = np.uint64(30), np.uint64(27), np.uint64(31)
HALF = np.uint64(32)


def stream(*parts: int | str) -> Bits:
    """(1) the key of the stream of random numbers for a purpose."""
    return np.array([derive_seed("sparseq.graphs", *parts)], np.uint64)


def bits(key: Bits, counters: ArrayLike) -> Bits:
    """64 random bits for each counter; key and counters are broadcast."""
    z = key + (np.asarray(counters).astype(np.uint64) + np.uint64(1)) * GOLDEN
    z = (z ^ (z >> SHIFTS[0])) * MULTIPLIERS[0]
    z = (z ^ (z >> SHIFTS[1])) * MULTIPLIERS[1]
    mixed: Bits = z ^ (z >> SHIFTS[2])
    return mixed


def integers(key: Bits, counters: ArrayLike, below: ArrayLike) -> NDArray[np.int64]:
    """A random integer of 0..below-1 for each counter; `below` is at most 2^32."""
    scaled = (bits(key, counters) >> HALF) * np.asarray(below).astype(np.uint64)
    return (scaled >> HALF).astype(np.int64)


def permutations(key: Bits, length: int) -> NDArray[np.int64]:
    """Random permutation of 0..length-1: (length), or (keys, length) for a key of (keys, 1)."""
    return np.argsort(bits(key, np.arange(length)), axis=-1)


def distinct(key: Bits, rows: int, columns: int, count: int) -> NDArray[np.bool_]:
    """(columns, rows) bool: `count` distinct random columns for each row.

    Source: Floyd's algorithm (Bentley & Floyd 1987), vectorized over the rows.
    """
    chosen = np.zeros((columns, rows), np.bool_)
    row_ids = np.arange(rows)
    for step, last in enumerate(range(columns - count, columns)):
        drawn = integers(key, row_ids + step * rows, last + 1)
        drawn = np.where(chosen[drawn, row_ids], last, drawn)
        chosen[drawn, row_ids] = True
    return chosen
