"""Running the compilers: one ninja run for all the libraries that are to be built."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from sparseq.ops.build import cache, sources, toolchain
from sparseq.ops.build.dependencies import DEPENDENCIES
from sparseq.ops.build.sources import Library, Variant
from sparseq.ops.build.toolchain import BuildError

CHECKED_ARCHS = ("80", "90")  # GPUs that csrc/cuda must compile for, whatever machine checks it


def build(variants: Sequence[Variant], verbose: bool = False) -> None:
    """Build what is missing into the cache; other processes wait for it, and build nothing.

    Raises:
        BuildError: something cannot be compiled, or there is no folder for it; nothing was changed.
    """
    root = cache.cache_root()
    folders = {variant: root / cache.key(variant) for variant in variants}
    names = " and ".join(variant.name for variant in variants)

    def tell() -> None:
        say(f"another process is building the kernels for {names}; waiting for it")

    with cache.locked(folders.values(), tell), ExitStack() as stack:
        temporary = {
            variant: stack.enter_context(cache.replacing(folder, variant))
            for variant, folder in folders.items()
            if not cache.is_whole(folder / f"{variant.library.name}.so")
        }
        files = {
            variant: folder / f"{variant.library.name}.so" for variant, folder in temporary.items()
        }
        compile_libraries(files, verbose)


def build_ahead_of_time() -> None:
    """All instruction sets of this architecture, and the host's helpers, into the package itself.

    Raises:
        BuildError: something does not compile; nothing was changed.
    """
    x86 = platform.machine() in ("x86_64", "AMD64")
    known = sources.libraries()
    variants = [Variant(known["cpu"], isa) for isa in (toolchain.ISAS if x86 else ["scalar"])]
    variants.append(Variant(known["host"], ""))
    with tempfile.TemporaryDirectory() as folder:
        files = {variant: Path(folder) / f"{variant.name}.so" for variant in variants}
        compile_libraries(files)
        shutil.rmtree(cache.AHEAD, ignore_errors=True)
        cache.AHEAD.mkdir()
        for path in files.values():
            shutil.move(path, cache.AHEAD / path.name)
    made_of = {files[variant].name: variant.fingerprint() for variant in variants}
    cache.write_manifest(cache.AHEAD, made_of)


def can_build(variant: Variant) -> bool:
    """Whether compilers, ninja and headers are here; the sources may still not compile."""
    try:
        toolchain.ninja()
        return bool(_statements(variant, Path(f"{variant.name}.so")))
    except BuildError:
        return False


def compile_libraries(libraries: Mapping[Variant, Path], verbose: bool = False) -> None:
    """Compile variants into the files they are to be, all at once.

    Raises:
        BuildError: a compiler is missing or finds an error.
    """
    if not libraries:
        return
    started = time.monotonic()
    names = " and ".join(variant.name for variant in libraries)
    say(f"compiling the kernels for {names}, once for this machine (about half a minute)")
    with tempfile.TemporaryDirectory(dir=next(iter(libraries.values())).parent) as work:
        text = "\n".join(line for item in libraries.items() for line in _statements(*item))
        (Path(work) / "build.ninja").write_text(f"{text}\n")
        _run_ninja(work, verbose)
    for path in libraries.values():
        if not path.exists():
            raise BuildError(f"{toolchain.compiler()} made no library and named no error: set CXX")
    say(f"compiled in {time.monotonic() - started:.0f} s")


def _run_ninja(folder: str, verbose: bool) -> None:
    command = [toolchain.ninja(), "-C", folder, "-j", str(toolchain.jobs())]
    run = subprocess.run(
        [*command, "-v"] if verbose else command,
        env=toolchain.build_environment(),
        capture_output=not verbose,
        text=True,
        check=False,
    )
    if not run.returncode:
        return
    if verbose:
        raise BuildError("the kernels do not compile; what the compiler said is above")
    lines = f"{run.stderr}{run.stdout}".splitlines()
    errors = [line for line in lines if "error:" in line] or lines[-5:]
    shown = ["the kernels do not compile:", *(f"  {line}" for line in errors[:5])]
    raise BuildError("\n".join([*shown, "`sparseq build --verbose` shows everything"]))


def _statements(variant: Variant, library: Path) -> list[str]:
    """What ninja is told to make one library; objects go below ninja's own folder."""
    name, depends = variant.name, [DEPENDENCIES[key] for key in variant.library.depends]
    linked = [flag for dependency in depends for flag in dependency.link()]
    objects = {path: f"{name}/{path.stem}.o" for path in sources.files(variant.library)}
    link = [toolchain.compiler(), "-shared", "-o", "$out", "$in", *linked]
    return [
        f"rule compile-{name}",
        f"  command = {_shell([*_compile_command(variant), '-o', '$out', '-c', '$in'])}",
        f"rule link-{name}",
        f"  command = {_shell(link)}",
        *(f"build {out}: compile-{name} {_escape(path)}" for path, out in objects.items()),
        f"build {_escape(library)}: link-{name} {' '.join(objects.values())}",
    ]


def _compile_command(variant: Variant) -> list[str]:
    """The compiler with all but the files."""
    return [*_compiler_of(variant.library), *variant.flags(), *_include_flags(variant.library)]


def _compiler_of(library: Library) -> list[str]:
    if library.compiler == "nvcc":
        return [toolchain.required_cuda_compiler(), f"-ccbin={toolchain.compiler()}"]
    return [toolchain.compiler()]


def _include_flags(library: Library) -> list[str]:
    """Our headers, and those of others, whose warnings are not ours."""
    foreign = [str(DEPENDENCIES[key].headers()) for key in library.depends]
    ours = str(sources.source_root())
    return ["-I", ours, *(part for path in foreign for part in ("-isystem", path))]


def _shell(command: Sequence[str]) -> str:
    """A command as ninja has the shell run it; $in and $out are ninja's to fill in."""
    return " ".join(
        part if part in ("$in", "$out") else shlex.quote(part).replace("$", "$$")
        for part in command
    )


def _escape(path: Path) -> str:
    """A path among the files of a ninja statement."""
    text = str(path)
    for character in ("$", " ", ":"):
        text = text.replace(character, f"${character}")
    return text


def compile_cuda() -> list[str]:
    """Compile every csrc/cuda/*.cu with nvcc for CHECKED_ARCHS, without linking; returns the files.

    Raises:
        BuildError: there is no nvcc, or a file does not compile.
    """
    library = next(one for one in sources.ALL if one.name == "cuda")
    archs = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in CHECKED_ARCHS]
    command = [*_compiler_of(library), *library.flags, *archs, *_include_flags(library)]
    files = sources.files(library)
    for path in files:
        run = subprocess.run(
            [*command, "-c", str(path), "-o", os.devnull],
            capture_output=True,
            text=True,
            check=False,
        )
        if run.returncode:
            raise BuildError(f"{path} does not compile:\n{run.stderr}")
    return [str(path) for path in files]


def say(text: str) -> None:
    """Tell the user what takes so long; never on standard output, which may be a program's."""
    print(f"sparseq: {text}", file=sys.stderr, flush=True)
