import pytest

from sparseq.ops.build import cache, sources, toolchain
from tests.ops.build.processes import write_csrc


@pytest.fixture
def csrc(tmp_path, monkeypatch):
    """A small csrc in place of ours, and an empty cache."""
    root = write_csrc(tmp_path / "csrc")
    monkeypatch.setattr(sources, "source_root", lambda: root)
    monkeypatch.setattr(cache, "AHEAD", tmp_path / "_lib")
    monkeypatch.setenv("SPARSEQ_CACHE_DIR", str(tmp_path / "cache"))
    return root


@pytest.fixture
def needs_compiler():
    try:
        toolchain.compiler()
        toolchain.ninja()
    except toolchain.BuildError as error:
        pytest.skip(str(error))


@pytest.fixture
def cpu():
    return sources.variant(sources.libraries()["cpu"])


@pytest.fixture
def host():
    return sources.variant(sources.libraries()["host"])
