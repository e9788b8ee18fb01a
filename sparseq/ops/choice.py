"""Which kernel serves at which size: measured thresholds, per class of CPU, read in one place.

A file in `thresholds/` is measured on one class of CPUs (vector width and sizes of the L1 and L2
caches, see `sparseq.ops.build.cpu`): at which size one kernel becomes faster than another, and up
to which density a sparse layer is no slower than the dense one. A class without a file uses that of
the nearest class. No layer and no operator has thresholds of its own.
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
    """When consecutive sparse linear layers run as one `spmm_chain` (bench/ops/spmm_chain.py).

    Attributes:
        few_weights: most kept weights, over all layers, for which calls cost more than products.
        many_weights: most kept weights that leave room for the activations in the cache.
        rows_per_thread: fewest examples per thread that fill its tiles.
    """

    few_weights: int
    many_weights: int
    rows_per_thread: int

    def pays(self, weights: int, rows: int, threads: int) -> bool:
        """Whether a single kernel is faster than the layers one by one."""
        busy = rows >= self.rows_per_thread * threads
        return weights <= self.few_weights or (weights <= self.many_weights and busy)


@dataclass(frozen=True)
class ConvChain:
    """When sparse convolutions run as `sparse_conv_chain` (bench/ops/sparse_conv_chain.py).

    Attributes:
        few_images: most images for which a single convolution is faster as a chain.
        small_map: most pixels of a map for which a 3x3 one is, for any number of images.
        largest_map: elements of one image's map from which on the maps do not fit in the cache.
    """

    few_images: int
    small_map: int
    largest_map: int

    def fits(self, elements: int) -> bool:
        """Whether a map of so many elements, over all channels, fits in the cache."""
        return elements < self.largest_map

    def pays_alone(self, images: int, pixels: int, is_3x3: bool) -> bool:
        """Whether a single convolution that preserves the size of its map is faster as a chain."""
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
    """The thresholds measured on a class of CPUs.

    Attributes:
        cpu: the class.
        linear_chain, conv_chain: when chains of layers are faster.
        whitening: how quaternion features are read.
        break_even: type of layer -> step -> threads -> positions -> densities, see
            `sparseq.compression.thresholds`.
    """

    cpu: CpuClass
    linear_chain: LinearChain
    conv_chain: ConvChain
    whitening: Whitening
    break_even: Mapping[str, Any]

    @classmethod
    def from_file(cls, path: Path) -> Measured:
        """Read a file in `thresholds/`."""
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
    """Path of the thresholds of a class of CPUs, by the name of the class."""
    return FOLDER / f"{cpu_class}.json"


@cache
def tables() -> tuple[Measured, ...]:
    """The thresholds of every measured class, sorted by file name."""
    return tuple(Measured.from_file(path) for path in sorted(FOLDER.glob("*.json")))


@torch.compiler.assume_constant_result
def measured() -> Measured:
    """The thresholds that apply to this machine; their `cpu` is the class they were measured on."""
    return _measured()


@cache
def _measured() -> Measured:
    return nearest(cpu_class())


def nearest(cpu: CpuClass) -> Measured:
    """The thresholds of the most similar class: first by vector width, then by L2 and L1."""

    def distance(table: Measured) -> tuple[float, float]:
        vectors = _octaves(cpu.vector_bytes, table.cpu.vector_bytes)
        return vectors, _octaves(cpu.l2, table.cpu.l2) + _octaves(cpu.l1d, table.cpu.l1d)

    return min(tables(), key=distance)


def _octaves(one: int | None, other: int | None) -> float:
    """How often one size must be doubled or halved to equal the other; 1 if one is unknown."""
    return abs(math.log2(one / other)) if one and other else 1.0
