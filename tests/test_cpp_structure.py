"""What CONTRIBUTING.md promises about the shape of the C++ sources. A case that must differ is
named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cpp_tree import (
    CppFunction,
    cpp_files,
    cpp_functions,
    namespaces_of,
    without_comments,
    words_of,
)
from tests.source_tree import ROOT, name_of

CPU = ROOT / "csrc" / "cpu"
LONG_FUNCTIONS: dict[str, str] = {}
DEEP_FUNCTIONS: dict[str, str] = {}
MANY_PARAMETERS: dict[str, str] = {}
MOST_FILES = 15
# words that say nothing, or another thing than the field means by them
FORBIDDEN_WORDS = {
    "back", "bordered", "form", "found", "given", "own", "program", "programs", "target",
    "targets", "there", "turns",
}  # fmt: skip
# names of the standard library
STANDARD_NAMES = r"\b(push_|emplace_)?back\b"


def functions() -> list[tuple[str, CppFunction]]:
    """Every C++ function as file:name, with its definition."""
    return [
        (f"{name_of(path)}:{function.name}", function)
        for path in cpp_files()
        for function in cpp_functions(path.read_text())
    ]


def folders_of_cpu() -> list[Path]:
    return sorted(path for path in CPU.iterdir() if path.is_dir())


def test_cpp_files_are_short():
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in cpp_files()}
    assert not {name: lines for name, lines in lengths.items() if lines >= 400}


def test_cpp_functions_are_short():
    over = {name: function.lines() for name, function in functions() if function.lines() >= 60}
    assert set(over) == set(LONG_FUNCTIONS), over


def test_cpp_blocks_are_not_nested_deeply():
    over = {name: function.depth() for name, function in functions() if function.depth() > 3}
    assert set(over) == set(DEEP_FUNCTIONS), over


def test_cpp_functions_take_few_parameters():
    most = {name: function.most_parameters() for name, function in functions()}
    over = {name: count for name, count in most.items() if count > 8}
    assert set(over) == set(MANY_PARAMETERS), over


def test_only_the_vector_headers_use_intrinsics():
    using = [
        name_of(path)
        for path in cpp_files()
        if path.parent.name != "simd" and re.search(r"\b_mm\d*_|\b__m\d+", path.read_text())
    ]
    assert not using


@pytest.mark.parametrize("folder", folders_of_cpu(), ids=lambda folder: folder.name)
def test_a_folder_of_kernels_has_a_namespace_to_itself(folder):
    opened = {name_of(path): namespaces_of(path.read_text()) for path in folder.glob("*.h")}
    assert opened
    only = {f"sparseq::{folder.name}"}
    assert not {name: names for name, names in opened.items() if names != only}


def test_operators_stand_beside_the_folders():
    opened = {name_of(path): namespaces_of(path.read_text()) for path in CPU.glob("*.*")}
    assert all(name.endswith(".cpp") for name in opened), sorted(opened)
    assert not {name: got for name, got in opened.items() if got != {"sparseq::ops", ""}}


def test_an_operator_begins_with_its_contract_and_ends_by_registering_itself():
    texts = {path.stem: path.read_text() for path in CPU.glob("*.cpp")}
    assert not [stem for stem, text in texts.items() if not text.startswith(f"// {stem}: ")]
    ending = r"STABLE_TORCH_LIBRARY_IMPL\(sparseq, CPU, m\) \{[^{}]*\}\s*\}\s*$"
    codes = {stem: without_comments(text) for stem, text in texts.items()}
    assert not [stem for stem, code in codes.items() if not re.search(ending, code)]


def test_no_folder_is_crowded():
    csrc = ROOT / "csrc"
    for folder in (csrc, *(path for path in csrc.rglob("*") if path.is_dir())):
        files = [path for path in folder.glob("*.*") if path.suffix not in {".cpp", ".cu"}]
        assert len(files) <= MOST_FILES, f"{name_of(folder)} has {len(files)} files"


def test_names_are_the_words_of_the_field():
    wrong = {}
    for path in cpp_files():
        text = re.sub(STANDARD_NAMES, "", without_comments(path.read_text()))
        words = (words_of(text) | words_of(path.stem)) & FORBIDDEN_WORDS
        if words:
            wrong[name_of(path)] = sorted(words)
    assert not wrong


CODE = """
// comment(with parens) {
namespace a { struct B { B(int x, int y) : x_(x), y_{y} {} int x_, y_; };
template <typename T, int N> __attribute__((always_inline))
void f(T (&a)[N], std::array<int, 2> b) {
  for (int i = 0; i < N; ++i) for (int j = 0; j < N; ++j) {
    if (a[i] > 0) { a[i] = 0; } else if (a[j]) { while (true) break; }
  }
  const auto g = [&](int64_t p, Vec<T>(&to)[2][3]) __attribute__((always_inline)) {
    if (p) { for (;;) {} }
  };
  do { h({1, 2}, [=] { if (b) {} }); } while (false);
}
}
"""


def test_the_reader_of_functions_counts_as_it_says():
    by_name = {function.name: function for function in cpp_functions(CODE)}
    assert set(by_name) == {"B", "f"}
    assert by_name["B"].parameters() == 2
    assert by_name["f"].parameters() == 2
    assert by_name["f"].most_parameters() == 2
    assert by_name["f"].depth() == 4
    assert by_name["f"].lines() == 9
    assert words_of("int kTapRows = tap_rows2 + isHTTP; // found") == {
        "int", "k", "tap", "rows", "is", "http",
    }  # fmt: skip
