"""Fixtures of the benchmark suites, and the table of ratios at the end of the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from rich import box
from rich.console import Console
from rich.table import Table

from bench.results import Row, case_of, machine, save_rows
from bench.timing import Others, Race, threads, wait_for_quiet
from sparseq.ops._backend import activate

ROWS: pytest.StashKey[list[Row]] = pytest.StashKey()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("benchmark"):
        here = Path(__file__).parent
        skip = pytest.mark.skip(reason="benchmarks run under `pytest --benchmark`")
        for item in items:
            if here in item.path.parents:
                item.add_marker(skip)


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Add a row of results: `record(suite=..., subject=..., ...)`."""

    def add(**row: Any) -> None:
        request.config.stash.setdefault(ROWS, []).append({**row, **machine()})

    return add


@pytest.fixture
def race(
    request: pytest.FixtureRequest, thread_count: int, record: Callable[..., None]
) -> Callable[..., dict[str, float]]:
    """Time calls by turns and record one row per baseline: `race(sides, op=..., **case)`.

    The first of `sides` is ours. pytest-benchmark runs the rounds (its --benchmark-max-time and
    --benchmark-min-rounds hold); before each of our turns the other sides take theirs.
    """

    def run(sides: Mapping[str, Callable[[], object]], op: str, **case: Any) -> dict[str, float]:
        wait_for_quiet(request.config.getoption("patience"))
        contest = Race(sides)
        option = request.config.getoption
        rounds = contest.rounds(
            float(option("benchmark_max_time")), int(option("benchmark_min_rounds"))
        )
        benchmark, others = request.getfixturevalue("benchmark"), Others()
        benchmark.pedantic(contest.turn, args=(contest.ours,), setup=contest.others, rounds=rounds)
        benchmark.extra_info.update(case, ratios=contest.ratios())
        measured = {
            "threads": thread_count,
            "kernel": activate("cpu")[op],
            "rounds": rounds,
            "others": round(others.cores(), 3),
        }
        for row in race_rows(contest):
            record(**case, **measured, **row)
        return contest.ratios()

    return run


def race_rows(contest: Race) -> Iterator[Row]:
    """Baseline, the two median times in microseconds and their ratio."""
    ours = contest.median(contest.ours)
    for name, ratio in contest.ratios().items():
        times = {"ours_us": 1e6 * ours, "baseline_us": 1e6 * contest.median(name)}
        yield {
            "baseline": name,
            **{k: round(v, 2) for k, v in times.items()},
            "ratio": round(ratio, 3),
        }


@pytest.fixture(params=[1, 2], ids="threads-{}".format)
def thread_count(request: pytest.FixtureRequest) -> Iterator[int]:
    """1 and 2 threads, the latter only where two cores are."""
    available = max(torch.get_num_threads(), 1)
    if request.param > available:
        pytest.skip(f"this run has {available} thread")
    with threads(request.param):
        yield request.param


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    rows = config.stash.get(ROWS, [])
    if not rows:
        return
    output = terminalreporter._tw
    console = Console(file=output._file, width=max(output.fullwidth, 120))
    terminalreporter.section("results")
    about = machine()
    console.print(
        f"{about['cpu']}, {about['cores']} cores, {about['isa']}, torch {about['torch']}, "
        f"commit {about['commit']}\nx: median time of the baseline / ours, sides taking turns; "
        "above 1 we are faster",
        highlight=False,
    )
    tables: dict[str, list[Row]] = {}
    for row in rows:
        tables.setdefault(f"{row['suite']}: {row['subject']}", []).append(row)
    for title, lines in tables.items():
        console.print(results_table(title, lines))
    for path in save_rows(rows, config.rootpath / config.getoption("results")):
        terminalreporter.write_line(f"kept in {path}")


def results_table(title: str, rows: list[Row]) -> Table:
    """A line per case, a column of ratios per baseline."""
    lines = side_by_side(rows)
    hidden = {*machine(), "suite", "subject", "rounds", "others"}
    columns = dict.fromkeys(name for line in lines for name in line if name not in hidden)
    table = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for name in columns:
        table.add_column(name.replace("_", " "), justify="right", no_wrap=True)
    for line in lines:
        table.add_row(*(str(line.get(name, "")) for name in columns))
    return table


def side_by_side(rows: list[Row]) -> list[Row]:
    """Rows that differ by their baseline only, joined; rows without one as they are."""
    lines: dict[tuple[str, ...], Row] = {}
    for row in rows:
        line = lines.setdefault(case_of({**row, "baseline": ""}), {})
        line.update({k: v for k, v in row.items() if k not in ("baseline", "baseline_us", "ratio")})
        if "baseline" in row:
            line[f"x {row['baseline']}"] = f"{row['ratio']:.2f}"
    return list(lines.values())
