"""Measure pairs of bundles in interleaved rounds until the answer is sure."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from devices.gate.judge import LOOKS, Judgement, Verdict, benjamini_hochberg, hopeless, judge
from devices.gate.report import NAMES, Cell, GateReport, Measured, Once, PairReport
from devices.latency import rotated
from devices.machine import differences
from devices.sealed import MANIFEST, digest, read_sealed

FLOORS: dict[Measured, float] = {"steady": 0.05, "cold": 0.2, "memory": 0.1}
"""Growth below these concerns nobody, and is below what shared machines can show: a cold start
reads files and starts a process, so it varies more than a steady stream of images."""

SHARES: dict[Measured, float] = {"steady": 0.8, "cold": 0.1, "memory": 0.1}
"""Each question's part of the chance to be wrong. Latency is what a gate is for, and twelve rounds
can only show it with most of that; where a start or memory grew, it grew by much."""

MIN_ROUNDS = LOOKS[1]
"""With fewer no slow-down could be called."""

Measure = Callable[[Path], Once]
"""Measures a bundle once, in a process of its own."""

OnRound = Callable[[int, int], None]
"""Told how many rounds are done, and of how many at most."""


@dataclass(frozen=True)
class Pair:
    """Two bundles for the same job.

    Attributes:
        name: What tells it from others.
        baseline: The one that is good enough.
        candidate: The one that may be slower.
    """

    name: str
    baseline: Path
    candidate: Path


@dataclass
class _Side:
    """What was measured of a pair so far, and what its last look said."""

    baseline: list[Once] = field(default_factory=list)
    candidate: list[Once] = field(default_factory=list)
    cells: dict[Measured, Judgement] = field(default_factory=dict)

    def done(self, looks: Sequence[int]) -> bool:
        """Whether more rounds would not tell more."""
        steady = self.cells["steady"]
        if steady.verdict == "inconclusive" and not hopeless(steady, looks):
            return False
        # others may still be looked at, but only where they seem to have grown
        return not any(
            one.verdict == "inconclusive" and one.slowdown >= one.floor and not hopeless(one, looks)
            for one in self.cells.values()
        )


def looks_up_to(rounds: int) -> tuple[int, ...]:
    """When to look, where there may be so many rounds at most.

    Raises:
        ValueError: Too few for any verdict.
    """
    if rounds < MIN_ROUNDS:
        raise ValueError(f"a verdict needs at least {MIN_ROUNDS} rounds, got {rounds}")
    return (*(look for look in LOOKS if look < rounds), rounds)


def compare(
    pairs: Sequence[Pair],
    measure: Measure,
    *,
    rounds: int = LOOKS[-1],
    known_spread: float | None = None,
    on_round: OnRound = lambda done, most: None,
    clock: Callable[[], float] = time.monotonic,
) -> GateReport:
    """Measure pairs of bundles and judge them.

    Args:
        pairs: What to compare; the rounds of several are interleaved.
        measure: Measures one bundle in a fresh process.
        rounds: How often to measure each at most; it ends earlier where the answer is sure.
        known_spread: How far equal engines were apart on this machine before, as a fraction; three
            times that is the floor for latencies where it is more than 5 %.
        on_round: Told after each round.
        clock: Seconds from any start.

    Raises:
        BundleError: One of them is damaged.
        ValueError: Too few rounds for any verdict, no pair, two of one name, or bundles for
            different devices or sizes.
    """
    looks = looks_up_to(rounds)
    _check(pairs)
    floors = {**FLOORS, "steady": max(FLOORS["steady"], 3 * (known_spread or 0.0))}
    begin = clock()
    open_pairs = {pair.name: pair for pair in pairs}
    sides = {pair.name: _Side() for pair in pairs}
    for number in range(rounds):
        for name in rotated(list(open_pairs), number):
            _round(open_pairs[name], sides[name], measure, number)
        done = number + 1
        on_round(done, rounds)
        if done not in looks:
            continue
        for name in [*open_pairs]:
            _look(sides[name], floors, pairs=len(pairs), looks=looks)
            if sides[name].done(looks):
                del open_pairs[name]
        if not open_pairs:
            break
    reports = [_reported(pair, sides[pair.name]) for pair in pairs]
    reports = _stand_together(reports)
    verdict, reasons = _verdict(reports)
    return GateReport(
        verdict=verdict,
        reasons=reasons,
        pairs=tuple(reports),
        known_spread=known_spread,
        seconds=clock() - begin,
    )


def baseline_first(number: int) -> bool:
    """Which side begins a round: A/B, B/A in twos, and chance says which of them begins a two.

    A steady drift is no advantage to either side, and nor is a neighbour whose rhythm is that of
    the rounds. The same every time, for a verdict must not depend on luck.

    Args:
        number: Of the round, from 0.
    """
    return (number % 2 == 0) == (random.Random(number // 2).random() < 0.5)


def _round(pair: Pair, side: _Side, measure: Measure, number: int) -> None:
    order = [(side.baseline, pair.baseline), (side.candidate, pair.candidate)]
    for kept, bundle in order if baseline_first(number) else reversed(order):
        kept.append(measure(bundle))


def _look(
    side: _Side, floors: Mapping[Measured, float], *, pairs: int, looks: Sequence[int]
) -> None:
    for measured, floor in floors.items():
        values = (
            [once.value(measured) for once in runs] for runs in (side.baseline, side.candidate)
        )
        cells = pairs / SHARES[measured]
        side.cells[measured] = judge(*values, floor=floor, cells=cells, looks=looks)


def _reported(pair: Pair, side: _Side) -> PairReport:
    return PairReport(
        name=pair.name,
        baseline_sha256=digest(pair.baseline / MANIFEST),
        candidate_sha256=digest(pair.candidate / MANIFEST),
        baseline=tuple(side.baseline),
        candidate=tuple(side.candidate),
        cells=tuple(Cell(measured=name, judgement=one) for name, one in side.cells.items()),
    )


def _stand_together(reports: Sequence[PairReport]) -> list[PairReport]:
    """Call slower what is, seen beside all other questions, without each paying for all of them."""
    cells = [cell for report in reports for cell in report.cells]
    # weighted by the shares (Genovese, Roeder and Wasserman, 2006)
    stands = benjamini_hochberg(
        [cell.judgement.p_value / (SHARES[cell.measured] * len(SHARES)) for cell in cells]
    )
    settled = (
        _called(cell) if stands_too else cell
        for cell, stands_too in zip(cells, stands, strict=True)
    )
    return [
        report.model_copy(update={"cells": tuple(itertools.islice(settled, len(report.cells)))})
        for report in reports
    ]


def _called(cell: Cell) -> Cell:
    """A question whose p-value stands: slower, if it was open and the growth is at the floor."""
    judgement = cell.judgement
    if judgement.verdict != "inconclusive" or judgement.slowdown < judgement.floor:
        return cell
    reason = (
        f"{judgement.slowdown:+.1%} (p = {judgement.p_value:.2g} among the questions of this "
        f"gate), the floor is {judgement.floor:.0%}"
    )
    update = {"verdict": "slower", "reason": reason}
    return cell.model_copy(update={"judgement": judgement.model_copy(update=update)})


def _verdict(reports: Sequence[PairReport]) -> tuple[Verdict, tuple[str, ...]]:
    """The worst of the cells; only of the latency must it be known that it is not slower."""
    slower: list[str] = []
    unsure: list[str] = []
    passed: list[str] = []
    for report in reports:
        for cell in report.cells:
            of = f"{report.name}: " if len(reports) > 1 else ""
            sentence = f"{of}{NAMES[cell.measured]} {cell.judgement.reason}"
            if cell.judgement.verdict == "slower":
                slower.append(sentence)
            elif cell.measured == "steady":
                (passed if cell.judgement.verdict == "pass" else unsure).append(sentence)
    moved = _moved([*(once for one in reports for once in (*one.baseline, *one.candidate))])
    if moved:
        changed = f"the machine changed while it was measured ({moved}); hold it still and repeat"
        return "inconclusive", (changed, *slower, *unsure, *passed)
    if slower:
        return "slower", (*slower, *unsure, *passed)
    return ("inconclusive" if unsure else "pass"), (*unsure, *passed)


def _check(pairs: Sequence[Pair]) -> None:
    if not pairs:
        raise ValueError("there is nothing to compare; name a baseline and a candidate")
    names = [pair.name for pair in pairs]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two pairs are called {name!r}; each needs a name of its own")
    for pair in pairs:
        first, second = (
            f"{sealed.profile.name} at {sealed.profile.image_size} x {sealed.profile.image_size} "
            "pixels"
            for sealed in (read_sealed(pair.baseline), read_sealed(pair.candidate))
        )
        if first != second:
            raise ValueError(
                f"{pair.baseline} is for {first}, {pair.candidate} for {second}: "
                "deploy both for the same profile and compare again"
            )


def _moved(runs: Sequence[Once]) -> str:
    """What changed on the machine between the first run and any other; empty where nothing did."""
    for run in runs:
        changed = differences(runs[0].machine, run.machine)
        if changed:
            return "; ".join(changed)
    return ""
