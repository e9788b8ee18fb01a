"""Registries of named entries, the one way to extend sparseq: layers, criteria, models, ..."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from sparseq.errors import unknown_name

T = TypeVar("T")


class Registry(Generic[T]):
    """Named entries of one kind; `kind` is the word used in error messages."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that registers a function or class; ValueError if the name is taken."""

        def add(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._entries[name] = entry
            return entry

        return add

    def get(self, name: str) -> T:
        """The entry of that name; ValueError that lists the registered names if there is none."""
        if name not in self._entries:
            raise unknown_name(self.kind, name, self.names())
        return self._entries[name]

    def find(self, name: str) -> T | None:
        """The entry of that name, or None."""
        return self._entries.get(name)

    def entries(self) -> list[T]:
        """All entries, in the order of their registration."""
        return list(self._entries.values())

    def names(self) -> list[str]:
        """All registered names, sorted."""
        return sorted(self._entries)
