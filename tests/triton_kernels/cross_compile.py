"""Compile what the public functions launch for a GPU that need not be there; print its resources.

    python cross_compile.py float32|tf32|bfloat16|float16

prints {"op algorithm sizes": {"registers", "stack", "shared", "products": [instructions]}} as JSON.
"""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
import tempfile
from typing import Any

import torch
import triton
from sparseq.triton_kernels import KERNELS
from triton.backends.compiler import GPUTarget

SIZES = [(256, 256, 256), (250, 75, 21)]  # (batch, m, k), addresses aligned and not
TARGET = GPUTarget("cuda", 90, 32)


class AbsentDevice:
    """What Triton asks a driver before it compiles."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return TARGET


class Compiled:
    """Stands for a kernel: a launch compiles it and keeps the result."""

    def __init__(self, kernel: Any) -> None:
        self.kernel, self.latest = kernel, None

    def __getitem__(self, grid: tuple[int, ...]):
        def launch(*args: Any, **options: Any) -> None:
            self.latest = self.kernel.warmup(*args, grid=grid, **options)

        return launch


def resources(kernel: Any) -> dict[str, Any]:
    """Registers per thread, bytes of stack (spills) and of shared memory, and the products used."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", text).groups()
    used = [name for name in ("wgmma", "mma.sync", "fma.rn.f32") if name in kernel.asm["ptx"]]
    return {
        "registers": int(registers),
        "stack": int(stack),
        "shared": kernel.metadata.shared,
        "products": used,
    }


def compile_at(dtype: torch.dtype, algorithm: str, sizes: tuple[int, int, int]) -> dict[str, Any]:
    """Resources of the three kernels at one size (batch, m, k)."""
    batch, m, k = sizes
    x, dy = torch.empty(batch, 4 * k, dtype=dtype), torch.empty(batch, 4 * m, dtype=dtype)
    weight, bias = torch.empty(4, m, k, dtype=dtype), torch.empty(4 * m, dtype=dtype)
    arguments = {"hamilton": (x, weight, bias), "hamilton_dx": (dy, weight), "hamilton_dw": (dy, x)}
    found = {}
    for name, tensors in arguments.items():
        KERNELS[name](*tensors, algorithm)
        found[f"{name} {algorithm} {sizes}"] = resources(module._product.latest)
    return found


if __name__ == "__main__":
    kind = sys.argv[1]
    if kind == "tf32":
        torch.backends.cuda.matmul.fp32_precision = "tf32"
    dtype = torch.float32 if kind == "tf32" else getattr(torch, kind)
    triton.runtime.driver.set_active(AbsentDevice())
    module = sys.modules[KERNELS["hamilton"].__module__]
    module._product = Compiled(module._product)
    cases = itertools.product(("8", "16"), SIZES)
    print(json.dumps({k: v for case in cases for k, v in compile_at(dtype, *case).items()}))
