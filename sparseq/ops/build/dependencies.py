"""What libraries are compiled against: versions, headers, and what is linked."""

from __future__ import annotations

import importlib
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from sparseq.ops.build.toolchain import BuildError


@dataclass(frozen=True)
class Dependency:
    """One of them. All three are asked when they are needed; `headers` may raise BuildError."""

    version: Callable[[], str]
    headers: Callable[[], Path]
    link: Callable[[], list[str]] = list


def _torch_version() -> str:
    return str(torch.__version__)


def _torch_headers() -> Path:
    return Path(torch.__file__).parent / "include"


def _torch_link() -> list[str]:
    return [f"-L{Path(torch.__file__).parent / 'lib'}", "-lc10", "-ltorch_cpu", "-ltorch"]


def _torch_cuda_link() -> list[str]:
    # The CUDA runtime comes along as torch's own dependency when the library is loaded: the one
    # that torch uses serves, and none need be installed. So torch_cuda stays, asked for or not.
    return ["-Wl,--no-as-needed", *_torch_link(), "-ltorch_cuda", "-lc10_cuda"]


def _pybind11_version() -> str:
    return str(importlib.import_module("pybind11").__version__)


def _pybind11_headers() -> Path:
    return Path(importlib.import_module("pybind11").get_include())


def _python_version() -> str:
    """What decides whether an extension module can be loaded, such as cpython-311-x86_64."""
    return str(sysconfig.get_config_var("SOABI") or sys.implementation.cache_tag)


def _python_headers() -> Path:
    folder = Path(sysconfig.get_path("include"))
    if not (folder / "Python.h").exists():
        raise BuildError(f"no Python.h in {folder} (Debian, Ubuntu: apt install python3-dev)")
    return folder


DEPENDENCIES = {
    "torch": Dependency(_torch_version, _torch_headers, _torch_link),
    "torch_cuda": Dependency(_torch_version, _torch_headers, _torch_cuda_link),
    "pybind11": Dependency(_pybind11_version, _pybind11_headers),
    "python": Dependency(_python_version, _python_headers),
}
