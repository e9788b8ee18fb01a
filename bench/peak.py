"""The fp32 peak of the machine: independent fused multiply-adds in registers, and nothing else.

    python -m bench.peak

Measured once per session and number of threads; every row of results states its rate as a
percentage of it, and it is the roof of bench/figure.py. Vectors are as wide as the CPU has them,
whatever SPARSEQ_CPU_ISA says.
"""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from time import perf_counter

from sparseq.ops.build import toolchain

# 12 sums cover the latency of two units and leave room for the factors among 16 registers
CHAINS, TURNS, TRIES = 12, 2_000_000, 20
LANES = {"scalar": 4, "avx2": 8, "avx512": 16}
SOURCE = """
typedef float vec __attribute__((vector_size(4 * LANES)));
extern "C" float spin(long turns, float factor, float term) {
  vec sums[CHAINS], factors = {}, terms = {};
  factors += factor;
  terms += term;
  for (int i = 0; i < CHAINS; ++i) sums[i] = terms * (float)i;
  for (long turn = 0; turn < turns; ++turn)
#pragma GCC unroll 12
    for (int i = 0; i < CHAINS; ++i) sums[i] = sums[i] * factors + terms;
  for (int i = 1; i < CHAINS; ++i) sums[0] += sums[i];
  return sums[0][0];
}
"""
FLAGS = (
    "-O3",
    "-march=native",
    "-mprefer-vector-width=512",
    "-ffp-contract=fast",
    "-shared",
    "-fPIC",
)


def lanes() -> int:
    """fp32 numbers in the widest vector of this CPU."""
    return LANES[toolchain.supported_isas()[-1]]


@cache
def peak_gflops(threads: int) -> float | None:
    """GFLOP/s of all threads together, the best of several tries; None without a compiler."""
    try:
        loop = _loop()
    except (toolchain.BuildError, OSError, subprocess.CalledProcessError):
        return None
    work = 2.0 * CHAINS * lanes() * TURNS * threads
    return round(work / min(_seconds(loop, threads) for _ in range(TRIES)) / 1e9, 1)


@cache
def _loop() -> ctypes.CDLL:
    """The loop, compiled for this CPU and loaded."""
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "peak.cpp"), Path(folder, "peak.so")
        source.write_text(SOURCE)
        sizes = (f"-DCHAINS={CHAINS}", f"-DLANES={lanes()}")
        command = [toolchain.compiler(), *FLAGS, *sizes, "-o", str(library), str(source)]
        subprocess.run(command, check=True, capture_output=True)
        loaded = ctypes.CDLL(str(library))
    loaded.spin.argtypes = [ctypes.c_long, ctypes.c_float, ctypes.c_float]
    loaded.spin.restype = ctypes.c_float
    return loaded


def _seconds(loop: ctypes.CDLL, threads: int) -> float:
    """Wall time of one try; a single thread is the calling one."""
    with ThreadPoolExecutor(threads) as pool:
        start = perf_counter()
        others = [pool.submit(loop.spin, TURNS, 0.5, 0.25) for _ in range(threads - 1)]
        loop.spin(TURNS, 0.5, 0.25)
        for run in others:
            run.result()
        return perf_counter() - start


if __name__ == "__main__":
    for count in (1, 2):
        print(f"{count} thread(s): {peak_gflops(count)} GFLOP/s")
