"""Kernel choice: one table per class of CPU, and the nearest one for a class without a table."""

from __future__ import annotations

import dataclasses
import json

import pytest

from sparseq.ops import choice
from sparseq.ops.build.cpu import CpuClass, cpu_class
from sparseq.ops.choice import ConvChain, LinearChain, nearest

ZEN4 = CpuClass("avx512", 64, 32 * 2**10, 2**20)


@pytest.fixture
def measured_on(monkeypatch):
    """Replace the tables by copies for these classes, as if they had been measured."""

    def measure(*classes):
        base = choice.tables()[0]
        tables = tuple(dataclasses.replace(base, cpu=cpu) for cpu in classes)
        monkeypatch.setattr(choice, "tables", lambda: tables)

    return measure


def test_every_file_has_the_name_of_its_class():
    assert choice.tables()
    for path in choice.FOLDER.glob("*.json"):
        assert choice.Measured.from_file(path).cpu.name == path.stem
        assert {"source", "cpu", "cores", "torch"} <= json.loads(path.read_text()).keys()


def test_this_machine_has_a_table():
    assert choice.measured() is nearest(cpu_class())


def test_a_measured_class_uses_its_own_table(measured_on):
    others = [dataclasses.replace(ZEN4, l2=2**21), CpuClass("avx2", 32, 32 * 2**10, 2**20)]
    measured_on(others[0], ZEN4, others[1])
    for cpu in (ZEN4, *others):
        assert nearest(cpu).cpu == cpu


@pytest.mark.parametrize(
    ("cpu", "expected"),
    [
        (CpuClass("avx512", 64, 48 * 2**10, 2**21), 1),  # vectors before caches
        (CpuClass("avx2", 32, 48 * 2**10, 2**21), 0),
        (CpuClass("scalar", 8, 32 * 2**10, 2**19), 0),
        (CpuClass("avx512", 64, None, None), 1),
    ],
)
def test_other_classes_use_the_nearest_table(measured_on, cpu, expected):
    classes = [CpuClass("avx2", 32, 48 * 2**10, 2**21), ZEN4]
    measured_on(*classes)
    assert nearest(cpu).cpu == classes[expected]


def test_chains_of_linear_layers_pay_off_by_weights_and_rows():
    chain = LinearChain(few_weights=10, many_weights=100, rows_per_thread=32)
    assert chain.pays(10, rows=1, threads=2)
    assert not chain.pays(11, rows=63, threads=2)
    assert chain.pays(100, rows=64, threads=2)
    assert not chain.pays(101, rows=1000, threads=1)


def test_single_convolutions_pay_off_as_a_chain_on_few_images_or_small_maps():
    chain = ConvChain(few_images=5, small_map=64, largest_map=1000)
    assert chain.pays_alone(5, pixels=1024, is_3x3=False)
    assert chain.pays_alone(32, pixels=64, is_3x3=True)
    assert not chain.pays_alone(32, pixels=64, is_3x3=False)
    assert not chain.pays_alone(6, pixels=65, is_3x3=True)
    assert chain.fits(999)
    assert not chain.fits(1000)
