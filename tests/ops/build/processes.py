"""Python processes with a cache of their own, and a csrc so small that it compiles at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from sparseq.ops.build.sources import PACKAGE

# library -> the answer that its one function gives
ANSWERS = {"cpu": 42, "host": 7}
ASK = """
import ctypes, sys
from pathlib import Path
from sparseq.ops import build
from sparseq.ops.build import sources
sources.source_root = lambda: Path(sys.argv[1])
print(ctypes.CDLL(str(build.library("cpu"))).answer())
"""


def write_csrc(root: Path) -> Path:
    """A csrc with one function in each library, its answer in a header of csrc/common."""
    (root / "common").mkdir(parents=True)
    for name, answer in ANSWERS.items():
        (root / name).mkdir()
        (root / "common" / f"{name}.h").write_text(f"#define ANSWER {answer}\n")
        code = f'#include "../common/{name}.h"\nextern "C" __attribute__((visibility("default")))\n'
        code += "int answer() { return ANSWER; }\n"
        (root / name / "answer.cpp").write_text(code)
    return root


def environment(cache: Path, **more: str) -> dict[str, str]:
    """This process's, without what steers sparseq, and with this checkout first."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("SPARSEQ_")}
    return {**kept, "PYTHONPATH": str(PACKAGE.parent), "SPARSEQ_CACHE_DIR": str(cache), **more}


def start(cache: Path, code: str, *arguments: object, **more: str) -> subprocess.Popen[str]:
    """Start a Python process."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=environment(cache, **more),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def call(cache: Path, code: str, *arguments: object, **more: str) -> tuple[str, str, int]:
    """Output, errors and exit status of a Python process."""
    process = start(cache, code, *arguments, **more)
    out, err = process.communicate(timeout=300)
    return out.strip(), err, process.returncode
