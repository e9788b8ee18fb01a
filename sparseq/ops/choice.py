"""Which kernel serves at which size: measured thresholds, per class of CPU, read in one place.

A file of `thresholds/` holds what was measured on one class of CPUs (its vector width and the sizes
of its L1 and L2 caches, see `sparseq.ops.build.cpu`): where one kernel takes over from another, and
up to which density a sparse layer is no slower than the dense one. A class that was not measured
goes by the nearest one that was. No layer and no operator decides by numbers of its own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from sparseq.ops.build.cpu import CpuClass, cpu_class

FOLDER = Path(__file__).with_name("thresholds")


@dataclass(frozen=True)
class LinearChain:
    """When sparse linear layers in a row run as one `spmm_chain` (bench/ops/spmm_chain.py).

    Attributes:
        few_weights: kept weights of the layers up to which calls cost more than products.
        many_weights: kept weights from which on they crowd the activations out of the cache.
        rows_per_thread: examples from which on whole tiles keep a thread busy.
    """

    few_weights: int
    many_weights: int
    rows_per_thread: int

    def pays(self, weights: int, rows: int, threads: int) -> bool:
        """Whether one kernel is quicker than the layers one by one."""
        busy = rows >= self.rows_per_thread * threads
        return weights <= self.few_weights or (weights <= self.many_weights and busy)


@dataclass(frozen=True)
class ConvChain:
    """When sparse convolutions run as `sparse_conv_chain` (bench/ops/sparse_conv_chain.py).

    Attributes:
        few_images: images up to which a single convolution is quicker as a chain.
        small_map: pixels of a map up to which it is, whatever the number of images.
        largest_map: numbers of one image's map from which on whole maps are too far from the cache.
    """

    few_images: int
    small_map: int
    largest_map: int

    def fits(self, numbers: int) -> bool:
        """Whether a map of so many numbers, all channels together, is near enough."""
        return numbers < self.largest_map

    def pays_alone(self, images: int, pixels: int, is_3x3: bool) -> bool:
        """Whether a single convolution that keeps the size of its map is quicker as a chain."""
        return images <= self.few_images or (is_3x3 and pixels <= self.small_map)


@dataclass(frozen=True)
class Whitening:
    """When `quaternion_whiten` reads channels-last features without a copy.

    Attributes:
        channels_last: quaternion channels from which on that is quicker.
    """

    channels_last: int


@dataclass(frozen=True)
class Measured:
    """What was measured on a class of CPUs.

    Attributes:
        cpu: the class.
        linear_chain, conv_chain: where chains of layers pay.
        whitening: how quaternion features are read.
        break_even: kind of layer -> step -> threads -> positions -> densities, see
            `sparseq.compression.thresholds`.
    """

    cpu: CpuClass
    linear_chain: LinearChain
    conv_chain: ConvChain
    whitening: Whitening
    break_even: Mapping[str, Any]

    @classmethod
    def from_file(cls, path: Path) -> Measured:
        """From a file of `thresholds/`."""
        entry = json.loads(path.read_text())
        kernels = entry["kernels"]
        return cls(
            CpuClass(**entry["class"]),
            LinearChain(**kernels["spmm_chain"]),
            ConvChain(**kernels["sparse_conv_chain"]),
            Whitening(**kernels["quaternion_whiten"]),
            entry["break_even"],
        )


def table_file(cpu_class: str) -> Path:
    """Where the thresholds of a class of CPUs stand, by its name."""
    return FOLDER / f"{cpu_class}.json"


@cache
def tables() -> tuple[Measured, ...]:
    """All that was measured, sorted by the names of the files."""
    return tuple(Measured.from_file(path) for path in sorted(FOLDER.glob("*.json")))


@torch.compiler.assume_constant_result
def measured() -> Measured:
    """The measurements used here; their `cpu` is the nearest class where ours was not measured."""
    return _measured()


@cache
def _measured() -> Measured:
    return nearest(cpu_class())


def nearest(cpu: CpuClass) -> Measured:
    """The measurements of the class most like this one: vectors first, then L2 and L1."""

    def distance(table: Measured) -> tuple[float, float]:
        vectors = _octaves(cpu.vector_bytes, table.cpu.vector_bytes)
        return vectors, _octaves(cpu.l2, table.cpu.l2) + _octaves(cpu.l1d, table.cpu.l1d)

    return min(tables(), key=distance)


def _octaves(one: int | None, other: int | None) -> float:
    """How often one size must be doubled or halved to be the other; 1 where one is unknown."""
    return abs(math.log2(one / other)) if one and other else 1.0
