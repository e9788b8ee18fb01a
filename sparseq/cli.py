"""The command line: `sparseq COMMAND`, one line and exit status 2 for every mistake of the user.

A command is a dataclass whose fields are the flags: a recipe of `sparseq.recipes`, or one below.
torch is imported by the command that needs it, so the list of commands comes at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from sparseq._version import __version__
from sparseq.errors import require

FAILED, USER_ERROR, INTERRUPTED = 1, 2, 130
DEBUG = "SPARSEQ_TRACEBACK"


@dataclass(frozen=True)
class Command:
    """What the list of commands says, and what to run with the remaining arguments."""

    summary: str
    run: Callable[[str, list[str]], object]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, 1 for a failed self test, 2 for a mistake
    of the user, 130 for Ctrl-C.

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
        passed = COMMANDS[name].run(name, arguments)
    except KeyboardInterrupt:
        print(f"\nsparseq {name}: interrupted; started again, the same command goes on from the "
              "last finished round", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # the reader has gone; keep Python from flushing into the closed pipe at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, OSError, TypeError, RuntimeError) as error:
        if os.environ.get(DEBUG):
            raise
        return complain(name, describe(error))
    else:
        return FAILED if passed is False else 0
    return 0


def complain(name: str, text: str) -> int:
    """One line on stderr; returns the exit status."""
    print(f"sparseq{name and ' '}{name}: error: {text}", file=sys.stderr)
    return USER_ERROR


def describe(error: Exception) -> str:
    """An exception's message on one line; for those that may be no user's mistake, the remedy."""
    text = " ".join(str(error).split()) or type(error).__name__
    expected = isinstance(error, ValueError | OSError)
    return text if expected else f"{text} ({DEBUG}=1 shows where)"


def overview() -> str:
    """The list of commands."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join([
        f"sparseq {__version__}: small and fast pruned, sparse and quaternion networks", "",
        "usage: sparseq COMMAND [--help] [flags]", "", *lines, "",
        "A run that was stopped goes on when the same command is started again.",
    ])  # fmt: skip


def parse(command: type, name: str, arguments: list[str]) -> Any:
    """An instance of a dataclass, its fields from the flags; exits with 2 on wrong flags."""
    import tyro

    # tyro would draw a box around what the dataclass says to its values
    unchecked = {"__post_init__": lambda self: None, "__doc__": command.__doc__}
    twin: Any = type(command.__name__, (command,), unchecked)
    style = (tyro.conf.PositionalRequiredArgs, tyro.conf.FlagCreatePairsOff,
             tyro.conf.DisallowNone)
    flags = tyro.cli(twin, prog=f"sparseq {name}", args=arguments, config=style)
    return command(**{field.name: getattr(flags, field.name) for field in fields(command)})


def run_recipe(name: str, arguments: list[str]) -> None:
    """Run a recipe under a progress bar and show what it found."""
    from rich.console import Console

    from sparseq.recipes import RECIPES
    from sparseq.recipes.progress import Bar

    recipe = parse(RECIPES.get(name), name, arguments)
    console = Console()
    console.print(f"run folder: {recipe.folder()}", highlight=False, soft_wrap=True)
    with Bar(console) as bar:
        results = recipe.run(bar)
    results.show(console)


def runs(command: type) -> Callable[[str, list[str]], object]:
    """What runs a dataclass below."""
    return lambda name, arguments: parse(command, name, arguments).run()


@dataclass(frozen=True)
class Compress:
    """Turn a network's exact zeros into sparse layers: file to file."""

    source: Path
    """A file that sparseq saved."""
    target: Path
    """The file to write."""
    policy: str = "auto"
    """auto (leave layers dense where that is faster) or sparse."""
    batch: int = 64
    """Examples the network will mostly run at; auto goes by it."""
    overwrite: bool = False
    """Replace an existing target."""

    def run(self) -> None:
        """Write the file and say what was gained."""
        from sparseq.compression import compress
        from sparseq.files import load, save

        small = compress(load(self.source), policy=self.policy, batch=self.batch)
        before = self.source.stat().st_size
        save(small, self.target, overwrite=self.overwrite)
        after = self.target.stat().st_size
        print(f"{self.target}: {after:,} bytes, from {before:,} ({before / after:.2f}x smaller)")


@dataclass(frozen=True)
class Info:
    """Show where every byte of a file goes."""

    file: Path
    """A file that sparseq saved."""

    def run(self) -> None:
        """Print the table."""
        from rich.console import Console
        from rich.table import Table

        from sparseq.contents import describe_file

        rows = describe_file(self.file)
        total = sum(row.bytes for row in rows)
        table = Table(title=f"{self.file}: {total:,} bytes", title_justify="left")
        for heading in ("part", "bytes", "share", "encoding", "type", "shape"):
            table.add_column(heading, justify="right" if heading in ("bytes", "share") else "left")
        for row in rows:
            table.add_row(row.name, f"{row.bytes:,}", f"{row.bytes / total:.1%}", row.encoding,
                          row.dtype, " x ".join(map(str, row.shape)))
        Console().print(table)


@dataclass(frozen=True)
class Profile:
    """Measure a network layer by layer, dense against sparse."""

    model: str
    """A saved file, a registered model, or path/to/file.py:function."""
    data: str = "digits"
    """The data set whose shapes the examples have."""
    algebra: str = "real"
    """real or quaternion, for a model that is no file."""
    batch: int = 256
    """Examples per forward pass."""
    repeats: int = 20
    """Samples behind each median."""
    threads: int = 1
    """CPU threads."""
    device: str = "cpu"
    """Where to run."""
    seed: int = 0
    """Of the random examples, and of the weights of a model that is no file."""

    def __post_init__(self) -> None:
        for name in ("batch", "threads"):
            require(getattr(self, name) >= 1, "profile", name, "must be at least 1",
                    getattr(self, name))

    def run(self) -> None:
        """Print the table."""
        import torch
        from rich.console import Console

        from sparseq.data import find_dataset
        from sparseq.profiling import profile

        torch.set_num_threads(self.threads)
        generator = torch.Generator().manual_seed(self.seed)
        x = torch.randn(self.batch, *find_dataset(self.data).in_shape, generator=generator)
        network = self.open_model().to(self.device)
        Console().print(profile(network, x.to(self.device), repeats=self.repeats))

    def open_model(self) -> Any:
        """The network from the file, or freshly built for the shapes of the data set."""
        from sparseq.data import find_dataset
        from sparseq.files import load
        from sparseq.models import build

        if self.model.endswith(".sparseq") or Path(self.model).is_file():
            return load(self.model)
        shapes = find_dataset(self.data)
        return build(self.model, self.algebra, shapes.in_shape, shapes.num_classes, self.seed)


@dataclass(frozen=True)
class Doctor:
    """Show versions, compilers, CPU features, cache and kernels, and test them."""

    def run(self) -> bool:
        """Print the report; False if a result was wrong."""
        from sparseq.doctor import print_report

        return print_report()


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
                        runs(Compress)),
    "info": Command("show where every byte of a file goes", runs(Info)),
    "profile": Command("measure a network layer by layer, dense against sparse",
                       runs(Profile)),
    "doctor": Command("what this machine has, which kernel serves which op, self test",
                      runs(Doctor)),
    "build": Command("compile the kernels now instead of at first use", run_build),
}  # fmt: skip
