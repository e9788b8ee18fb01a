"""Errors about arguments, in one format: "op: argument rule, got value"; and warnings."""

from __future__ import annotations

import sys
import warnings


def argument_error(op: str, argument: str, rule: str, got: object) -> ValueError:
    """A ValueError that names the operation, the argument, the rule and the value it got."""
    return ValueError(f"{op}: {argument} {rule}, got {got}")


def require(condition: bool, op: str, argument: str, rule: str, got: object) -> None:
    """Raise `argument_error` unless the condition is true."""
    if not condition:
        raise argument_error(op, argument, rule, got)


def check_fraction(op: str, argument: str, value: float) -> None:
    """ValueError unless a fraction, such as a density, is in (0, 1]."""
    require(0 < value <= 1, op, argument, "must lie in (0, 1]", value)


def unknown_name(kind: str, name: object, choices: list[str]) -> ValueError:
    """A ValueError for a name that is not registered; it lists the names that are."""
    return ValueError(f"unknown {kind} {name!r}; choose one of: {', '.join(choices)}")


def warn(op: str, text: str) -> None:
    """A UserWarning "op: text" that points to the line outside sparseq from which it was called."""
    level, frame = 1, sys._getframe()
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] == "sparseq":
        level, frame = level + 1, frame.f_back
    warnings.warn(f"{op}: {text}", UserWarning, stacklevel=level)
