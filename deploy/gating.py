"""The whole gate: rounds on this machine, what the machine did meanwhile, and the images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

from deploy.regression import compare_images
from devices.gate.judge import LOOKS
from devices.gate.report import GateReport, PairReport
from devices.gate.rounds import Measure, OnRound, Pair, compare, looks_up_to
from devices.telemetry.watch import Watch

Watching = Callable[[], Watch]


def gate(
    pairs: Sequence[Pair],
    measure: Measure,
    *,
    rounds: int = LOOKS[-1],
    known_spread: float | None = None,
    watching: Watching | None = None,
    on_round: OnRound = lambda done, most: None,
) -> GateReport:
    """Compare pairs of bundles: images first, for they take seconds, then the rounds.

    Args:
        pairs: What to compare.
        measure: Measures one bundle in a fresh process.
        rounds: How often to measure each at most.
        known_spread: How far equal engines were apart on this machine before, as a fraction.
        watching: Makes what looks at the machine meanwhile; nothing looks if None.
        on_round: Told after each round.

    Raises:
        BundleError: One of them is damaged.
        DeviceError: This machine is not the one they were compiled for, or a process failed.
        ValueError: Too few rounds, or pairs that cannot be compared.
    """
    looks_up_to(rounds)  # too few are refused before anything is run
    images = {pair.name: compare_images(pair.baseline, pair.candidate) for pair in pairs}
    with ExitStack() as stack:
        watch = stack.enter_context(watching()) if watching else None
        report = compare(
            pairs, measure, rounds=rounds, known_spread=known_spread, on_round=on_round
        )
        conditions = watch.conditions() if watch else None
    seen = tuple(one.model_copy(update={"images": images[one.name]}) for one in report.pairs)
    return _settled(report.model_copy(update={"pairs": seen, "conditions": conditions}))


def _settled(report: GateReport) -> GateReport:
    """The verdict once images and conditions are known.

    Worse images are worse whatever the machine did, so they outweigh everything. A machine that
    throttled decides nothing. Neighbours do: they slow both sides of a round, and a round that they
    spoil widens the spread.
    """
    worse = [_named(report, one, one.images.worse) for one in report.pairs if one.images]
    worse = [sentence for sentence in worse if sentence]
    update: dict[str, object] = {}
    if worse:
        update = {"verdict": "slower", "reasons": (*worse, *report.reasons)}
    elif report.unsteady:
        reasons = (*report.unsteady, *report.reasons)
        update = {"verdict": "inconclusive", "reasons": reasons}
    return report.model_copy(update=update)


def _named(report: GateReport, pair: PairReport, sentence: str) -> str:
    return f"{pair.name}: {sentence}" if sentence and len(report.pairs) > 1 else sentence
