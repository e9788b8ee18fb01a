"""No change of its arguments makes an op crash, or return what it did not compute.

`SPARSEQ_MUTATED_CALLS=20000 pytest tests/test_mutated_calls.py` makes that many calls instead
of a few; `SPARSEQ_MUTATED_SEED` is where they begin.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.source_tree import ROOT

COUNT = int(os.environ.get("SPARSEQ_MUTATED_CALLS", "1200"))
FIRST = int(os.environ.get("SPARSEQ_MUTATED_SEED", "0"))
BATCH = 2000


@pytest.mark.parametrize("first", range(FIRST, FIRST + COUNT, BATCH))
def test_every_op_survives_mutated_calls(first, tmp_path):
    count, progress = min(BATCH, FIRST + COUNT - first), tmp_path / "seed"
    command = [sys.executable, "-m", "tests.ops.mutated_calls", str(first), str(count), progress]
    run = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    seed = progress.read_text().strip() if progress.exists() else "none yet"
    assert run.returncode in (0, 1), f"exit {run.returncode} at seed {seed}:\n{run.stderr[-4000:]}"
    assert not run.stdout.strip(), run.stdout
    assert run.returncode == 0, run.stderr[-4000:]
