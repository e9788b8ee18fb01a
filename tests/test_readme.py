"""The README's example runs as it is printed, and its commands and variables are real."""

from __future__ import annotations

import re

import pytest

from tests.source_tree import ROOT, python_files

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.S)


@pytest.mark.parametrize("source", blocks("python"))
def test_examples_run(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(source, "README.md", "exec"), {})


def test_the_two_commands_are_there():
    commands = re.findall(r"^    (pip install .*)$", README, flags=re.M)
    assert "pip install -e . && sparseq lottery" in commands
    assert "pip install -e '.[test]' && pytest" in commands


def test_environment_variables_are_those_of_the_code():
    listed = set(re.findall(r"^\| `(SPARSEQ_\w+)`", README, flags=re.M))
    texts = [path.read_text() for path in (*python_files("sparseq"), ROOT / "setup.py")]
    used = {name for text in texts for name in re.findall(r"\bSPARSEQ_[A-Z_]+\b", text)}
    assert listed == used


def test_links_lead_somewhere():
    targets = re.findall(r"\]\(([^)#:]+)\)", README)
    assert not [target for target in targets if not (ROOT / target).exists()]
