"""Decide from paired rounds whether something grew: yes, no, or these rounds cannot say.

What a round gives is one number for each side, from a fresh process each: images of one process
share its memory layout and its moment, so they are no independent samples. The two sides of a
round follow each other at once, in an order that two rounds mirror (A/B, B/A), and are compared as
a pair, so a machine that drifts slows both. Hence the paired test: the exact signed-rank test on
the logarithm of candidate over baseline, which a single wild round cannot decide, rather than
Mann-Whitney, to which the drift between rounds is noise.

The rounds are looked at several times (`LOOKS`), to stop as soon as the answer is sure. Every look
has its share of the chance to be wrong, so that all looks together stay below it.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import PositiveFloat, PositiveInt

from devices import signed_rank
from devices.profile import Frozen

Verdict = Literal["pass", "slower", "inconclusive"]

LOOKS = (7, 12, 18, 27)
"""Rounds after which an answer is looked for. Seven can show that nothing grew, twelve that
something did, in the quiet; 27 are about a minute on a quick engine."""

ALPHA = 0.005
"""Chance of calling an equal candidate slower, over all looks, before the floor makes it less."""

CONFIDENCE = 0.95
"""How sure a pass is, over all looks, that the growth is below the floor."""

POWER = 0.9
"""How often growth must be caught to be called visible."""

MANY_ROUNDS = 128
"""More than anyone should wait for."""


class Judgement(Frozen):
    """What the rounds say of one thing that may grow. 0.05 is 5 % more, below zero is less.

    Attributes:
        floor: Growth below this is nobody's concern.
        slowdown: Estimate of the growth.
        upper: It lies below this with 95 % confidence, over all looks; None where rounds are too
            few to say.
        p_value: Chance of rounds like these from two equal engines, times the looks it had.
        spread: Standard deviation of the growth from round to round.
        visible: The smallest growth that this many such rounds would call slower 9 times in 10;
            None where they are too few to call any.
        rounds_wanted: Rounds after which two equal engines would pass 9 times in 10.
    """

    verdict: Verdict
    reason: str
    rounds: PositiveInt
    floor: PositiveFloat
    slowdown: float
    upper: float | None
    p_value: float
    spread: float
    visible: float | None
    rounds_wanted: PositiveInt


def judge(
    baseline: Sequence[float],
    candidate: Sequence[float],
    *,
    floor: float,
    cells: float = 1,
    looks: Sequence[int] = LOOKS,
) -> Judgement:
    """Judge one number per round and side; the same index is the same round.

    Slower: the p-value, times the looks it had, is below `ALPHA` divided by ``cells``, and the
    growth is at least the floor. Pass: with 95 % confidence the growth is below the floor. Anything
    between is inconclusive. So two equal engines are called slower at most 5 times in 1000, and one
    that is slower by the floor or more passes at most 5 times in 100.

    Args:
        baseline: What each round measured of the one that is good enough.
        candidate: What it measured of the other.
        floor: Growth that concerns somebody.
        cells: What `ALPHA` is divided by where a gate asks several such questions, so that one
            gets a part of it; `benjamini_hochberg` refines this at the end.
        looks: When answers are looked for; the share of each look follows from their number.

    Raises:
        ValueError: The sides differ in length, a number is not positive, or there is no round.
    """
    if len(baseline) != len(candidate) or not baseline:
        raise ValueError(f"{len(baseline)} baseline rounds and {len(candidate)} of the other")
    if min(*baseline, *candidate) <= 0:
        raise ValueError(f"what is compared must be positive, got {min(*baseline, *candidate)}")
    logs = [math.log(b / a) for a, b in zip(baseline, candidate, strict=True)]
    slowdown = math.expm1(signed_rank.estimate(logs))
    upper = math.expm1(signed_rank.upper_limit(logs, 1 - (1 - CONFIDENCE) / len(looks)))
    p_value = min(1.0, signed_rank.p_value_above_zero(logs) * _chances(looks))
    spread = statistics.stdev(logs) if len(logs) > 1 else 0.0
    visible = visible_slowdown(spread, len(logs), floor=floor, cells=cells, looks=looks)
    wanted = rounds_wanted(spread, floor=floor, looks=looks)
    verdict: Verdict = "inconclusive"
    if p_value < ALPHA / cells and slowdown >= floor:
        verdict = "slower"
        reason = f"{slowdown:+.1%} (p = {p_value:.2g}), the floor is {floor:.0%}"
    elif upper < floor:
        verdict = "pass"
        reason = f"{slowdown:+.1%}, below {upper:+.1%} with 95 % confidence"
    else:
        reason = _cannot_say(len(logs), slowdown, upper, spread, visible, wanted)
    return Judgement(
        verdict=verdict,
        reason=reason,
        rounds=len(logs),
        floor=floor,
        slowdown=slowdown,
        upper=upper if math.isfinite(upper) else None,
        p_value=p_value,
        spread=spread,
        visible=visible,
        rounds_wanted=wanted,
    )


def _cannot_say(
    rounds: int, slowdown: float, upper: float, spread: float, visible: float | None, wanted: int
) -> str:
    more = max(wanted, rounds * 2)
    advice = f"try --rounds {more}" if more < MANY_ROUNDS else "try a quieter machine"
    may_be = f"it may be {upper:+.1%}" if math.isfinite(upper) else "it may be anything"
    sees = "no slow-down" if visible is None else f"slow-downs from {visible:.0%} on"
    return (
        f"{slowdown:+.1%}, but {may_be}: rounds spread by {spread:.1%}, so {rounds} of them show "
        f"{sees}; {advice}"
    )


def hopeless(judgement: Judgement, looks: Sequence[int] = LOOKS) -> bool:
    """Whether going on to the last look would not answer either, as far as can be told now."""
    near = judgement.slowdown < judgement.floor
    return (
        judgement.verdict == "inconclusive"
        and judgement.rounds >= looks[1]
        and near
        and judgement.rounds_wanted > 2 * looks[-1]
    )


def benjamini_hochberg(p_values: Sequence[float], q: float = ALPHA) -> list[bool]:
    """Which of several p-values stand, so that of all that do at most ``q`` are false on average.

    Source: Benjamini and Hochberg, 1995.
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    standing = 0
    for place, index in enumerate(order, start=1):
        if p_values[index] <= q * place / len(p_values):
            standing = place
    kept = set(order[:standing])
    return [index in kept for index in range(len(p_values))]


def visible_slowdown(
    spread: float, rounds: int, *, floor: float, cells: float = 1, looks: Sequence[int] = LOOKS
) -> float | None:
    """The smallest growth that would be called slower 9 times in 10; None: there is none.

    Args:
        spread: Standard deviation of the logarithm of candidate over baseline between rounds.
        rounds: Pairs of measurements.
        floor: Growth that concerns somebody.
        cells: What `ALPHA` is divided by.
        looks: When answers are looked for.
    """
    low = signed_rank.droppable(rounds, ALPHA / cells / _chances(looks))
    if low is None:
        return None
    noise = _pure_noise(rounds)
    # slower needs a p-value below ALPHA and an estimate at the floor, whichever comes later
    significant = -spread * noise.means[:, low]
    at_the_floor = math.log1p(floor) - spread * noise.estimate
    return math.expm1(float(np.quantile(np.maximum(significant, at_the_floor), POWER)))


def rounds_wanted(spread: float, *, floor: float, looks: Sequence[int] = LOOKS) -> int:
    """Rounds after which two equal engines would pass 9 times in 10, or MANY_ROUNDS."""
    share = (1 - CONFIDENCE) / len(looks)
    for rounds in (7, 8, 10, 12, 15, 18, 22, 27, 33, 40, 50, 64, 80, 100):
        high = signed_rank.droppable(rounds, share)
        if high is None:
            continue
        upper = spread * float(np.quantile(_pure_noise(rounds).means[:, -1 - high], POWER))
        if upper < math.log1p(floor):
            return rounds
    return MANY_ROUNDS


def _chances(looks: Sequence[int]) -> int:
    """At how many looks something may be called slower: where the rounds are enough for it."""
    return max(1, sum(1 for rounds in looks if 0.5**rounds * len(looks) < ALPHA))


@dataclass(frozen=True)
class _Noise:
    """400 simulated gates of pure noise of spread 1.

    Attributes:
        means: Of each the pairwise means, sorted, (400, n (n + 1) / 2).
        estimate: Of each the estimate, (400,).
    """

    means: signed_rank.Values
    estimate: signed_rank.Values


@functools.cache
def _pure_noise(rounds: int) -> _Noise:
    """The same every time: a verdict must not depend on luck."""
    noise = np.random.default_rng(0).standard_normal((400, rounds))
    means = np.sort(signed_rank.pairwise_means(noise), axis=1)
    return _Noise(means, np.median(means, axis=1))
