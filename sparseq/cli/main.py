"""The command line: `sparseq COMMAND`, one line and exit status 2 for every mistake of the user.

A command is a dataclass whose fields are the flags: a recipe of `sparseq.recipes`, or one of
`sparseq.cli.commands`. torch is imported by what runs, so that the list of commands comes at once.
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
# how what the library's errors advise is spelled here
FLAGS = {"overwrite=True": "--overwrite", "load(path, model=...)": "--model FILE.py:function"}


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
    if name in ANSWERS:
        status = guarded("", lambda: print(ANSWERS[name]()))
        return status if given else USER_ERROR
    if name not in COMMANDS:
        return complain("", f"unknown command {name!r}; choose one of: {', '.join(COMMANDS)}")
    return guarded(name, lambda: COMMANDS[name].run(name, given[1:]))


def guarded(name: str, run: Callable[[], object]) -> int:
    """Run something; mistakes and warnings become one line on stderr."""
    try:
        passed = unadorned(run)
    except KeyboardInterrupt:
        say(f"interrupted{going_on(name)}", name, "\n")
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


def unadorned(run: Callable[[], object]) -> object:
    """Run something; its warnings are lines without the code that gave them, its output is out."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: say(f"warning: {message}")
        try:
            return run()
        finally:
            sys.stdout.flush()


def going_on(name: str) -> str:
    """What to say of an interrupted command that can be gone on with."""
    if name not in COMMANDS or COMMANDS[name].run is not run_recipe:
        return ""
    return "; started again, the same command goes on from what it has finished"


def complain(name: str, text: str) -> int:
    """A mistake as one line on stderr; returns the exit status."""
    say(f"error: {text}", name)
    return USER_ERROR


def say(text: str, name: str = "", before: str = "") -> None:
    """One line on stderr, under the command's name."""
    print(f"{before}sparseq{name and ' '}{name}: {text}", file=sys.stderr)


def describe(error: Exception) -> str:
    """An exception's message on one line; for those that may be no user's mistake, the remedy."""
    text = " ".join(str(error).split()) or type(error).__name__
    for call, flag in FLAGS.items():
        text = text.replace(call, flag)
    expected = isinstance(error, ValueError | OSError)
    return text if expected else f"{text} ({DEBUG}=1 shows where)"


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
            "A run that was stopped goes on when the same command is started again.",
        ]
    )


def parse(command: type, name: str, arguments: list[str]) -> Any:
    """An instance of a dataclass, its fields from the flags; exits with 2 on wrong flags."""
    import tyro

    # tyro would draw a box around what the dataclass says to its values
    unchecked = {"__post_init__": lambda self: None, "__doc__": command.__doc__}
    twin: Any = type(command.__name__, (command,), unchecked)
    style = (tyro.conf.PositionalRequiredArgs, tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone)
    flags = tyro.cli(twin, prog=f"sparseq {name}", args=arguments, config=style)
    return command(**{field.name: getattr(flags, field.name) for field in fields(command)})


def run_recipe(name: str, arguments: list[str]) -> None:
    """Run a recipe under a progress bar and show what it found."""
    from rich.console import Console

    from sparseq.recipes import RECIPES
    from sparseq.recipes.progress import Bar
    from sparseq.recipes.rounds.run import PruningRounds

    recipe = parse(RECIPES.get(name), name, arguments)
    console = Console()
    console.print(f"run folder: {recipe.folder()}", highlight=False, soft_wrap=True)
    # what is said of each layer in each round would bury the table
    level = logging.WARNING if isinstance(recipe, PruningRounds) else logging.INFO
    with notes(console, level), Bar(console) as bar:
        results = recipe.run(bar)
    results.show(console)


def runs(command: type) -> Callable[[str, list[str]], object]:
    """What runs a dataclass of `sparseq.cli.commands`."""

    def run(name: str, arguments: list[str]) -> object:
        from rich.console import Console

        ready = parse(command, name, arguments)
        with notes(Console()):
            return ready.run()

    return run


class Notes(logging.Handler):
    """Prints what the library logs, a line each."""

    def __init__(self, console: Console, level: int) -> None:
        super().__init__(level)
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Print, above a progress bar if there is one."""
        self.console.print(record.getMessage(), highlight=False, markup=False, soft_wrap=True)


@contextmanager
def notes(console: Console, level: int = logging.INFO) -> Iterator[None]:
    """Inside, what the library logs is printed."""
    logger, handler = logging.getLogger("sparseq"), Notes(console, level)
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


def run_build(name: str, arguments: list[str]) -> None:
    """Hand the arguments to the kernels' builder."""
    from sparseq.ops.build import main as build

    build(arguments)


ANSWERS: dict[str, Callable[[], str]] = {
    **dict.fromkeys(("-h", "--help", "help"), overview),
    "--version": lambda: f"sparseq {__version__}",
}
COMMANDS = {
    "lottery": Command("train, prune, rewind, train again, round by round", run_recipe),
    "iterative": Command("train, prune, keep training, round by round", run_recipe),
    "prune": Command("prune one network once, and fine-tune it", run_recipe),
    "train": Command("train one network", run_recipe),
    "compress": Command("turn a network's zeros into sparse layers: file to file", runs(Compress)),
    "info": Command("show where every byte of a file goes", runs(Info)),
    "profile": Command("measure a network layer by layer, dense against sparse", runs(Profile)),
    "doctor": Command(
        "what this machine has, which kernel serves which op, self test", runs(Doctor)
    ),
    "build": Command("compile the kernels now instead of at first use", run_build),
}
