"""The README's section on speed: the headline cases of every machine that has rows of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.baselines import BEST, CALLED
from bench.results import Row
from bench.tables.markdown import THREADS, Lookup, credible, markdown, number

SUITES = ("layers", "pipeline", "networks")
CASE = ("suite", "subject", "case", "step", "batch", "density")
HEADINGS = (
    "layer or network",
    "size",
    "step",
    "batch",
    "kept",
    "x as called",
    "x best dense",
    "% of peak",
)
INTRO = """\
Median time of dense fp32 divided by ours, above 1 we are faster, on **one thread / two threads**.
*As called* is `nn.Linear`, `nn.Conv2d` or the whole network in the quicker memory layout; *best
dense* is the quickest dense fp32 form of the machine, oneDNN with prepared weights among them. The
two differ where torch's `F.linear` runs in MKL: on AMD Zen 5 it reaches about 40 % of the FMA peak
there, and oneDNN 95 %. *% of peak* is our useful rate, two operations for each kept weight, example
and output position, as a percentage of the FMA peak measured in the same run. A quaternion product
counts as the 16 real products it stands for; algorithms that need fewer (8, or Winograd's) can pass
100 %. Whole calls are timed, from batch-major tensors to batch-major tensors; `training` is forward
and backward with all gradients, of a convolutional network a whole step of SGD. A dash: not
measured, or not on a quiet machine."""
OUTRO = "Made by `pytest --benchmark` and `python -m bench.report`."


def speed_section(machines: Mapping[str, Sequence[Row]], figures: Mapping[str, Path]) -> str:
    """The section.

    Args:
        machines: name -> all rows kept of it.
        figures: name -> its figure, where there is one, relative to the README.
    """
    parts = [INTRO]
    for name, rows in machines.items():
        parts.append(machine_section(name, rows))
        if name in figures:
            parts.append(f"![useful GFLOP/s against density on {name}]({figures[name].as_posix()})")
    return "\n\n".join([*parts, OUTRO])


def machine_section(name: str, rows: Sequence[Row]) -> str:
    """A machine's table; a line where it has none, since no ratio stands without the other."""
    lines = headline_lines(rows)
    if not lines:
        return (
            f"**{name}**: its rows, in `bench/results/{name}/`, are older than the best dense "
            "baseline, so no ratio is stated here."
        )
    parts = [caption(name, rows), markdown(HEADINGS, lines)]
    memory = memory_table(rows)
    return "\n\n".join([*parts, memory] if memory else parts)


def caption(name: str, rows: Sequence[Row]) -> str:
    """What the rows of a table were measured on: machine, threads, software and commits."""
    shown = headline_rows(rows)
    about = shown[-1]
    peaks = {row["threads"]: row["peak_gflops"] for row in shown if "peak_gflops" in row}
    roof = ", ".join(f"{peaks[count]:.0f} on {count}" for count in THREADS if count in peaks)
    commits = ", ".join(dict.fromkeys(row["commit"] for row in shown))
    return (
        f"**{name}** ({about['cpu']}, {about['cores']} cores, {about['isa']}): torch "
        f"{about['torch']}, commit {commits}; FMA peak in GFLOP/s by threads: {roof or 'unknown'}."
    )


def headline_rows(rows: Sequence[Row]) -> list[Row]:
    """Undisturbed rows of the headline set's layers and networks, with both baselines."""
    kept = [
        row
        for row in rows
        if row["suite"] in SUITES and row.get("headline") and "baseline" in row and credible(row)
    ]
    both = {(*case_of(row), row["threads"]) for row in kept if row["baseline"] == BEST} & {
        (*case_of(row), row["threads"]) for row in kept if row["baseline"] in CALLED
    }
    return [row for row in kept if (*case_of(row), row["threads"]) in both]


def case_of(row: Row) -> tuple[object, ...]:
    """What a line of the table is of."""
    return tuple(row.get(name) for name in CASE)


def headline_lines(rows: Sequence[Row]) -> list[list[str]]:
    """A line per case, suites in their order."""
    kept = headline_rows(rows)
    found = Lookup(kept)
    cases = sorted(dict.fromkeys(map(case_of, kept)), key=lambda case: SUITES.index(str(case[0])))
    return [_line(found, dict(zip(CASE, case, strict=True))) for case in cases]


def _line(found: Lookup, case: Row) -> list[str]:
    called = {row["baseline"] for row in found.find(**case)} & set(CALLED)
    density = case["density"]
    return [
        str(case["subject"]),
        str(case["case"] or ""),
        str(case["step"]),
        str(case["batch"]),
        "" if density is None else f"{100 * density:.3g} %",
        *(found.cell({**case, "baseline": name}) for name in sorted(called)),
        found.cell({**case, "baseline": BEST}),
        found.cell({**case, "baseline": BEST}, "percent_of_peak"),
    ]


def memory_table(rows: Sequence[Row]) -> str:
    """Peak memory of a training step on a graph, and with a mask on the dense network."""
    lines = [
        [row["subject"], str(row["ours_mb"]), str(row["masked_mb"]), number(row["ratio"])]
        for row in Lookup(rows).find(suite="networks_memory")
    ]
    headings = ("peak memory of training, batch 32", "sparse (MB)", "dense with a mask (MB)", "x")
    return markdown(headings, lines) if lines else ""
