"""One form for every complaint about an argument."""

from __future__ import annotations


def argument_error(op: str, argument: str, rule: str, got: object) -> ValueError:
    """A ValueError that names the operation, the argument, the rule and what came."""
    return ValueError(f"{op}: {argument} {rule}, got {got}")


def require(condition: bool, op: str, argument: str, rule: str, got: object) -> None:
    """Raise `argument_error` unless the condition holds."""
    if not condition:
        raise argument_error(op, argument, rule, got)


def check_fraction(op: str, argument: str, value: float) -> None:
    """ValueError unless a fraction, such as a density, lies in (0, 1]."""
    require(0 < value <= 1, op, argument, "must lie in (0, 1]", value)


def unknown_name(kind: str, name: object, known: list[str]) -> ValueError:
    """A ValueError for a name that is in no registry; lists the ones that are."""
    return ValueError(f"unknown {kind} {name!r}; choose one of: {', '.join(known)}")
