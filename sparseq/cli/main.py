"""The command line `sparseq COMMAND`; user errors are one line on stderr and exit status 2.

A command is a dataclass whose fields are the flags: a recipe of `sparseq.recipes`, or one of
`sparseq.cli.commands`. torch is imported by the command that runs, so that the list of commands
appears immediately.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from sparseq._version import __version__
from sparseq.cli.commands import Compress, Doctor, Info, Profile

if TYPE_CHECKING:
    from rich.console import Console

FAILED, USER_ERROR, INTERRUPTED = 1, 2, 130
DEBUG = "SPARSEQ_TRACEBACK"
# arguments in the library's error messages -> the equivalent flags
FLAGS = {"overwrite=True": "--overwrite", "load(path, model=...)": "--model FILE.py:function"}


@dataclass(frozen=True)
class Command:
    """A line in the list of commands, and run(name, remaining arguments)."""

    summary: str
    run: Callable[[str, list[str]], object]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: without the program's name; by default those of the process.

    Returns:
        The exit status: 0, 1 for a failed self-test, 2 for a user error, 130 for Ctrl-C.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    name = words[0] if words else "--help"
    if name in ANSWERS:
        status = guarded("", lambda: print(ANSWERS[name]()))
        return status if words else USER_ERROR
    if name not in COMMANDS:
        message = f"unknown command {name!r}; choose one of: {', '.join(COMMANDS)}"
        return print_error("", message)
    return guarded(name, lambda: COMMANDS[name].run(name, words[1:]))


def guarded(name: str, run: Callable[[], object]) -> int:
    """Call `run`; errors and warnings become one line on stderr. Returns the exit status."""
    try:
        passed = with_short_warnings(run)
    except KeyboardInterrupt:
        print_line(f"interrupted{resume_hint(name)}", name, "\n")
        return INTERRUPTED
    except BrokenPipeError:
        # the reader has closed the pipe; keep Python from flushing into it at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, OSError, TypeError, RuntimeError) as error:
        if os.environ.get(DEBUG):
            raise
        return print_error(name, describe(error))
    else:
        return FAILED if passed is False else 0
    return 0


def with_short_warnings(run: Callable[[], object]) -> object:
    """Call `run` with warnings printed as one line without code, and flush its output."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: print_line(f"warning: {message}")
        try:
            return run()
        finally:
            sys.stdout.flush()


def resume_hint(name: str) -> str:
    """How to resume an interrupted command; "" if it cannot be resumed."""
    if name not in COMMANDS or COMMANDS[name].run is not run_recipe:
        return ""
    return "; run the same command again to resume it"


def print_error(name: str, text: str) -> int:
    """Print an error as one line on stderr; returns the exit status."""
    print_line(f"error: {text}", name)
    return USER_ERROR


def print_line(text: str, name: str = "", before: str = "") -> None:
    """Print one line on stderr, after the name of the command."""
    print(f"{before}sparseq{name and ' '}{name}: {text}", file=sys.stderr)


def describe(error: Exception) -> str:
    """An exception's message on one line; how to get a traceback if it may be an internal error."""
    text = " ".join(str(error).split()) or type(error).__name__
    for call, flag in FLAGS.items():
        text = text.replace(call, flag)
    expected = isinstance(error, ValueError | OSError)
    return text if expected else f"{text} ({DEBUG}=1 shows a traceback)"


def overview() -> str:
    """The list of commands."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            f"sparseq {__version__}: small and fast pruned, sparse and quaternion networks",
            "",
            "usage: sparseq COMMAND [--help] [flags]",
            "",
            *lines,
            "",
            "An interrupted run is resumed by running the same command again.",
        ]
    )


def parse(command: type, name: str, arguments: list[str]) -> Any:
    """An instance of a dataclass, its fields from the flags; exits with 2 on wrong flags."""
    import tyro

    # errors of __post_init__ are raised below, as tyro would print them in a box
    unchecked = {"__post_init__": lambda self: None, "__doc__": command.__doc__}
    twin: Any = type(command.__name__, (command,), unchecked)
    style = (tyro.conf.PositionalRequiredArgs, tyro.conf.DisallowNone)
    flags = tyro.cli(twin, prog=f"sparseq {name}", args=arguments, config=style)
    return command(**{field.name: getattr(flags, field.name) for field in fields(command)})


def run_recipe(name: str, arguments: list[str]) -> None:
    """Run a recipe with a progress bar and print its results."""
    from rich.console import Console

    from sparseq.recipes import RECIPES
    from sparseq.recipes.progress import Bar
    from sparseq.recipes.rounds.run import PruningRounds

    recipe = parse(RECIPES.get(name), name, arguments)
    console = Console()
    console.print(f"run folder: {recipe.folder()}", highlight=False, soft_wrap=True)
    # notes about each layer in each round would hide the table
    level = logging.WARNING if isinstance(recipe, PruningRounds) else logging.INFO
    with notes(console, level), Bar(console) as bar:
        results = recipe.run(bar)
    results.show(console)


def runs(command: type) -> Callable[[str, list[str]], object]:
    """The `run` of a Command for a dataclass of `sparseq.cli.commands`."""

    def run(name: str, arguments: list[str]) -> object:
        from rich.console import Console

        parsed = parse(command, name, arguments)
        with notes(Console()):
            return parsed.run()

    return run


class Notes(logging.Handler):
    """Prints the library's log records, one line each."""

    def __init__(self, console: Console, level: int) -> None:
        super().__init__(level)
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Print the record, above the progress bar if one is shown."""
        self.console.print(record.getMessage(), highlight=False, markup=False, soft_wrap=True)


@contextmanager
def notes(console: Console, level: int = logging.INFO) -> Iterator[None]:
    """Prints the library's log records inside the block."""
    logger, handler = logging.getLogger("sparseq"), Notes(console, level)
    previous_level = logger.level
    logger.addHandler(handler)
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(previous_level)


def run_build(name: str, arguments: list[str]) -> None:
    """Pass the arguments to the kernel builder."""
    from sparseq.ops.build import main as build

    build(arguments)


ANSWERS: dict[str, Callable[[], str]] = {
    **dict.fromkeys(("-h", "--help", "help"), overview),
    "--version": lambda: f"sparseq {__version__}",
}
COMMANDS = {
    "lottery": Command("train, prune, rewind, train again, round by round", run_recipe),
    "iterative": Command("train, prune, continue training, round by round", run_recipe),
    "prune": Command("prune one network once and fine-tune it", run_recipe),
    "train": Command("train one network", run_recipe),
    "compress": Command("convert a saved network with zeros to sparse layers", runs(Compress)),
    "info": Command("show the size of every part of a file", runs(Info)),
    "profile": Command("measure each layer of a network, dense and sparse", runs(Profile)),
    "doctor": Command("show versions, machine and kernels, and run a self-test", runs(Doctor)),
    "build": Command("compile the kernels now instead of on first use", run_build),
}
