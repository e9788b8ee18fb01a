"""The fp32 peak of the machine: independent fused multiply-adds in registers, and nothing else.

    python -m bench.peak

It is the roof of bench/figure.py. Vectors are as wide as the CPU has them.
"""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter

from bench.results import ROOT, Row, machine, save_rows
from bench.timing import wait_for_quiet

CHAINS, LANES, TURNS, TRIES = 16, 16, 4_000_000, 7
PATIENCE = 30  # seconds to wait for a quiet machine
SOURCE = f"""
typedef float vec __attribute__((vector_size({4 * LANES})));
extern "C" float spin(long turns, float factor, float term) {{
  vec sums[{CHAINS}], factors = {{}}, terms = {{}};
  factors += factor;
  terms += term;
  for (int i = 0; i < {CHAINS}; ++i) sums[i] = terms * (float)i;
  for (long turn = 0; turn < turns; ++turn)
#pragma GCC unroll {CHAINS}
    for (int i = 0; i < {CHAINS}; ++i) sums[i] = sums[i] * factors + terms;
  for (int i = 1; i < {CHAINS}; ++i) sums[0] += sums[i];
  return sums[0][0];
}}
"""


def build(folder: Path) -> ctypes.CDLL:
    """Compile the loop for this CPU."""
    source, library = folder / "peak.cpp", folder / "peak.so"
    source.write_text(SOURCE)
    command = [
        "g++",
        "-O3",
        "-march=native",
        "-mprefer-vector-width=512",
        "-ffp-contract=fast",
        "-shared",
        "-fPIC",
        "-o",
        str(library),
        str(source),
    ]
    subprocess.run(command, check=True)
    loaded = ctypes.CDLL(str(library))
    loaded.spin.argtypes = [ctypes.c_long, ctypes.c_float, ctypes.c_float]
    loaded.spin.restype = ctypes.c_float
    return loaded


def gflops(loaded: ctypes.CDLL, threads: int) -> float:
    """The best of several tries, all threads together."""
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(TRIES):
            start = perf_counter()
            runs = [pool.submit(loaded.spin, TURNS, 0.5, 0.25) for _ in range(threads)]
            for run in runs:
                run.result()
            work = 2.0 * CHAINS * LANES * TURNS * threads
            best = max(best, work / (perf_counter() - start) / 1e9)
    return best


def peak_rows() -> list[Row]:
    """A row for 1 and 2 threads."""
    with tempfile.TemporaryDirectory() as folder:
        loaded = build(Path(folder))
        wait_for_quiet(PATIENCE)
        return [
            {
                "suite": "peak",
                "subject": "fp32 FMA",
                "threads": threads,
                "gflops": round(gflops(loaded, threads), 1),
                **machine(),
            }
            for threads in (1, 2)
        ]


if __name__ == "__main__":
    for row in peak_rows():
        print(row["threads"], "threads:", row["gflops"], "GFLOP/s")
        save_rows([row], ROOT / "bench" / "results")
