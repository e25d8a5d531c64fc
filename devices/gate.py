"""Decide whether a candidate is slower than a baseline: yes, no, or these rounds cannot say.

What a round measures is one median per side, each from a fresh process: images of one process
share its memory layout and its moment, so they are no independent samples. The two sides of a
round follow each other at once, in the order A/B, B/A, A/B, and are compared as a pair, so a
machine that drifts slows both. Hence the paired test: the exact signed-rank test on the logarithm
of candidate over baseline, which a single wild round cannot decide, rather than Mann-Whitney, to
which the drift between rounds is noise.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import PositiveInt

from devices import signed_rank
from devices.latency import rotated
from devices.machine import Machine, differences
from devices.profile import Frozen
from devices.sealed import MANIFEST, digest, read_sealed

Verdict = Literal["pass", "slower", "inconclusive"]

EXIT_STATUS: dict[Verdict, int] = {"pass": 0, "slower": 1, "inconclusive": 2}

FLOOR = 0.05
"""Slow-downs below this are nobody's concern, and below what shared machines can show."""

ALPHA = 0.002
"""Chance of calling an equal candidate slower, before the floor makes it smaller still."""

CONFIDENCE = 0.95
"""How sure a pass is that the slow-down is below the floor."""

POWER = 0.9
"""How often a slow-down must be caught to be called visible."""

MIN_ROUNDS = 9
"""With fewer pairs no result is rarer than ALPHA: 0.5 ** 9 = 0.00195."""

MANY_ROUNDS = 128
"""More than anyone should wait for: some minutes each way on a shared machine."""


class Judgement(Frozen):
    """What the rounds say. Slow-downs are fractions: 0.05 is 5 % slower, below zero is faster.

    Attributes:
        slowdown: Estimate of the candidate's slow-down.
        upper: The slow-down lies below this with 95 % confidence.
        p_value: Chance of rounds like these from two equal engines.
        spread: Standard deviation of the slow-down from round to round.
        visible: The smallest slow-down that this many such rounds would call slower 9 times in 10.
        rounds_wanted: Rounds after which two equal engines would pass 9 times in 10.
    """

    verdict: Verdict
    reason: str
    slowdown: float
    upper: float
    p_value: float
    spread: float
    visible: float
    rounds_wanted: PositiveInt


class Once(Frozen):
    """Steady latencies of one bundle from one fresh process."""

    machine: Machine
    samples_ms: tuple[float, ...]


class GateReport(Frozen):
    """A comparison of two bundles, with everything that was measured, in order."""

    schema_version: Literal[1] = 1
    baseline_sha256: str
    candidate_sha256: str
    baseline: tuple[Once, ...]
    candidate: tuple[Once, ...]
    judgement: Judgement


Measure = Callable[[Path], Once]
"""Measures a bundle once, in a process of its own: here, or some day on a board over SSH."""


def compare(
    baseline: Path,
    candidate: Path,
    measure: Measure,
    *,
    rounds: int,
    on_round: Callable[[int], None] = lambda done: None,
) -> GateReport:
    """Measure two bundles in interleaved rounds and judge them.

    Args:
        baseline: The bundle that is good enough.
        candidate: The bundle that may be slower.
        measure: Measures one bundle in a fresh process.
        rounds: How often to measure each, at least 9.
        on_round: Told how many rounds are done, after each.

    Raises:
        BundleError: One of them is damaged.
        ValueError: Too few rounds for any verdict, or bundles for different devices or sizes.
    """
    _enough(rounds)
    _same_job(baseline, candidate)
    sides = {"baseline": baseline, "candidate": candidate}
    measured: dict[str, list[Once]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in rotated(list(sides), number):
            measured[name].append(measure(sides[name]))
        on_round(number + 1)
    medians = {
        name: [statistics.median(once.samples_ms) for once in runs]
        for name, runs in measured.items()
    }
    judgement = judge(medians["baseline"], medians["candidate"])
    moved = _moved([*measured["baseline"], *measured["candidate"]])
    if moved:
        reason = f"the machine changed while it was measured ({moved}); hold it still and repeat"
        judgement = judgement.model_copy(update={"verdict": "inconclusive", "reason": reason})
    return GateReport(
        baseline_sha256=digest(baseline / MANIFEST),
        candidate_sha256=digest(candidate / MANIFEST),
        baseline=tuple(measured["baseline"]),
        candidate=tuple(measured["candidate"]),
        judgement=judgement,
    )


def judge(baseline_ms: Sequence[float], candidate_ms: Sequence[float]) -> Judgement:
    """Judge one median per round and side; the same index is the same round.

    Slower: p < 0.002 and a slow-down of at least 5 %. Pass: with 95 % confidence the slow-down is
    below 5 %. Anything between is inconclusive. So two equal engines are called slower at most 2
    times in 1000, and one that is 5 % slower or worse passes at most 5 times in 100.

    Raises:
        ValueError: The sides differ in length, a latency is not positive, or rounds are too few.
    """
    _enough(len(baseline_ms))
    if len(baseline_ms) != len(candidate_ms):
        raise ValueError(f"{len(baseline_ms)} baseline rounds and {len(candidate_ms)} of the other")
    if min(*baseline_ms, *candidate_ms) <= 0:
        raise ValueError(f"latencies must be positive, got {min(*baseline_ms, *candidate_ms)} ms")
    logs = [math.log(b / a) for a, b in zip(baseline_ms, candidate_ms, strict=True)]
    slowdown = math.expm1(signed_rank.estimate(logs))
    upper = math.expm1(signed_rank.upper_limit(logs, CONFIDENCE))
    p_value = signed_rank.p_value_above_zero(logs)
    spread = statistics.stdev(logs)
    visible = visible_slowdown(spread, len(logs))
    wanted = rounds_wanted(spread)
    verdict: Verdict = "inconclusive"
    if p_value < ALPHA and slowdown >= FLOOR:
        verdict = "slower"
        reason = f"{slowdown:+.1%} (p = {p_value:.2g}), the floor is {FLOOR:.0%}"
    elif upper < FLOOR:
        verdict = "pass"
        reason = f"{slowdown:+.1%}, below {upper:+.1%} with 95 % confidence"
    else:
        more = max(wanted, len(logs) * 2)
        advice = f"try --rounds {more}" if more < MANY_ROUNDS else "try a quieter machine"
        reason = (
            f"{slowdown:+.1%}, but it may be {upper:+.1%}: rounds spread by {spread:.1%}, so "
            f"{len(logs)} of them show slow-downs from {visible:.0%} on; {advice}"
        )
    return Judgement(
        verdict=verdict,
        reason=reason,
        slowdown=slowdown,
        upper=upper,
        p_value=p_value,
        spread=spread,
        visible=visible,
        rounds_wanted=wanted,
    )


def visible_slowdown(spread: float, rounds: int) -> float:
    """The smallest slow-down that would be called slower 9 times in 10.

    Args:
        spread: Standard deviation of the logarithm of candidate over baseline between rounds.
        rounds: Pairs of measurements, at least 9.
    """
    noise = _pure_noise(rounds)
    # slower needs a p-value below ALPHA and an estimate at the floor, whichever comes later
    significant = -spread * noise.significant
    at_the_floor = math.log1p(FLOOR) - spread * noise.estimate
    return math.expm1(float(np.quantile(np.maximum(significant, at_the_floor), POWER)))


def rounds_wanted(spread: float) -> int:
    """Rounds after which two equal engines would pass 9 times in 10, or MANY_ROUNDS."""
    for rounds in (10, 12, 16, 20, 24, 32, 48, 64, 96):
        upper = spread * float(np.quantile(_pure_noise(rounds).upper, POWER))
        if upper < math.log1p(FLOOR):
            return rounds
    return MANY_ROUNDS


@dataclass(frozen=True)
class _Noise:
    """400 simulated gates of pure noise of spread 1; three numbers of each.

    Attributes:
        significant: Less this is how far a gate must be moved to be significant.
        estimate: Its estimate.
        upper: Its upper limit.
    """

    significant: signed_rank.Values
    estimate: signed_rank.Values
    upper: signed_rank.Values


@functools.cache
def _pure_noise(rounds: int) -> _Noise:
    """The same every time: a verdict must not depend on luck."""
    noise = np.random.default_rng(0).standard_normal((400, rounds))
    means = np.sort(signed_rank.pairwise_means(noise), axis=1)
    low = signed_rank.droppable(rounds, ALPHA)
    high = signed_rank.droppable(rounds, 1 - CONFIDENCE)
    assert low is not None  # MIN_ROUNDS sees to both
    assert high is not None
    return _Noise(means[:, low], np.median(means, axis=1), means[:, -1 - high])


def _enough(rounds: int) -> None:
    if rounds < MIN_ROUNDS:
        raise ValueError(f"a verdict needs at least {MIN_ROUNDS} rounds, got {rounds}")


def _same_job(baseline: Path, candidate: Path) -> None:
    first, second = (
        f"{sealed.profile.name} at {sealed.profile.image_size} x {sealed.profile.image_size} pixels"
        for sealed in (read_sealed(baseline), read_sealed(candidate))
    )
    if first != second:
        raise ValueError(
            f"{baseline} is for {first}, {candidate} for {second}: "
            "deploy both for the same profile and compare again"
        )


def _moved(runs: Sequence[Once]) -> str:
    """What changed on the machine between the first run and any other; empty where nothing did."""
    for run in runs:
        changed = differences(runs[0].machine, run.machine)
        if changed:
            return "; ".join(changed)
    return ""
