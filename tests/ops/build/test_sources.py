"""What each library is made of, on a small csrc and on ours."""

from __future__ import annotations

import re

import pytest

from sparseq.ops.build import dependencies, sources, toolchain
from sparseq.ops.build.sources import ALL, COMMON, Variant, files, libraries, source_hash

KNOWN = {library.name: library for library in ALL}


def hashes():
    return {name: source_hash(library) for name, library in KNOWN.items()}


@pytest.mark.parametrize(
    ("file", "changed"),
    [
        ("cpu/new.cpp", {"cpu"}),
        ("cpu/folder/new.h", {"cpu"}),
        ("host/new.cpp", {"host"}),
        ("cuda/new.cu", {"cuda"}),
        ("cuda/new.cuh", {"cuda"}),
        ("common/new.h", {"cpu", "host", "cuda"}),
        ("common/new.cuh", {"cuda"}),
        ("cpu/notes.txt", set()),
    ],
)
def test_a_file_changes_the_libraries_that_read_it(csrc, file, changed):
    before = hashes()
    (csrc / file).parent.mkdir(exist_ok=True)
    (csrc / file).write_text("")
    assert {name for name, value in hashes().items() if value != before[name]} == changed


@pytest.mark.parametrize("library", ALL, ids=lambda library: library.name)
def test_a_library_reads_nothing_else(library):
    root = sources.source_root()
    allowed = {library.folder, COMMON}
    found = (root / library.folder).rglob("*")
    for path in (path for path in found if path.suffix in (library.sources, *library.headers)):
        for name in re.findall(r'^#include "(.*)"', path.read_text(), flags=re.M):
            places = [(folder / name).resolve() for folder in (path.parent, root)]
            read = next((place for place in places if place.exists()), None)
            assert read, f"{path} includes {name}, which is not there"
            assert read.relative_to(root).parts[0] in allowed, f"{path} includes {name}"
            assert read.suffix in library.headers, f"{path} includes {name}"


def test_a_library_without_sources_is_none(csrc):
    assert set(libraries()) == {"cpu", "host"}
    (csrc / "cuda").mkdir()
    assert set(libraries()) == {"cpu", "host"}
    (csrc / "cuda" / "spmm.cu").write_text("")
    assert set(libraries()) == {"cpu", "host", "cuda"}
    assert files(KNOWN["cuda"]) == [csrc / "cuda" / "spmm.cu"]


def test_a_missing_csrc_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "PACKAGE", tmp_path / "sparseq")
    assert set(libraries()) == {"cpu", "host"}
    with pytest.raises(toolchain.BuildError, match=r"\(csrc\) are neither in .*sparseq nor beside"):
        files(KNOWN["cpu"])


def test_variants_and_their_flags(monkeypatch):
    monkeypatch.setattr(toolchain, "cpu_isa", lambda: "avx2")
    monkeypatch.setattr(toolchain, "cuda_arch", lambda: "sm_90")
    variants = {name: sources.variant(library) for name, library in KNOWN.items()}
    assert [one.name for one in variants.values()] == ["cpu-avx2", "host", "cuda-sm_90"]
    assert {"-march=x86-64-v3", "-DSPARSEQ_ISA_AVX2"} <= set(variants["cpu"].flags())
    assert variants["host"].flags() == list(KNOWN["host"].flags)
    assert variants["cuda"].flags()[-1] == "-arch=sm_90"


def test_fingerprints_follow_flags_and_where_it_matters_python(csrc, monkeypatch):
    def fingerprints():
        made = (Variant(KNOWN["cpu"], "scalar"), Variant(KNOWN["cpu"], "avx2"))
        return [one.fingerprint() for one in (*made, Variant(KNOWN["host"], ""))]

    before = fingerprints()
    assert len(set(before)) == 3
    other = dependencies.Dependency(lambda: "cpython-399", lambda: csrc)
    monkeypatch.setitem(dependencies.DEPENDENCIES, "python", other)
    assert [one == two for one, two in zip(before, fingerprints(), strict=True)] == [
        True,
        True,
        False,
    ]


def test_headers_of_python_that_are_missing_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(dependencies.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(toolchain.BuildError, match=f"no Python.h in {tmp_path} .*python3-dev"):
        dependencies.DEPENDENCIES["python"].headers()
