"""What became of the gates of a rule, and which rule is better than another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SLOWDOWNS = (0.03, 0.05, 0.10, 0.20)


@dataclass(frozen=True)
class Score:
    """One rule under one condition.

    Attributes:
        rule: Its name.
        given: Whose time it had: that of our gate, or its own.
        processes: It ran on average, of both sides.
        seconds: It took on average, for measuring.
        gates: Of each kind that were played back.
        false_alarms: How many of those with two equal sides it called slower.
        caught: How many it called slower of those with each slow-down.
        passed: How many of those it said are not slower; None where the rule knows no third answer,
            so that what it does not call passes.
    """

    rule: str
    given: str
    processes: float
    seconds: float
    gates: int
    false_alarms: int
    caught: Mapping[float, int]
    passed: Mapping[float, int] | None = None


def dominating(ours: Score, others: Sequence[Score], slowdown: float) -> list[Score]:
    """The rules that raise fewer false alarms **and** catch more than ours, in no more time.

    Raises:
        ValueError: They were not all played as often.
    """
    for other in others:
        if other.gates != ours.gates:
            raise ValueError(f"{other.rule}: {other.gates} gates, ours had {ours.gates}")
    return [
        other
        for other in others
        if other.false_alarms < ours.false_alarms and other.caught[slowdown] > ours.caught[slowdown]
    ]


def claim(condition: str, ours: Score, others: Sequence[Score]) -> list[str]:
    """A sentence for each slow-down: no rule is better than ours, or which ones are."""
    lines = []
    for slowdown in SLOWDOWNS:
        better = dominating(ours, others, slowdown)
        names = ", ".join(f"{one.rule} ({one.given})" for one in better)
        verdict = f"FAILED: {names}" if better else "kept: no rule is better in both"
        lines.append(f"{condition}, {slowdown:.0%} slower: {verdict}")
    return lines


def table(scores: Sequence[Score]) -> list[str]:
    """A Markdown table, a row for each score."""
    slower = " | ".join(f"{slowdown:.0%}" for slowdown in SLOWDOWNS)
    lines = [
        f"| rule | time | processes | seconds | false alarms | {slower} |",
        "|---|---|---|---|---|" + "---|" * len(SLOWDOWNS),
    ]
    for one in scores:
        cells = [one.rule, one.given, f"{one.processes:.1f}", f"{one.seconds:.0f}"]
        cells.append(_share(one.false_alarms, one.gates))
        cells += [_share(one.caught[slowdown], one.gates) for slowdown in SLOWDOWNS]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _share(part: int, of: int) -> str:
    return f"{100 * part / of:.1f} %"
