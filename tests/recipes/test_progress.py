"""Progress: a bar on a terminal, a line per 10 % elsewhere."""

from __future__ import annotations

import io

from rich.console import Console

from sparseq.recipes.progress import Bar


def shown(terminal, steps):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100)
    with Bar(console) as bar:
        bar.begin(20, 4)
        for _ in range(steps):
            bar.advance(1, "real 1/1, round 0")
        bar.note("measuring")
    return console.file.getvalue()


def test_a_terminal_shows_a_bar_and_the_remaining_time():
    text = shown(True, 16)
    assert "measuring" in text
    assert "100%" in text
    assert "0:00:00" in text


def test_elsewhere_each_ten_percent_is_a_line():
    lines = shown(False, 16).splitlines()
    assert lines[0] == "30 % done: real 1/1, round 0"
    assert lines[-1] == "100 % done: real 1/1, round 0"
    assert len(lines) == 8


def test_an_empty_run_is_not_an_error():
    console = Console(file=io.StringIO(), force_terminal=False)
    with Bar(console) as bar:
        bar.begin(0)
        bar.advance(0, "nothing")
    assert console.file.getvalue() == ""
