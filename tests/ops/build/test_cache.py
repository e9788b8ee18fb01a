"""Folders of compiled libraries: what they are called, whom they serve, whether they are whole."""

from __future__ import annotations

import json
import os

import pytest

from sparseq.ops.build import cache, dependencies, sources, toolchain
from sparseq.ops.build.sources import Variant
from sparseq.ops.build.toolchain import BuildError

pytestmark = pytest.mark.usefixtures("csrc")


@pytest.fixture
def put(tmp_path):
    """Puts a variant's library of any content where it belongs; returns its path."""

    def write(variant, name=None, root=None):
        root = root or tmp_path / "cache"
        root.mkdir(mode=0o700, exist_ok=True)
        folder = root / (name or cache.key(variant))
        with cache.replacing(folder, variant) as temporary:
            (temporary / f"{variant.library.name}.so").write_text("compiled")
        return folder / f"{variant.library.name}.so"

    return write


@pytest.mark.usefixtures("needs_compiler")
def test_keys_follow_what_a_library_is_made_of(cpu, host, csrc, monkeypatch):
    def keys():
        return cache.key(cpu), cache.key(host)

    seen = [keys()]

    def changed():
        seen.append(keys())
        return tuple(one != two for one, two in zip(*seen[-2:], strict=True))

    assert changed() == (False, False)
    (csrc / "cpu" / "answer.cpp").write_text("")
    assert changed() == (True, False)
    (csrc / "host" / "answer.cpp").write_text("")
    assert changed() == (False, True)
    monkeypatch.setattr(dependencies.torch, "__version__", "2.99")
    assert changed() == (True, False)
    monkeypatch.setattr(toolchain, "version_text", lambda path: "c++ 99")
    assert changed() == (True, True)
    monkeypatch.setattr(toolchain, "cpu_features", lambda: frozenset({"other"}))
    assert changed() == (False, False)


def test_the_key_of_cuda_follows_its_compiler_and_gpu(csrc, monkeypatch):
    (csrc / "cuda").mkdir()
    (csrc / "cuda" / "spmm.cu").write_text("")
    library = sources.libraries()["cuda"]
    monkeypatch.setattr(toolchain, "compiler", lambda: "c++")
    monkeypatch.setattr(toolchain, "required_cuda_compiler", lambda: "nvcc")
    monkeypatch.setattr(toolchain, "version_text", lambda path: f"{path} 1")
    variants = [Variant(library, arch) for arch in ("sm_80", "sm_90")]
    keys = {cache.key(variant) for variant in variants}
    monkeypatch.setattr(toolchain, "version_text", lambda path: f"{path} 2")
    keys.add(cache.key(variants[0]))
    assert len(keys) == 3
    assert sorted(key.split("-")[1] for key in keys) == ["sm_80", "sm_80", "sm_90"]


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.parametrize("content", ["", "compi", "compileD", "compiled and more"])
def test_a_damaged_library_is_none(cpu, put, content):
    path = put(cpu)
    assert cache.find(cpu) == path
    path.write_text(content)
    assert cache.find(cpu) is None


@pytest.mark.parametrize(
    "manifest", ["", "[]", "{}", "null", '{"cpu.so": 3}', '{"cpu.so": {}}', '{"cpu.so": {"sha256']
)
def test_a_damaged_manifest_is_none(cpu, put, manifest):
    path = put(cpu, "cpu")
    assert cache.is_whole(path)
    (path.parent / cache.MANIFEST).write_text(manifest)
    assert not cache.is_whole(path)


def test_nothing_appears_where_a_build_fails(cpu, tmp_path):
    folder = tmp_path / "folder"
    (tmp_path / "folder.tmp-killed").mkdir()

    def fail():
        with cache.replacing(folder, cpu) as temporary:
            (temporary / "cpu.so").write_text("half")
            raise BuildError

    with pytest.raises(BuildError):
        fail()
    assert not list(tmp_path.glob("folder*"))


def test_libraries_built_ahead_of_time_serve_their_sources_only(cpu, host, csrc):
    cache.AHEAD.mkdir()
    files = {f"{one.name}.so": one.fingerprint() for one in (cpu, host)}
    for name in files:
        (cache.AHEAD / name).write_text(name)
    assert cache.find(cpu) is None
    cache.write_manifest(cache.AHEAD, files)
    assert cache.find(cpu) == cache.AHEAD / f"{cpu.name}.so"
    (csrc / "cpu" / "answer.cpp").write_text("")
    assert cache.find(cpu) is None
    assert cache.find(host) == cache.AHEAD / "host.so"
    (cache.AHEAD / "host.so").write_text("cut")
    assert cache.find(host) is None


@pytest.mark.usefixtures("needs_compiler")
def test_without_a_compiler_what_another_has_made_serves(cpu, put, monkeypatch):
    path = put(cpu)
    monkeypatch.setenv("CXX", "")
    monkeypatch.setenv("PATH", "")
    assert cache.find(cpu) == path
    path.unlink()
    assert cache.find(cpu) is None


@pytest.mark.usefixtures("needs_compiler")
def test_looking_for_a_library_writes_nothing(cpu, tmp_path):
    assert cache.find(cpu) is None
    assert not (tmp_path / "cache").exists()


@pytest.mark.usefixtures("needs_compiler")
def test_a_folder_that_cannot_be_written_serves(cpu, put, monkeypatch):
    path = put(cpu)
    path.parent.parent.chmod(0o500)
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(cache, "_unfit", lambda root: "cannot be written")
    assert cache.find(cpu) == path


@pytest.mark.usefixtures("needs_compiler")
def test_folders_of_the_systems_owner_serve_and_those_of_others_do_not(cpu, put, monkeypatch):
    path = put(cpu)
    owner = path.stat().st_uid
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert cache.find(cpu) == (path if owner == 0 else None)
    monkeypatch.setattr(os, "getuid", lambda: owner)
    path.parent.parent.chmod(0o770)
    assert cache.find(cpu) is None


@pytest.mark.usefixtures("needs_compiler")
def test_the_cache_of_the_user_and_the_private_one_both_serve(cpu, put, tmp_path, monkeypatch):
    monkeypatch.delenv("SPARSEQ_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "none"))
    monkeypatch.setattr(cache.tempfile, "gettempdir", lambda: str(tmp_path))
    assert cache.find(cpu) is None
    path = put(cpu, root=tmp_path / f"sparseq-{os.getuid()}")
    assert cache.find(cpu) == path


def test_read_only_home_falls_back_to_a_private_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("SPARSEQ_CACHE_DIR", raising=False)
    blocker = tmp_path / "file"
    blocker.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocker))
    monkeypatch.setattr(cache.tempfile, "gettempdir", lambda: str(tmp_path))
    root = cache.cache_root()
    assert root.parent == tmp_path
    assert root.stat().st_mode & 0o777 == 0o700
    root.chmod(0o770)
    reasons = (
        rf"{blocker}/sparseq cannot be made \(Not a directory\), {root} can be written by others"
    )
    with pytest.raises(BuildError, match=rf"{reasons} \(chmod go-w {root}\); set SPARSEQ_CACHE"):
        cache.cache_root()
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    monkeypatch.setenv("SPARSEQ_CACHE_DIR", str(root))
    with pytest.raises(BuildError, match=f"{root} belongs to another user; set"):
        cache.cache_root()


def test_a_manifest_tells_of_every_file(tmp_path):
    (tmp_path / "a.so").write_text("a")
    cache.write_manifest(tmp_path, {"a.so": "made of this"})
    assert cache.is_whole(tmp_path / "a.so", made_of="made of this")
    assert not cache.is_whole(tmp_path / "a.so", made_of="made of that")
    assert not cache.is_whole(tmp_path / "b.so")
    assert list(json.loads((tmp_path / cache.MANIFEST).read_text())) == ["a.so"]
