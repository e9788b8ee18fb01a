"""Build, cache and find the compiled libraries.

The first use of a kernel compiles a folder of csrc/ for this machine into a folder named by the
hash of sources, flags, compiler and torch; later processes load it from there. Each library has a
folder of its own. One process builds while the others wait on a file lock; the result is renamed
into place, so a folder that exists is whole, and a builder that was killed leaves nothing that
matters. Libraries built ahead of time (`SPARSEQ_BUILD=1 pip install`) are used first where they
match the sources.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from sparseq.ops.build import cache, compile, sources
from sparseq.ops.build.sources import Variant
from sparseq.ops.build.toolchain import BuildError

__all__ = ["LIBRARIES", "BuildError", "library", "existing", "main"]

LIBRARIES = sources.libraries()


def library(name: str, verbose: bool = False) -> Path:
    """Path of a compiled library for this machine, built now if it must be.

    Args:
        name: a key of LIBRARIES.
        verbose: show all that the compiler says.

    Raises:
        BuildError: it cannot be built; nothing was changed.
    """
    wanted = sources.variant(LIBRARIES[name])
    found = cache.find(wanted)
    missing = [*([] if found else [wanted]), *_missing_companions(wanted)]
    if missing:
        try:
            compile.build(missing, verbose)
        except BuildError as error:
            if found is None:
                raise
            compile.say(f"its slower twin in NumPy serves: {error}")
    found = found or cache.find(wanted)
    if found is None:
        raise BuildError(f"the library {wanted.name} was built and is gone: is its folder cleaned?")
    return found


def existing(name: str) -> Path | None:
    """Path of a compiled library if it is there already; nothing is built for it."""
    try:
        return cache.find(sources.variant(LIBRARIES[name]))
    except BuildError:
        return None


def _missing_companions(wanted: Variant) -> list[Variant]:
    """What is to be built along with a library, where it can be."""
    companions = [sources.variant(LIBRARIES[name]) for name in wanted.library.companions]
    return [one for one in companions if cache.find(one) is None and compile.can_build(one)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of the builder; `sparseq build` comes here."""
    parser = argparse.ArgumentParser("sparseq build", description="Compile the kernels now.")
    parser.add_argument("--verbose", action="store_true", help="show the compiler's output")
    parser.add_argument("--ahead-of-time", action="store_true", help="build into the package")
    parser.add_argument("--compile-cuda", action="store_true", help="only check csrc/cuda compiles")
    options = parser.parse_args(arguments)
    if options.compile_cuda:
        print("\n".join(compile.compile_cuda()) or "no CUDA sources")
    elif options.ahead_of_time:
        compile.build_ahead_of_time()
    else:
        _build_for_this_machine(options.verbose)


def _build_for_this_machine(verbose: bool) -> None:
    """Build all that this machine can use, and print the folders."""
    before = {name for name in LIBRARIES if existing(name)}
    folders = [str(library("cpu", verbose).parent)]
    for name in sorted(LIBRARIES.keys() - {"cpu"}):
        try:
            folders.append(str(library(name, verbose).parent))
        except BuildError as error:  # no GPU, no headers of Python: the CPU's kernels do without
            compile.say(f"{name}: {error}")
    if verbose and before:
        text = f"compiled before: {', '.join(sorted(before))}"
        compile.say(f"{text}; `sparseq build` compiles again what is removed")
    print("\n".join(folders))
