"""What CONTRIBUTING.md promises about the shape of the code. A case that must differ is named."""

from __future__ import annotations

import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from statistics import median

import pytest

import sparseq
from tests.cpp_tree import cpp_files
from tests.source_tree import (
    ROOT,
    Function,
    functions_of,
    imported_modules,
    name_of,
    python_files,
)

# an import points to a line above, or stays within its part of the package
LAYERS = [
    ["errors", "seeds", "_late", "_version"],
    ["registry", "timing"],
    ["ops"],
    ["formats", "graphs"],
    ["quant"],
    ["nn"],
    ["files"],
    ["pruning"],
    ["compression"],
    ["models", "data"],
    ["train"],
    ["reports"],
    ["recipes"],
    ["compat"],
    ["cli"],
    ["__init__"],
    ["__main__"],
]
PART = {"triton_kernels": "ops"}  # kernels of the operators, installed as sparseq.triton_kernels
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
LONG_FUNCTIONS: dict[str, str] = {}
DEEP_FUNCTIONS: dict[str, str] = {}
MANY_ARGUMENTS = {
    "sparseq/nn/quaternion/conv.py:_Conv.__init__": "the signature of torch's convolutions",
    "sparseq/nn/quaternion/conv_transpose.py:_Transpose.__init__": "the same",
    "sparseq/nn/sparse/conv.py:_SparseConv.__init__": "the signature of torch's convolutions",
    "sparseq/nn/sparse/quaternion_conv.py:_SparseQConv.__init__": "the same",
    "sparseq/nn/expander/conv.py:ExpanderConvNd.__init__": "the signature of torch's convolutions",
    "sparseq/nn/expander/layer.py:ExpanderLayer.__init__": "the public signature; all but four are "
    "keyword-only",
    "sparseq/pruning/api.py:prune": "the public signature; all but two are keyword-only",
    "sparseq/train/loop.py:fit": "a training loop's settings, keyword-only",
}
# what lies among the operators and serves all of them
SHARED = {
    *("stored_entries", "choice", "backend", "host", "geometry", "differentiation", "dtypes"),
}
# operators that plain torch serves so far
WITHOUT_KERNEL: set[str] = set()
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "misc", "common", "base"}
PRODUCT = ["sparseq", "triton_kernels"]
# folders with a file for each op, graph, model or data set
ONE_FILE_EACH = {"csrc/cpu", "sparseq/ops", "sparseq/graphs", "sparseq/models", "sparseq/data"}


def functions(*folders: str) -> list[Function]:
    return [function for path in python_files(*folders) for function in functions_of(path)]


def part_imported(dotted: str) -> str:
    """The part of sparseq a dotted name belongs to: `ops` of sparseq.ops.spmm.spmm."""
    name = [*dotted.split("."), ""][1]
    return name if name in RANK else PART.get(name, "__init__")


def part_importing(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    return PART.get(parts[0]) or parts[1].removesuffix(".py")


def test_every_part_of_the_package_has_a_place_in_the_layers():
    parts = {part_importing(path) for path in python_files(*PRODUCT)}
    assert parts <= set(RANK), f"add to LAYERS: {sorted(parts - set(RANK))}"


def test_imports_point_down():
    wrong = []
    for path in python_files(*PRODUCT):
        here = part_importing(path)
        for dotted in filter(lambda name: name.startswith("sparseq"), imported_modules(path)):
            there = part_imported(dotted)
            if here != there and RANK[there] >= RANK.get(here, -1):
                wrong.append(f"{name_of(path)} ({here}) imports {dotted} ({there})")
    assert not wrong, "\n".join(wrong)


def module_graph() -> dict[str, set[str]]:
    """Module -> the modules that it imports, under TYPE_CHECKING and inside functions too."""
    files = {dotted_name(path): path for path in python_files(*PRODUCT)}
    graph: dict[str, set[str]] = {}
    for name, path in files.items():
        imported = (module_of(dotted, files) for dotted in imported_modules(path))
        graph[name] = {other for other in imported if other and other != name}
    return graph


def dotted_name(path: Path) -> str:
    """The name under which a file of the product is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    whole = parts if parts[0] == "sparseq" else ("sparseq", *parts)
    return ".".join(whole).removesuffix(".__init__")


def module_of(dotted: str, files: dict[str, Path]) -> str | None:
    """The longest beginning of a dotted name that is a module of the product."""
    while dotted and dotted not in files:
        dotted = dotted.rpartition(".")[0]
    return dotted or None


def test_no_modules_import_each_other_in_a_circle():
    # the package's own front door names what lies behind it, and nothing behind it uses the door
    graph = {name: others - {"sparseq"} for name, others in module_graph().items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))


def test_folders_read_like_a_table_of_contents():
    """No folder holds more files side by side than a reader takes in at a glance."""
    crowded = {}
    for folder in {path.parent for path in (*python_files("sparseq", "bench"), *cpp_files())}:
        files = [path for path in folder.iterdir() if path.is_file() and path.stem != "__init__"]
        if len(files) > 15 and name_of(folder) not in ONE_FILE_EACH:
            crowded[name_of(folder)] = len(files)
    assert not crowded


def test_what_works_on_layers_knows_none_by_name():
    """Rule 1: conversions, files, pruning and reports read the registry of layers."""
    allowed = {"sparseq.nn.sparse.patterned.PatternedLayer"}
    wrong = [
        f"{name_of(path)}: {dotted}"
        for folder in ("files", "pruning", "compression", "reports")
        for path in python_files(f"sparseq/{folder}")
        for dotted in imported_modules(path)
        if re.match(r"sparseq\.nn\.(quaternion|sparse|expander)\.", dotted)
        and dotted not in allowed
    ]
    assert not wrong


def test_whoever_needs_floats_asks_the_store():
    """Rule 2: that kept entries are a float parameter is known to the float store alone."""
    wrong = [
        f"{name_of(path)}:{number}"
        for folder in ("nn", "files", "compression", "reports", "pruning")
        for path in python_files(f"sparseq/{folder}")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(r"\b(self|layer|module)\.values\b(?!\()", line)
    ]
    assert not wrong


def test_no_layer_decides_by_numbers_of_its_own():
    """Rule 6: which kernel serves at which size is read from `sparseq.ops.choice`."""
    wrong = [
        f"{name_of(path)}: {line}"
        for path in python_files("sparseq/nn")
        for line in path.read_text().splitlines()
        if re.match(r"[A-Z_]+ = \d", line)
    ]
    assert not wrong


def test_the_package_imports_neither_tests_nor_benchmarks():
    outside = ("tests", "bench")
    wrong = [
        f"{name_of(path)}: {dotted}"
        for path in python_files(*PRODUCT)
        for dotted in imported_modules(path)
        if dotted.split(".")[0] in outside
    ]
    assert not wrong, wrong


def test_files_are_short():
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in python_files()}
    assert not {name: lines for name, lines in lengths.items() if lines >= 300}


def test_functions_are_short():
    lengths = {function.name: function.code_lines() for function in functions()}
    over = {name for name, lines in lengths.items() if lines > 40}
    assert over == set(LONG_FUNCTIONS), {name: lengths.get(name) for name in over}
    assert median(function.code_lines() for function in functions(*PRODUCT)) < 10


def test_blocks_are_not_nested_deeply():
    over = {function.name for function in functions() if function.depth() > 3}
    assert over == set(DEEP_FUNCTIONS)


def test_functions_take_few_arguments():
    over = {function.name for function in functions(*PRODUCT, "bench") if function.arguments() > 8}
    assert over == set(MANY_ARGUMENTS)


def stems(folder: str, pattern: str) -> set[str]:
    """Names of the files of a folder that match; private and package files left out."""
    found = {path.stem for path in (ROOT / folder).glob(pattern)}
    return {stem for stem in found if not stem.startswith("_") and stem != "conftest"}


def test_an_operator_has_one_name_in_every_tree():
    ops = stems("sparseq/ops", "*.py") - SHARED
    tested = {stem.removeprefix("test_") for stem in stems("tests/ops", "test_*.py")}
    assert stems("csrc/cpu", "*.cpp") | WITHOUT_KERNEL == ops
    assert stems("bench/ops", "*.py") == ops
    assert tested - SHARED == ops
    assert stems("csrc/cuda", "*.cu") <= ops
    assert stems("triton_kernels", "*.py") <= ops


def test_declared_operators_stand_in_the_file_of_their_name():
    from sparseq.ops._backend import OPERATORS

    ops = stems("sparseq/ops", "*.py")
    strays = {name for name in OPERATORS if name not in ops and name.rsplit("_", 1)[0] not in ops}
    assert not strays


def test_no_public_name_hides_a_module():
    folder = ROOT / "sparseq"
    modules = {path.stem for path in folder.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert not modules & set(sparseq.__all__)


def test_no_file_is_a_drawer():
    names = {
        name_of(path) for path in (*python_files(), *cpp_files()) if path.stem in FORBIDDEN_NAMES
    }
    assert not names


def readme_tree() -> list[str]:
    """Paths of the README's layout, a path per line, folders with a slash at the end."""
    text = (ROOT / "README.md").read_text()
    tree = text.split("<!-- layout -->")[1].split("```")[1]
    lines = [line.split() for line in tree.splitlines()[1:] if line.strip()]
    return [line[0] for line in lines]


def test_the_readme_shows_the_tree():
    paths = readme_tree()
    assert not [path for path in paths if not (ROOT / path).exists()]
    parts = {
        path.name
        for path in (ROOT / "sparseq").iterdir()
        if not path.name.startswith("_") and path.suffix in ("", ".py")
    }
    shown = {Path(path).name for path in paths if Path(path).parent.name == "sparseq"}
    assert parts - shown == set(), "parts of sparseq/ that README's layout leaves out"


def test_every_python_file_says_what_it_is():
    silent = [
        name_of(path)
        for path in python_files(*PRODUCT, "bench")
        if path.stem != "_version" and not path.read_text().startswith(('"""', 'r"""'))
    ]
    assert not silent
