"""The project's source files as the structure tests see them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHON_FOLDERS = ["sparseq", "triton_kernels", "bench", "tests"]
BLOCKS = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.Match, ast.AsyncFor, ast.AsyncWith)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def python_files(*folders: str) -> list[Path]:
    """The Python files below the folders (all source folders by default), and the root's own."""
    found = [path for name in folders or PYTHON_FOLDERS for path in (ROOT / name).rglob("*.py")]
    return sorted([*found, *(() if folders else ROOT.glob("*.py"))])


def name_of(path: Path) -> str:
    """The path from the root of the repository, as it is written in lists of exceptions."""
    return path.relative_to(ROOT).as_posix()


@dataclass(frozen=True)
class Function:
    """A Python function or method; `name` is file:Class.method."""

    name: str
    node: ast.FunctionDef | ast.AsyncFunctionDef
    lines: list[str]

    def code_lines(self) -> int:
        """Lines of its body with code: no blank line, comment or docstring (inner ones too)."""
        skipped: set[int] = set()
        for node in ast.walk(self.node):
            if isinstance(node, FUNCTIONS) and ast.get_docstring(node) is not None:
                skipped.update(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
        numbers = range(self.node.body[0].lineno, (self.node.end_lineno or 0) + 1)
        texts = (self.lines[number - 1].strip() for number in numbers if number not in skipped)
        return sum(1 for text in texts if text and not text.startswith("#"))

    def depth(self) -> int:
        """How deep blocks lie in one another; an inner function starts anew."""
        return max((_depth(child) for child in ast.iter_child_nodes(self.node)), default=0)

    def arguments(self) -> int:
        """Number of named arguments, self and cls not counted."""
        spec = self.node.args
        names = [arg.arg for arg in (*spec.posonlyargs, *spec.args, *spec.kwonlyargs)]
        return len(names) - (bool(names) and names[0] in ("self", "cls"))


def _depth(node: ast.AST, in_chain: bool = False) -> int:
    if isinstance(node, (*FUNCTIONS, ast.ClassDef, ast.Lambda)):
        return 0
    chain = node.orelse if isinstance(node, ast.If) and _is_elif(node) else []
    inner = max((_depth(child, child in chain) for child in ast.iter_child_nodes(node)), default=0)
    return inner + (isinstance(node, BLOCKS) and not in_chain)


def _is_elif(node: ast.If) -> bool:
    return len(node.orelse) == 1 and isinstance(node.orelse[0], ast.If)


def functions_of(path: Path) -> Iterator[Function]:
    """All functions of a Python file, methods and inner functions included."""
    text = path.read_text()
    yield from _functions(ast.parse(text), name_of(path) + ":", text.splitlines())


def _functions(node: ast.AST, prefix: str, lines: list[str]) -> Iterator[Function]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, FUNCTIONS):
            yield Function(prefix + child.name, child, lines)
        named = isinstance(child, (*FUNCTIONS, ast.ClassDef))
        yield from _functions(child, f"{prefix}{child.name}." if named else prefix, lines)


def imported_modules(path: Path) -> Iterator[str]:
    """Dotted names of what a file imports, wherever in it; `from a import b` yields a.b."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (str(arg.value) for arg in node.args if isinstance(arg, ast.Constant))
