"""The figures of a check in rows and lines of words, alike in the terminal and in Markdown."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from devices.budget import Checked, Promise, Verdict
from devices.latency import LatencyReport
from devices.percentiles import Percentile, independent_count, smallest_count
from devices.telemetry.conditions import Conditions
from devices.telemetry.words import in_words

PERCENTS = (50, 90, 95, 99)

HEADERS = ("ms", "at most", "budget", "count as")
"""Short, so that a row and its note fit into 80 columns."""

NOTES: dict[Verdict | None, str] = {"pass": "within", "over": "over", "inconclusive": "not shown"}


@dataclass(frozen=True)
class Row:
    """One percentile.

    Attributes:
        name: ``p50``.
        cells: Under `HEADERS`; ``-`` where the images are too few, empty where there is no budget.
        note: What became of its promise, or how many images it needs.
        verdict: Of its promise; None where it has none or was not judged.
    """

    name: str
    cells: tuple[str, ...]
    note: str
    verdict: Verdict | None


def rows(checked: Checked) -> list[Row]:
    """One row for each percentile of a report, in order."""
    promises = {promise.name: promise for promise in checked.verdict.promises}
    return [_row(checked, percent, promises.get(f"p{percent}")) for percent in PERCENTS]


def _row(checked: Checked, percent: int, promise: Promise | None) -> Row:
    report = checked.report
    name = f"p{percent}"
    got: Percentile | None = getattr(report, name)
    budget = "" if promise is None else f"{promise.limit:g}"
    if got is None:
        note = f"needs {smallest_count(percent)} images, has {len(report.samples_ms)}"
        return Row(name, ("-", "-", budget, "-"), note, None)
    count = independent_count(report.samples_ms, percent)
    cells = (f"{got.value_ms:.2f}", f"{got.upper_ms:.2f}", budget, str(count))
    if promise is None:
        return Row(name, cells, "", None)
    note = NOTES[promise.verdict]
    return Row(name, cells, "disturbed" if checked.verdict.disturbed else note, promise.verdict)


def facts(checked: Checked) -> dict[str, str]:
    """Everything beside the percentiles that is known, by name, a short line each."""
    report = checked.report
    watched = report.conditions
    memory = next(p for p in checked.verdict.promises if p.name == "peak memory")
    lines = {
        "cold start": _cold(report.cold_ms),
        "load": f"{report.load_ms:.0f} ms, then {report.first_ms:.1f} ms for the first image",
        "memory": f"{report.peak_rss_mib:.0f} MiB at most, of {memory.limit:g}",
        "energy": _energy(report),
        **in_words(watched),
        "watched": _watched(watched),
        "clumps": clumps(report),
    }
    return {name: line for name, line in lines.items() if line}


def clumps(report: LatencyReport) -> str:
    """Which bounds stand on fewer independent images than they need; empty where none does."""
    short = []
    for percent in PERCENTS:
        count = independent_count(report.samples_ms, percent)
        if getattr(report, f"p{percent}") is not None and count < smallest_count(percent):
            short.append(f"p{percent} needs {smallest_count(percent)} and has {count}")
    if not short:
        return ""
    return (
        f"slow images come in clumps, so these {len(report.samples_ms)} count as fewer independent "
        f"ones: {', '.join(short)}; take its bound for an estimate"
    )


def verdict_line(checked: Checked) -> str:
    """The verdict in one line, its reasons left aside."""
    verdict = checked.verdict
    if verdict.verdict == "pass":
        unjudged = verdict.unjudged
        but = (
            f"; {', '.join(unjudged)} not judged, --mode normal takes more images"
            if unjudged
            else ""
        )
        return f"within the budget of {checked.budget_of}{but}"
    if verdict.verdict == "over":
        return f"over the budget of {checked.budget_of}"
    return f"cannot be judged against the budget of {checked.budget_of}"


def _cold(cold_ms: tuple[float, ...]) -> str:
    if not cold_ms:
        return ""
    middle = f"{statistics.median(cold_ms):.0f} ms from process start to first image"
    return f"{middle}, median of {len(cold_ms)} ({min(cold_ms):.0f} to {max(cold_ms):.0f})"


def _energy(report: LatencyReport) -> str:
    each = report.energy_mj_per_image
    return "" if each is None else f"{each:.1f} mJ an image, of all that the board meters"


def _watched(watched: Conditions) -> str:
    if not watched.readings:
        return "nobody looked at the machine meanwhile"
    looks = f"{watched.readings} looks in {watched.seconds:.0f} s"
    return f"{looks}: {', '.join(watched.readers)}" if watched.readers else looks
