"""A gate, for a person at a terminal of a hundred columns."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn
from rich.table import Table

from devices.gate.judge import Verdict
from devices.gate.report import GateReport, Once, PairReport
from devices.gate.rounds import OnRound
from devices.gate.selftest import Rate, SelfTestReport
from devices.gate.table import (
    answers,
    could_see,
    facts,
    headline,
    images_line,
    values_of,
)
from devices.showing import machine_line, show_facts

STYLES: dict[Verdict, str] = {
    "pass": "bold green",
    "slower": "bold red",
    "inconclusive": "bold yellow",
}
"""Beside words that say the same."""


def show_gate(console: Console, report: GateReport, notes: Sequence[str] = ()) -> None:
    """Print what was measured of each pair, what is said of it, and the verdict last.

    Args:
        console: Where to.
        report: What was measured.
        notes: What else is to be said, a sentence each.
    """
    for pair in report.pairs:
        console.print(f"\n{pair.name}, {len(pair.baseline)} rounds", style="bold", markup=False)
        console.print(_sides(pair))
        console.print(_answers(pair))
        show_facts(console, images=images_line(pair.images), **{"could see": could_see(pair)})
    console.print()
    # the machine stood on top already
    show_facts(console, **{k: v for k, v in facts(report).items() if k != "machine"})
    console.print()
    for sentence in (*report.reasons[1:], *notes):
        console.print(sentence, markup=False)
    console.print(headline(report), style=STYLES[report.verdict], markup=False)


def _sides(pair: PairReport) -> Table:
    table = Table(box=SIMPLE_HEAD)
    table.add_column("")
    headers = ("median ms", "best round", "worst round", "images", "cold start ms", "memory MiB")
    for header in headers:
        table.add_column(header, justify="right")
    for name, runs in (("baseline", pair.baseline), ("candidate", pair.candidate)):
        table.add_row(name, *_figures(runs))
    return table


def _figures(runs: Sequence[Once]) -> list[str]:
    medians = values_of(runs, "steady")
    numbers = (statistics.median(medians), min(medians), max(medians))
    return [
        *(f"{number:.2f}" for number in numbers),
        str(sum(len(once.samples_ms) for once in runs)),
        f"{statistics.median(values_of(runs, 'cold')):.0f}",
        f"{statistics.median(values_of(runs, 'memory')):.0f}",
    ]


def _answers(pair: PairReport) -> Table:
    table = Table(box=SIMPLE_HEAD)
    table.add_column("")
    for header in ("change", "at most (95 %)", "floor", "could see"):
        table.add_column(header, justify="right")
    table.add_column("")
    for one in answers(pair):
        style = STYLES[one.verdict].removeprefix("bold ")
        figures = (one.change, one.at_most, one.floor, one.could_see)
        table.add_row(one.name, *figures, f"[{style}]{one.word}[/]")
    return table


def show_self_test(console: Console, report: SelfTestReport) -> None:
    """Print what the gate is worth on a machine."""
    table = Table(box=SIMPLE_HEAD)
    table.add_column("of gates with")
    for header in ("gates", "times", "chance (95 % each way)"):
        table.add_column(header, justify="right")
    slower = f"{report.slowdown:.0%} more work"
    rows = (
        ("equal engines, called slower (false alarms)", report.false_alarms),
        (f"{slower}, called slower (caught)", report.caught),
        (f"{slower}, passed (missed)", report.missed),
    )
    for name, rate in rows:
        table.add_row(name, str(rate.of), str(rate.hits), _chance(rate))
    console.print(table)
    lines = {
        "work": "" if report.injected is None else f"made the engine {report.injected:.1%} slower",
        "spread": ""
        if report.spread is None
        else f"estimates of equal engines differ by {report.spread:.1%} (standard deviation)",
        "seconds": f"{report.seconds:.0f} a gate, the median",
        "machine": machine_line(report.machine),
    }
    show_facts(console, **{name: line for name, line in lines.items() if line})


def _chance(rate: Rate) -> str:
    return f"{rate.at_least:.1%} to {rate.at_most:.1%}"


@contextlib.contextmanager
def progress_of(console: Console, name: str) -> Iterator[OnRound]:
    """A bar that is redrawn when it is told to: one that moves by itself disturbs what is timed.

    Args:
        console: Where to; nothing is drawn where that is no terminal.
        name: What is counted.
    """
    columns = (name, BarColumn(), MofNCompleteColumn(), "at most,", TimeElapsedColumn())
    with Progress(
        *columns,
        console=console,
        auto_refresh=False,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task("", total=None)
        progress.refresh()

        def on_round(done: int, most: int) -> None:
            progress.update(task, completed=done, total=most, refresh=True)

        yield on_round
