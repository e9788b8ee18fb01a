"""What this machine has, which kernel serves which op, and whether the answers are right."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from functools import partial
from importlib import metadata

import torch
from rich.console import Console
from rich.table import Table

from sparseq._version import __version__
from sparseq.formats import CSRPattern
from sparseq.ops import _backend, build
from sparseq.ops.build import cache, toolchain
from sparseq.ops.build.cpu import cpu_class
from sparseq.ops.choice import measured
from sparseq.ops.hamilton import hamilton, hamilton_reference
from sparseq.ops.spmm import spmm, spmm_reference
from sparseq.timing import median_ms

PACKAGES = ["torch", "torchvision", "triton", "numpy", "pybind11", "ninja", "safetensors"]
REPEATS = 12
TOLERANCE = 1e-5  # of float32 results against float64, relative


def print_report() -> bool:
    """Print the report; True if the self test passed."""
    console = Console()
    for title, rows in (("versions", versions()), ("machine", machine()), ("kernels", kernels())):
        table = Table("", "", title=title, show_header=False, title_justify="left")
        for name, value in rows:
            table.add_row(name, value)
        console.print(table)
    right = True
    for name, passed, detail in self_test():
        right &= passed
        console.print(f"self test {name}: {'ok' if passed else 'WRONG'}, {detail}")
    return right


def versions() -> Iterator[tuple[str, str]]:
    """Name and version of what sparseq runs on."""
    yield "sparseq", __version__
    yield "Python", platform.python_version()
    for name in PACKAGES:
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:
            yield name, "missing"


def machine() -> Iterator[tuple[str, str]]:
    """CPU, instruction sets, threads, GPU, compilers and the cache."""
    yield "CPU", toolchain.cpu_model()
    isas = ", ".join(toolchain.supported_isas())
    yield "instruction sets", f"{isas}; used: {toolchain.cpu_isa()}"
    yield "kernel choice", _kernel_choice()
    yield "threads", str(torch.get_num_threads())
    has_gpu = torch.cuda.is_available()
    yield "GPU", torch.cuda.get_device_name() if has_gpu else "none visible"
    yield "C++ compiler", _or_reason(lambda: toolchain.compiler_version(toolchain.compiler()))
    yield "CUDA compiler", toolchain.cuda_compiler() or "none found"
    yield "kernel cache", _or_reason(lambda: str(cache.cache_root()))


def kernels() -> list[tuple[str, str]]:
    """Op and what serves it on the CPU; builds the kernels if they are not there."""
    return list(_backend.activate("cpu").items())


def self_test() -> Iterator[tuple[str, bool, str]]:
    """(op, passed, error and speed-up over the dense product) on 1024 x 1024 at batch 64."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    x, dense = draw(64, 1024), draw(1024, 1024)
    pattern = CSRPattern.from_mask(torch.rand(1024, 1024, generator=generator) < 0.05).tensors
    values = draw(len(pattern[1]))
    weight = draw(4, 256, 256)
    xs, ds, vs, ws = x.float(), dense.float(), values.float(), weight.float()
    dense_product = partial(torch.nn.functional.linear, xs, ds)
    cases = [
        (
            "spmm at 5 % density",
            lambda: spmm(xs, vs, pattern),
            spmm_reference(x, values, None, pattern, False),
        ),
        ("hamilton", lambda: hamilton(xs, ws), hamilton_reference(x, weight, None, "16")),
    ]
    for name, run, exact in cases:
        error = float((run().double() - exact).norm() / exact.norm())
        dense_ms, ours_ms = median_ms([dense_product, run], repeats=REPEATS)
        speed = f"{dense_ms / ours_ms:.1f}x the dense product's speed"
        yield name, error < TOLERANCE, f"error {error:.0e}, {speed}"


def _kernel_choice() -> str:
    """The class of this CPU, and the one whose measured thresholds serve."""
    here, served_by = cpu_class().name, measured().cpu.name
    if here == served_by:
        return f"by thresholds measured on this class of CPU, {here}"
    return f"{here} was not measured; by the thresholds of {served_by}"


def _or_reason(read: Callable[[], str]) -> str:
    try:
        return read()
    except build.BuildError as error:
        return f"none: {error}"
