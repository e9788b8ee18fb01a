"""Package layout: csrc/ and triton_kernels/ stand beside sparseq/ and install below it."""

import os
import subprocess
import sys
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
FOLDERS = sorted(path for path in (ROOT / "csrc").rglob("*") if path.is_dir())
CSRC = ["sparseq.csrc", *(".".join(("sparseq", *path.relative_to(ROOT).parts)) for path in FOLDERS)]


class BuildPy(build_py):
    """Compile the kernels ahead of time first where SPARSEQ_BUILD=1 asks for it."""

    def run(self) -> None:
        if os.environ.get("SPARSEQ_BUILD") == "1":
            # a process of its own: torch must not be imported into the build backend
            subprocess.run(
                [sys.executable, "-m", "sparseq.ops.build", "--ahead-of-time"], cwd=ROOT, check=True
            )
        super().run()


setup(
    packages=[*find_packages(include=["sparseq", "sparseq.*"]), "sparseq.triton_kernels", *CSRC],
    package_dir={
        "sparseq": "sparseq",
        "sparseq.triton_kernels": "triton_kernels",
        "sparseq.csrc": "csrc",
    },
    package_data={
        "sparseq": ["py.typed", "ops/thresholds/*.json", "_lib/*.so", "_lib/*.json"],
        **{name: ["*.h", "*.cpp", "*.cu", "*.cuh"] for name in CSRC},
    },
    cmdclass={"build_py": BuildPy},
)
