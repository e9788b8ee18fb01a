"""What pip installs, from a copy of the project: editable, as a wheel, and with kernels in it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from sparseq.ops.build import toolchain
from tests.ops.build.processes import write_csrc
from tests.source_tree import ROOT

PARTS = ["sparseq", "csrc", "triton_kernels", "setup.py", "pyproject.toml", "README.md", "LICENSE"]
OFFLINE = ["--no-deps", "--no-build-isolation", "--quiet", "--disable-pip-version-check"]
USER_FILE = "import sparseq\n\nlayer = sparseq.QLinear(4, 8)\nreveal_type(sparseq.QLinear)\n"
IMPORTED = (
    "import sparseq.triton_kernels, pathlib; from sparseq.ops.build import sources;"
    "print(sparseq.triton_kernels.__file__, sources.source_root(), sep='\\n')"
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("pip") is None, reason="pip is not installed here"),
]


@pytest.fixture
def project(tmp_path):
    """A copy of what pip needs of this checkout."""
    folder = tmp_path / "project"
    folder.mkdir()
    ignored = shutil.ignore_patterns("__pycache__", "_lib")
    for name in PARTS:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=ignored)
        else:
            shutil.copy(source, folder)
    return folder


def run(command, cwd, **environment):
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONPATH" and "SPARSEQ_" not in k}
    result = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={**kept, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def build_wheel(project, **environment) -> Path:
    pip = [sys.executable, "-m", "pip", "wheel", ".", *OFFLINE, "--wheel-dir", "wheels"]
    run(pip, project, **environment)
    return next((project / "wheels").glob("*.whl"))


def test_an_editable_installation_is_understood_by_mypy_and_python(project, tmp_path):
    pytest.importorskip("mypy", reason="mypy is not installed here")
    run([sys.executable, "-m", "venv", "--without-pip", "venv"], tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    site = Path(run([python, "-c", "import site; print(site.getsitepackages()[0])"], tmp_path)[:-1])
    packages = site / "packages.pth"
    packages.write_text(f"{sysconfig.get_path('purelib')}\n")  # a path only: no hooks of its own
    run([python, "-m", "pip", "install", "-e", ".", *OFFLINE], project)
    assert run([python, "-c", IMPORTED], tmp_path).splitlines() == [
        str(project / "triton_kernels" / "__init__.py"),
        str(project / "csrc"),
    ]
    packages.unlink()  # torch takes mypy long, and is not in question
    (tmp_path / "user").mkdir()
    (tmp_path / "user" / "mine.py").write_text(USER_FILE)
    mypy = [sys.executable, "-m", "mypy", "--python-executable", python, "--ignore-missing-imports"]
    shown = run([*mypy, "--cache-dir", tmp_path / "cache", "mine.py"], tmp_path / "user")
    assert "sparseq.nn.quaternion.linear.QLinear" in shown


def test_a_wheel_holds_kernels_sources_and_types(project):
    wheel = build_wheel(project)
    assert wheel.name.endswith("-py3-none-any.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("csrc", "triton_kernels"):
        paths = (path for path in (project / folder).rglob("*.*") if path.suffix != ".pyc")
        assert {f"sparseq/{path.relative_to(project)}" for path in paths} <= names
    assert {"sparseq/py.typed", "sparseq/ops/build/__main__.py"} <= names
    assert not [name for name in names if name.startswith(("csrc", "triton_kernels", "tests"))]


def test_a_wheel_with_compiled_kernels_is_for_its_platform_only(project, tmp_path):
    try:
        toolchain.compiler()
    except toolchain.BuildError as error:
        pytest.skip(str(error))
    shutil.rmtree(project / "csrc")
    write_csrc(project / "csrc")
    wheel = build_wheel(project, SPARSEQ_BUILD="1")
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    assert wheel.name.endswith(f"-{python}-{python}-{platform}.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    code = "from sparseq.ops import build; print(build.existing('cpu'), build.existing('host'))"
    found = run([sys.executable, "-c", code], tmp_path, PYTHONPATH=str(tmp_path / "installed"))
    isa = toolchain.supported_isas()[-1]
    compiled = tmp_path / "installed" / "sparseq" / "_lib"
    assert found.split() == [str(compiled / f"cpu-{isa}.so"), str(compiled / "host.so")]
    wheel.unlink()
    plain = build_wheel(project)  # from the same folder, in which the compiled ones still lie
    assert not [name for name in zipfile.ZipFile(plain).namelist() if name.endswith(".so")]
