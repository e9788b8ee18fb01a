"""`sparseq doctor`: the machine, the kernel of each op, and a self-test."""

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
TOLERANCE = 1e-5  # relative error of float32 results


def print_report() -> bool:
    """Print the report; True if the self-test passed."""
    console = Console()
    for title, rows in (("versions", versions()), ("machine", machine()), ("kernels", kernels())):
        table = Table("", "", title=title, show_header=False, title_justify="left")
        for name, value in rows:
            table.add_row(name, value)
        console.print(table)
    all_passed = True
    for name, passed, detail in self_test():
        all_passed &= passed
        console.print(f"self-test {name}: {'passed' if passed else 'FAILED'}, {detail}")
    return all_passed


def versions() -> Iterator[tuple[str, str]]:
    """Name and version of sparseq, Python and the required packages."""
    yield "sparseq", __version__
    yield "Python", platform.python_version()
    for name in PACKAGES:
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:
            yield name, "not installed"


def machine() -> Iterator[tuple[str, str]]:
    """CPU, instruction sets, kernel choice, threads, GPU, compilers and kernel cache."""
    yield "CPU", toolchain.cpu_model()
    isas = ", ".join(toolchain.supported_isas())
    yield "instruction sets", f"{isas}; used: {toolchain.cpu_isa()}"
    yield "kernel choice", _kernel_choice()
    yield "threads", str(torch.get_num_threads())
    has_gpu = torch.cuda.is_available()
    yield "GPU", torch.cuda.get_device_name() if has_gpu else "not available"
    yield "C++ compiler", _or_reason(lambda: toolchain.compiler_version(toolchain.compiler()))
    yield "CUDA compiler", toolchain.cuda_compiler() or "not found"
    yield "kernel cache", _or_reason(lambda: str(cache.cache_root()))


def kernels() -> list[tuple[str, str]]:
    """Name and CPU backend of each op; builds the kernels if necessary."""
    return list(_backend.activate("cpu").items())


def self_test() -> Iterator[tuple[str, bool, str]]:
    """(op, passed, error and speedup over the dense product) for 1024 x 1024 at batch 64."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    x, dense = draw(64, 1024), draw(1024, 1024)
    pattern = CSRPattern.from_mask(torch.rand(1024, 1024, generator=generator) < 0.05)
    values = draw(pattern.nnz)
    weight = draw(4, 256, 256)
    x32, values32, weight32 = x.float(), values.float(), weight.float()
    dense_product = partial(torch.nn.functional.linear, x32, dense.float())
    cases = [
        (
            "spmm at 5 % density",
            lambda: spmm(x32, values32, pattern),
            spmm_reference(x, values, None, pattern.tensors, False),
        ),
        ("hamilton", lambda: hamilton(x32, weight32), hamilton_reference(x, weight, None, "16")),
    ]
    for name, run, expected in cases:
        error = float((run().double() - expected).norm() / expected.norm())
        dense_ms, ours_ms = median_ms([dense_product, run], repeats=REPEATS)
        speedup = f"{dense_ms / ours_ms:.1f}x as fast as the dense product"
        yield name, error < TOLERANCE, f"error {error:.0e}, {speedup}"


def _kernel_choice() -> str:
    """The class of this CPU, and the class whose measured thresholds are used."""
    this_class, measured_class = cpu_class().name, measured().cpu.name
    if this_class == measured_class:
        return f"thresholds measured on this class of CPU, {this_class}"
    return f"{this_class} is not measured; thresholds of {measured_class}"


def _or_reason(read: Callable[[], str]) -> str:
    try:
        return read()
    except build.BuildError as error:
        return f"not available: {error}"
