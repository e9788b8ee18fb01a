"""The class of a CPU, read from folders such as Linux shows."""

from __future__ import annotations

import pytest

from sparseq.ops.build import cpu, toolchain
from sparseq.ops.build.cpu import CpuClass, cache_bytes, cpu_class

THIS_ISA = toolchain.cpu_isa()


@pytest.fixture
def caches(tmp_path):
    """Writes the description of a core's caches: (level, type, size) each; returns its folder."""

    def write(*described):
        for index, values in enumerate(described):
            folder = tmp_path / f"index{index}"
            folder.mkdir()
            for name, value in zip(("level", "type", "size"), values, strict=True):
                (folder / name).write_text(f"{value}\n")
        return tmp_path

    return write


@pytest.mark.parametrize("isa", list(toolchain.ISAS))
def test_the_name_tells_vectors_and_caches(caches, monkeypatch, isa):
    monkeypatch.setattr(toolchain, "cpu_isa", lambda: isa)
    root = caches(
        (1, "Instruction", "32K"), (1, "Data", "48K"), (2, "Unified", "2048K"), (3, "Unified", "1G")
    )
    found = cpu_class(root)
    assert found == CpuClass(isa, cpu.VECTOR_BYTES[isa], 48 * 2**10, 2 * 2**20)
    assert found.name == f"{isa}-l1d48k-l2-2m"
    assert cache_bytes(3, root) == 2**30


def test_what_the_system_does_not_say_is_unknown(tmp_path):
    found = cpu_class(tmp_path / "nothing")
    assert (found.l1d, found.l2) == (None, None)
    assert found.name == f"{THIS_ISA}-l1d?-l2-?"


@pytest.mark.parametrize("size", ["", "many", "48KB", "-1"])
def test_a_size_that_is_none_is_unknown(caches, size):
    assert cache_bytes(1, caches((1, "Data", size))) is None


def test_sizes_that_fit_no_unit_are_bytes(caches):
    root = caches((1, "Data", "1000"), (2, "Unified", "1280K"))
    assert cpu_class(root).name == f"{THIS_ISA}-l1d1000-l2-1280k"


def test_a_file_that_is_no_text_is_unknown(caches):
    root = caches((1, "Data", "48K"))
    (root / "index0" / "size").write_bytes(b"\xff\xfe")
    assert cache_bytes(1, root) is None


def test_this_machine_has_a_class():
    assert cpu_class().name == cpu_class().name
    assert cpu_class().isa == THIS_ISA
    assert set(cpu.VECTOR_BYTES) == set(toolchain.ISAS)
