"""Package layout: csrc/ and triton_kernels/ stand beside sparseq/, and a wheel has them below it.

An editable installation is one path, that of this folder, which editors and type checkers follow;
there sparseq finds the two folders beside it.
"""

import os
import subprocess
import sys
from pathlib import Path

from setuptools import Distribution, find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
AHEAD_OF_TIME = os.environ.get("SPARSEQ_BUILD") == "1"
COMPILED = ["_lib/*.so", "_lib/*.json"] if AHEAD_OF_TIME else []
FOLDERS = sorted(path for path in (ROOT / "csrc").rglob("*") if path.is_dir())
CSRC = ["sparseq.csrc", *(".".join(("sparseq", *path.relative_to(ROOT).parts)) for path in FOLDERS)]


class BuildPy(build_py):
    """Add what stands beside sparseq/, and the kernels where SPARSEQ_BUILD=1 asks for them."""

    def finalize_options(self) -> None:
        super().finalize_options()
        # not in setup() below: with folders from several places an editable installation would
        # be an import hook, which no editor and no type checker can follow
        self.packages = [*self.packages, "sparseq.triton_kernels", *CSRC]
        self.package_dir |= {"sparseq.triton_kernels": "triton_kernels", "sparseq.csrc": "csrc"}

    def run(self) -> None:
        if AHEAD_OF_TIME:
            # a process of its own: torch must not be imported into the build backend
            subprocess.run(
                [sys.executable, "-m", "sparseq.ops.build", "--ahead-of-time"], cwd=ROOT, check=True
            )
        super().run()


class BinaryDistribution(Distribution):
    """One whose wheel is for this Python and this platform only: it holds compiled libraries."""

    def has_ext_modules(self) -> bool:
        return True


setup(
    packages=find_packages(include=["sparseq", "sparseq.*"]),
    package_dir={"": "."},
    package_data={
        "sparseq": ["py.typed", "ops/thresholds/*.json", *COMPILED],
        **{name: ["*.h", "*.cpp", "*.cu", "*.cuh"] for name in CSRC},
    },
    cmdclass={"build_py": BuildPy},
    distclass=BinaryDistribution if AHEAD_OF_TIME else Distribution,
)
