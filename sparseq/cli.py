"""The command line: `sparseq COMMAND`, one line and exit status 2 for every mistake of the user.

A command is a recipe (a dataclass of `sparseq.recipes`, its fields are the flags) or a function
below (its arguments are the flags). torch is imported by the command that needs it, so the list
of commands comes at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparseq._version import __version__

USER_ERROR, INTERRUPTED = 2, 130
DEBUG = "SPARSEQ_TRACEBACK"


@dataclass(frozen=True)
class Command:
    """What the list of commands says, and what to run with the remaining arguments."""

    summary: str
    run: Callable[[str, list[str]], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, 2 for a user's mistake, 130 for Ctrl-C.

    Args:
        arguments: without the program's name; by default those of the process.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    name = given[0] if given else "--help"
    if name in ("-h", "--help", "help"):
        print(overview())
        return 0 if given else USER_ERROR
    if name == "--version":
        print(f"sparseq {__version__}")
        return 0
    if name not in COMMANDS:
        return complain("", f"unknown command {name!r}; choose one of: {', '.join(COMMANDS)}")
    return guarded(name, given[1:])


def guarded(name: str, arguments: list[str]) -> int:
    """Run one command; mistakes become one line on stderr."""
    try:
        COMMANDS[name].run(name, arguments)
    except KeyboardInterrupt:
        print(f"\nsparseq {name}: interrupted; started again, the same command goes on from the "
              "last finished round", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # the reader has gone; keep Python from flushing into the closed pipe at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, TypeError, OSError) as error:
        if os.environ.get(DEBUG):
            raise
        return complain(name, describe(error))
    return 0


def complain(name: str, text: str) -> int:
    """One line on stderr; returns the exit status."""
    print(f"sparseq{name and ' '}{name}: error: {text}", file=sys.stderr)
    return USER_ERROR


def describe(error: Exception) -> str:
    """An exception's message on one line; its type where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def overview() -> str:
    """The list of commands."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join([
        f"sparseq {__version__}: small and fast pruned, sparse and quaternion networks", "",
        "usage: sparseq COMMAND [--help] [flags]", "", *lines, "",
        "A run that was stopped goes on when the same command is started again.",
    ])  # fmt: skip


def parse(target: Callable[..., Any], name: str, arguments: list[str]) -> Any:
    """Call a function, or fill a dataclass, from the flags; tyro exits with 2 on wrong ones."""
    import tyro

    return tyro.cli(target, prog=f"sparseq {name}", args=arguments,
                    config=(tyro.conf.PositionalRequiredArgs, tyro.conf.FlagCreatePairsOff))


def run_recipe(name: str, arguments: list[str]) -> None:
    """Run a recipe under a progress bar and show what it found."""
    from rich.console import Console

    from sparseq.recipes import RECIPES
    from sparseq.recipes.progress import Bar

    recipe: Any = parse(RECIPES.get(name), name, arguments)
    console = Console()
    console.print(f"run folder: {recipe.folder()}", highlight=False, soft_wrap=True)
    with Bar(console) as bar:
        results = recipe.run(bar)
    results.show(console)


def function(target: Callable[..., None]) -> Callable[[str, list[str]], None]:
    """A command that calls a function with the flags."""
    return lambda name, arguments: parse(target, name, arguments)


def compress_file(source: Path, target: Path, policy: str = "auto",
                  overwrite: bool = False) -> None:
    """Turn a network's exact zeros into sparse layers: file to file.

    Args:
        source: a file that sparseq saved.
        target: the file to write.
        policy: auto (leave layers dense where that is faster) or sparse.
        overwrite: replace an existing target.
    """
    from sparseq.compression import compress
    from sparseq.files import load, save

    save(compress(load(source), policy=policy), target, overwrite=overwrite)
    before, after = source.stat().st_size, target.stat().st_size
    print(f"{target}: {after:,} bytes, from {before:,} ({before / after:.2f}x smaller)")


def show_info(file: Path) -> None:
    """Show where every byte of a file goes.

    Args:
        file: a file that sparseq saved.
    """
    from rich.console import Console
    from rich.table import Table

    from sparseq.contents import describe_file

    rows = describe_file(file)
    total = sum(row.bytes for row in rows)
    table = Table(title=f"{file}: {total:,} bytes", title_justify="left")
    for heading in ("part", "bytes", "share", "encoding", "type", "shape"):
        table.add_column(heading, justify="right" if heading in ("bytes", "share") else "left")
    for row in rows:
        table.add_row(row.name, f"{row.bytes:,}", f"{row.bytes / total:.1%}", row.encoding,
                      row.dtype, " x ".join(map(str, row.shape)))
    Console().print(table)


def show_profile(model: str, data: str = "digits", algebra: str = "real", batch: int = 256,
                 repeats: int = 20, threads: int = 1, device: str = "cpu") -> None:
    """Measure a network layer by layer, dense against sparse.

    Args:
        model: a saved file, a registered model, or path/to/file.py:function.
        data: the data set whose shapes a model that is no file is built for.
        algebra: real or quaternion, for a model that is no file.
        batch: examples per forward pass.
        repeats: samples behind each median.
        threads: CPU threads.
        device: where to run.
    """
    import torch
    from rich.console import Console

    from sparseq.data import find_dataset
    from sparseq.profiling import profile

    torch.set_num_threads(threads)
    network, shape = open_model(model, data, algebra), find_dataset(data).in_shape
    x = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0))
    Console().print(profile(network.to(device), x.to(device), repeats=repeats))


def open_model(name: str, data: str, algebra: str) -> Any:
    """A network from a file, or freshly built for the shapes of a data set."""
    from sparseq.data import find_dataset
    from sparseq.files import load
    from sparseq.models import build

    if name.endswith(".sparseq") or Path(name).is_file():
        return load(name)
    shapes = find_dataset(data)
    return build(name, algebra, shapes.in_shape, shapes.num_classes)


def run_doctor(name: str, arguments: list[str]) -> None:
    """Call the self test; it takes no flags."""

    def doctor() -> None:
        """Versions, compilers, CPU features, cache, which kernel serves which op, self test."""
        from sparseq.doctor import print_report

        print_report()

    parse(doctor, name, arguments)


def run_build(name: str, arguments: list[str]) -> None:
    """Hand the arguments to the kernels' builder."""
    from sparseq.ops.build import main as build

    build(arguments)


COMMANDS = {
    "lottery": Command("train, prune, rewind, train again, round by round", run_recipe),
    "iterative": Command("train, prune, keep training, round by round", run_recipe),
    "prune": Command("prune one network once, and fine-tune it", run_recipe),
    "train": Command("train one network", run_recipe),
    "compress": Command("turn a network's zeros into sparse layers: file to file",
                        function(compress_file)),
    "info": Command("show where every byte of a file goes", function(show_info)),
    "profile": Command("measure a network layer by layer, dense against sparse",
                       function(show_profile)),
    "doctor": Command("what this machine has, which kernel serves which op, self test", run_doctor),
    "build": Command("compile the kernels now instead of at first use", run_build),
}  # fmt: skip
