"""The project's C++ sources as the structure tests see them: functions, blocks, identifiers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.source_tree import ROOT

CPP_SUFFIXES = {".h", ".cpp", ".cu", ".cuh"}
TOKEN = re.compile(r"[A-Za-z_]\w*|::|->|[{}()\[\]<>;,:&|=]|\S")
CONTROL = {"if", "for", "while", "switch", "do", "else", "try", "catch"}
PAIRS = {"(": ")", "[": "]", "{": "}"}
NO_FUNCTION = {"__attribute__", "alignas", "decltype", "noexcept", "requires", "__asm__"}
SCOPE = re.compile(r"\b(namespace|class|struct|enum|union)\b[^()]*$")


def cpp_files() -> list[Path]:
    """Every C++ and CUDA source and header."""
    return sorted(path for path in (ROOT / "csrc").rglob("*") if path.suffix in CPP_SUFFIXES)


@dataclass(frozen=True)
class CppFunction:
    """A function definition: its name, the text of its parameters, and its body with braces."""

    name: str
    parameter_list: str
    body: str

    def lines(self) -> int:
        """Lines of the body, the ones with its braces included."""
        return self.body.count("\n") + 1

    def parameters(self) -> int:
        """Number of parameters."""
        return count_parameters(self.parameter_list)

    def most_parameters(self) -> int:
        """The most that it or a lambda in it takes."""
        lambdas = re.findall(r"\]\s*\(((?:[^()]|\([^()]*\))*)\)[^;{}()]*\{", self.body)
        return max(map(count_parameters, [self.parameter_list, *lambdas]))

    def depth(self) -> int:
        """How deep control blocks lie in one another; a lambda starts anew."""
        return _Blocks(TOKEN.findall(self.body)).depth()


def count_parameters(text: str) -> int:
    """Parameters in the text between a list's parentheses."""
    depth, count = 0, 0
    for token in TOKEN.findall(text):
        depth += (token in "([{<") - (token in ")]}>")
        count += token == "," and depth == 0
    return count + 1 if text.strip() else 0


class _Blocks:
    """Control blocks of a function's tokens, braces or none around them."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.deepest = 0

    def depth(self) -> int:
        position = 0
        while position < len(self.tokens):
            position = self._statement(position, 0)
        return self.deepest

    def _statement(self, position: int, depth: int) -> int:
        """Where the statement at `position` ends; notes how deep the blocks in it lie."""
        token = self.tokens[position]
        if token == "{":
            return self._block(position, depth)
        if token in CONTROL:
            return self._control(position, depth)
        while position < len(self.tokens) and self.tokens[position] not in (";", "}"):
            if self.tokens[position] in PAIRS:
                position = self._expression(position, depth)
            position += 1
        return position + 1

    def _block(self, position: int, depth: int) -> int:
        position += 1
        while position < len(self.tokens) and self.tokens[position] != "}":
            position = self._statement(position, depth)
        return position + 1

    def _control(self, position: int, depth: int) -> int:
        self.deepest = max(self.deepest, depth + 1)
        chained = self.tokens[position : position + 2] == ["else", "if"]
        position += 2 if chained else 1
        if self.tokens[position] == "constexpr":
            position += 1
        if self.tokens[position] == "(":
            position = self._expression(position, depth) + 1
        return self._statement(position, depth + 1)

    def _expression(self, position: int, depth: int) -> int:
        """The closing bracket of the one at `position`; a lambda's body counts from nothing."""
        if self.tokens[position] == "{" and self._opens_lambda(position):
            return self._block(position, 0) - 1
        closing = PAIRS[self.tokens[position]]
        position += 1
        while position < len(self.tokens) and self.tokens[position] != closing:
            if self.tokens[position] in PAIRS:
                position = self._expression(position, depth)
            position += 1
        return position

    def _opens_lambda(self, position: int) -> bool:
        """Whether the brace at `position` follows [captures] or [captures](parameters)."""
        while position > 0 and self.tokens[position - 1] not in (")", "]", ";", "{", "}", ",", "="):
            position -= 1
        while self.tokens[position - 1] == ")":
            position = self._opening(position - 1)
            if self.tokens[position - 1] == "__attribute__":
                position -= 1
        return self.tokens[position - 1] == "]" and self._captures(self._opening(position - 1))

    def _captures(self, opening: int) -> bool:
        """Whether the bracket begins a lambda, rather than index what stands before it."""
        before = self.tokens[opening - 1]
        return before == "return" or not re.fullmatch(r"\w+|[)\]>]", before)

    def _opening(self, position: int) -> int:
        depth = 0
        while True:
            depth += (self.tokens[position] in ")]}") - (self.tokens[position] in "([{")
            if depth == 0:
                return position
            position -= 1


def cpp_functions(text: str) -> Iterator[CppFunction]:
    """Each function definition that a brace counter can tell.

    Namespaces, classes and extern "C" are looked into; a body is a `{` that follows `)`.
    """
    code = without_comments(text)
    position = 0
    while (opening := code.find("{", position)) >= 0:
        head = re.split(r"[;{}]", code[:opening])[-1]
        named = None if SCOPE.search(head) else _name_and_parameters(head)
        if named is None:
            position = opening + 1
            continue
        closing = _closing(code, opening)
        yield CppFunction(*named, code[opening : closing + 1])
        position = closing + 1


def _name_and_parameters(head: str) -> tuple[str, str] | None:
    """Of the text before a body, the name and what stands between its first parentheses."""
    for match in re.finditer(r"(operator\s*\S+?|[~\w:<>]+)\s*\(", head):
        if match[1] not in NO_FUNCTION:
            closing = _closing(head, match.end() - 1)
            return match[1], head[match.end() : closing]
    return None


def _closing(code: str, opening: int) -> int:
    """Where the bracket at `opening` closes."""
    left, right = code[opening], PAIRS[code[opening]]
    depth = 0
    for match in re.compile(f"[{re.escape(left + right)}]").finditer(code, opening):
        depth += 1 if match[0] == left else -1
        if depth == 0:
            return match.start()
    return len(code)


def without_comments(text: str) -> str:
    """Comments, literals and preprocessor lines blanked; line breaks stay."""
    pattern = (
        r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"'
        r"|'(?:\\.|[^'\\\n])*'|^[ \t]*#(?:[^\n]*\\\n)*[^\n]*"
    )
    return re.sub(pattern, lambda match: "\n" * match[0].count("\n"), text, flags=re.S | re.M)


def words_of(text: str) -> set[str]:
    """The words that identifiers are made of: `kTapRows` and `tap_rows` give tap and rows."""
    names = re.findall(r"[A-Za-z_]\w*", without_comments(text))
    return {word.lower() for name in names for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)}


def namespaces_of(text: str) -> set[str]:
    """The namespaces a file opens, as they are written; the unnamed one is ""."""
    return set(re.findall(r"^\s*(?:inline )?namespace\s*([\w:]*)\s*\{", text, flags=re.M))
