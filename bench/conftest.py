"""Fixtures of the benchmark suites, the choice of cases, and a table as each suite ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.baselines import BEST, CALLED
from bench.cases import fits
from bench.machine import machine
from bench.peak import peak_gflops
from bench.results import Row, save_rows
from bench.tables.console import print_tables
from bench.timing import Others, Race, threads, wait_for_quiet
from sparseq.ops._backend import activate

HERE = Path(__file__).parent
HEADLINE = pytest.StashKey[bool]()
ROWS = pytest.StashKey[list[Row]]()  # of the suite that runs
REMARKS = pytest.StashKey[dict[str, None]]()
# per case, where pytest-benchmark's own options do not say otherwise
BUDGET = {"benchmark_max_time": 0.3, "benchmark_min_rounds": 3}


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS], config.stash[REMARKS] = [], {}
    if config.getoption("benchmark"):
        config.pluginmanager.register(Suites(config))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    ours = [item for item in items if HERE in item.path.parents]
    if not config.getoption("benchmark"):
        skip = pytest.mark.skip(reason="benchmarks run under `pytest --benchmark`")
        for item in ours:
            item.add_marker(skip)
        return
    for item in ours:
        item.stash[HEADLINE] = is_headline(item)
    if not config.getoption("benchmark_full"):
        left_out = [item for item in ours if not item.stash[HEADLINE]]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]


def is_headline(item: pytest.Item) -> bool:
    """Whether one of its test's `headline` marks describes the case."""
    spec = getattr(item, "callspec", None)
    parameters = {} if spec is None else spec.params
    return any(fits(mark.kwargs, parameters) for mark in item.iter_markers("headline"))


class Suites:
    """Keeps and prints the rows of a suite, which is a file of cases, as it ends."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.left: Counter[str] = Counter()
        self.kept: dict[Path, None] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.left = Counter(suite_of(item.nodeid) for item in session.items)

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self.left[suite_of(nodeid)] -= 1
        if self.left[suite_of(nodeid)] == 0:
            self.end_suite()

    def end_suite(self) -> None:
        """Print and keep the rows since the last suite."""
        rows = self.config.stash[ROWS]
        if not rows:
            return
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        reporter._tw.line()
        print_tables(rows, reporter._tw._file, reporter._tw.fullwidth)
        self.kept.update(dict.fromkeys(save_rows(rows, results_folder(self.config))))
        rows.clear()

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        self.end_suite()  # what an interrupted suite has measured
        if not self.kept:
            return
        about = machine(results_folder(self.config))
        peaks = ", ".join(f"{peak_gflops(count)} on {count} thread(s)" for count in (1, 2))
        terminalreporter.section("machine")
        lines = [
            f"{about['machine']}: {about['cpu']}, {about['cores']} cores, {about['isa']}, "
            f"torch {about['torch']}, commit {about['commit']}",
            f"fp32 FMA peak in GFLOP/s: {peaks}",
            *self.config.stash[REMARKS],
            f"{len(self.kept)} suites kept in {next(iter(self.kept)).parent}",
        ]
        for line in lines:
            terminalreporter.write_line(line)


def suite_of(nodeid: str) -> str:
    """The file of a case."""
    return nodeid.partition("::")[0]


def results_folder(config: pytest.Config) -> Path:
    """Where rows are kept."""
    return config.rootpath / config.getoption("results")


@pytest.fixture
def extras(request: pytest.FixtureRequest) -> bool:
    """Whether baselines beside the dense ones are timed too: with --benchmark-full."""
    return request.config.getoption("benchmark_full")


@pytest.fixture
def remark(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Say something once at the end of the run."""
    return lambda text: request.config.stash[REMARKS].update({text: None})


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Add a row of results: `record(suite=..., subject=..., ...)`."""

    def add(**row: Any) -> None:
        row["headline"] = request.node.stash[HEADLINE]
        about = machine(results_folder(request.config))
        request.config.stash[ROWS].append({**row, **about})

    return add


@pytest.fixture
def race(
    request: pytest.FixtureRequest, thread_count: int, record: Callable[..., None]
) -> Callable[..., dict[str, float]]:
    """Time calls by turns, a row per baseline: `race(sides, op=..., useful=..., **case)`.

    The first of `sides` is ours; `useful` is the number of multiplications and additions that the
    call needs, where it is bound by them. pytest-benchmark runs the rounds; before each of our
    turns the other sides take theirs.
    """

    def run(
        sides: Mapping[str, Callable[[], object]], op: str, useful: int | None = None, **case: Any
    ) -> dict[str, float]:
        wait_for_quiet(request.config.getoption("patience"))
        contest = Race(sides)
        seconds, least = (budget(request.config, name) for name in BUDGET)
        rounds = contest.rounds(seconds, int(least))
        benchmark, others = request.getfixturevalue("benchmark"), Others()
        benchmark.pedantic(contest.turn, args=(contest.ours,), setup=contest.others, rounds=rounds)
        benchmark.extra_info.update(case, ratios=contest.ratios())
        measured = {
            "threads": thread_count,
            "kernel": activate("cpu")[op],
            "rounds": rounds,
            "others": round(others.cores(), 3),
            **rates(useful, contest.median(contest.ours), peak_gflops(thread_count)),
        }
        for row in race_rows(contest, sides):
            record(**case, **measured, **row)
        return contest.ratios()

    return run


def budget(config: pytest.Config, name: str) -> float:
    """Our default, or what the command line says by pytest-benchmark's option."""
    flag, value = "--" + name.replace("_", "-"), float(config.getoption(name))
    theirs = {"benchmark_max_time": 1.0, "benchmark_min_rounds": 5}[name]
    given = any(word.startswith(flag) for word in config.invocation_params.args)
    return value if given or value != theirs else BUDGET[name]


def rates(useful: int | None, seconds: float, peak: float | None) -> Row:
    """Useful GFLOP/s, the peak of as many threads, and the one as a percentage of the other."""
    if useful is None:
        return {}
    rate = useful / seconds / 1e9
    if peak is None:
        return {"gflops": round(rate, 2)}
    return {
        "gflops": round(rate, 2),
        "peak_gflops": peak,
        "percent_of_peak": round(100 * rate / peak, 1),
    }


def race_rows(contest: Race, sides: Mapping[str, Any]) -> Iterator[Row]:
    """Baseline and its form, the two median times in microseconds and their ratio.

    The best dense form is the call that users make after all, where that won the race.
    """
    ours = contest.median(contest.ours)
    for name in contest.ratios():
        rivals = [name, *(called for called in CALLED if name == BEST and called in sides)]
        winner = min(rivals, key=contest.median)
        form = getattr(sides[winner], "name", None)
        yield {
            "baseline": name,
            **({} if form is None else {"form": form}),
            "ours_us": round(1e6 * ours, 2),
            "baseline_us": round(1e6 * contest.median(winner), 2),
            "ratio": round(contest.median(winner) / ours, 3),
        }


@pytest.fixture(params=[1, 2], ids="threads-{}".format)
def thread_count(request: pytest.FixtureRequest) -> Iterator[int]:
    """1 and 2 threads, the latter only where two cores are."""
    available = max(torch.get_num_threads(), 1)
    if request.param > available:
        pytest.skip(f"this run has {available} thread")
    with threads(request.param):
        yield request.param


@pytest.fixture(scope="session", autouse=True)
def peak(request: pytest.FixtureRequest) -> None:
    """Measure the peak before the first case, and keep it."""
    about = machine(results_folder(request.config))
    rows = [
        {
            "suite": "peak",
            "subject": "fp32 FMA",
            "threads": count,
            "gflops": peak_gflops(count),
            **about,
        }
        for count in (1, 2)
        if count <= torch.get_num_threads() and peak_gflops(count) is not None
    ]
    save_rows(rows, results_folder(request.config))
