"""Ask the gate what it is worth on this very machine: gates of which the right answer is known.

A bundle against a copy of itself must not be called slower; against a copy with known extra work
(`devices.gate.work`) it must. The two kinds of gates take turns, so that the machine's mood is in
both.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Protocol

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from devices.gate.history import equal_entry, remember
from devices.gate.judge import Verdict
from devices.gate.rates import at_least, at_most
from devices.gate.report import GateReport, Once, PairReport
from devices.gate.rounds import Measure, Pair, compare
from devices.gate.work import units_for
from devices.machine import Machine
from devices.profile import Frozen
from devices.sealed import read_sealed

CALIBRATION_PAIRS = 7
CALIBRATION_FACTOR = 5
"""Work is calibrated with five times as much, so that noise weighs a fifth."""

Kind = Literal["equal", "slower"]

Gate = Callable[[Sequence[Pair], Measure], GateReport]
"""Compares pairs, as `devices.gate.rounds.compare` does."""


class MeasureLaden(Protocol):
    """Measures a bundle in a fresh process, with extra work beside each image."""

    def __call__(self, bundle: Path, *, work: int = 0) -> Once:
        """Measure once; ``work`` counts the products of `devices.gate.work`."""
        ...


class Rate(Frozen):
    """How often something happened.

    Attributes:
        hits: So often.
        of: Of so many.
        at_least: The chance of it is at least this, with 95 % confidence (one-sided).
        at_most: The chance of it is at most this, with 95 % confidence (one-sided).
    """

    hits: NonNegativeInt
    of: NonNegativeInt
    at_least: float
    at_most: float


class Trial(Frozen):
    """One gate of which the right answer is known.

    Attributes:
        kind: Whether the candidate had extra work to do.
        slowdown: What the gate estimates.
        injected: What the work made, by the median over all rounds; of an equal candidate, how far
            it happened to be apart.
        rounds: How many the gate took.
        seconds: How long it took.
        reason: The weightiest, in its words.
    """

    kind: Kind
    verdict: Verdict
    slowdown: float
    injected: float
    rounds: PositiveInt
    seconds: float
    reason: str


class SelfTestReport(Frozen):
    """What the gate is worth here.

    Attributes:
        slowdown: What the extra work was to make.
        units: So much work made it.
        false_alarms: Equal candidates that were called slower.
        caught: Slower candidates that were called slower.
        missed: Slower candidates that passed; the rest were inconclusive.
        injected: What the work made, the median of the gates with it; None without such gates.
        spread: How far the estimates of equal candidates were apart (standard deviation); None of
            fewer than two.
        seconds: Of a gate, the median.
    """

    schema_version: Literal[1] = 1
    machine: Machine
    fingerprint: str
    engine_sha256: str
    slowdown: PositiveFloat
    units: PositiveInt
    false_alarms: Rate
    caught: Rate
    missed: Rate
    injected: float | None
    spread: float | None
    seconds: float
    trials: tuple[Trial, ...]


@dataclass(frozen=True)
class Twins:
    """A bundle and a copy of it, so that a gate compares two folders as it always does.

    Attributes:
        baseline: The bundle.
        candidate: The copy, which may be given extra work.
    """

    baseline: Path
    candidate: Path


def run_self_test(
    bundle: Path,
    measure: MeasureLaden,
    *,
    gates: int = 20,
    slowdown: float = 0.1,
    gate: Gate = compare,
    history: Path | None = None,
    on_trial: Callable[[int, Trial], None] = lambda done, trial: None,
) -> SelfTestReport:
    """Let gates whose answer is known run, and count what they say.

    Args:
        bundle: What to compare with itself; it must run on this machine.
        measure: Measures it in a fresh process.
        gates: Of each kind.
        slowdown: What the extra work shall make.
        gate: Compares two bundles.
        history: Where to keep the estimates of equal candidates, from which the machine's known
            spread follows (`devices.gate.history.known_spread`); nowhere if None. A gate during
            which the machine throttled is not kept.
        on_trial: Told after each gate, with how many are done.

    Raises:
        BundleError: The bundle is damaged.
        DeviceError: It is for another machine, or a process failed.
        ValueError: No gate, or a slow-down that is none.
        OSError: The history cannot be written.
    """
    if gates < 1:
        raise ValueError(f"a self-test needs at least one gate of each kind, got {gates}")
    if not 0 < slowdown < 10:
        raise ValueError(
            f"a slow-down to be found lies between 0 and 10 (0.1 is 10 %), got {slowdown}"
        )
    sealed = read_sealed(bundle)
    trials = []
    with tempfile.TemporaryDirectory() as folder:
        twins = Twins(bundle, Path(shutil.copytree(bundle, Path(folder) / "candidate")))
        units = calibrated_units(bundle, measure, slowdown)
        for number in range(2 * gates):
            began = datetime.now(UTC)
            work = units if number % 2 else 0
            report = known_gate(twins, measure, units=work, gate=gate)
            [pair] = report.pairs
            trials.append(_trial(report, "slower" if work else "equal"))
            if history is not None and not work and not report.unsteady:
                remember(history, [equal_entry(pair, sealed, began)])
            on_trial(len(trials), trials[-1])
    machine = pair.baseline[0].machine
    return _summed_up(
        trials, machine, sealed.sha256[sealed.engine_file], slowdown=slowdown, units=units
    )


def known_gate(
    twins: Twins, measure: MeasureLaden, *, units: int, gate: Gate = compare
) -> GateReport:
    """One gate of a bundle against itself.

    Args:
        twins: The bundle and its copy.
        measure: Measures one of them in a fresh process.
        units: Extra work of the copy beside each image; zero makes them equal.
        gate: Compares them.
    """

    def one(bundle: Path) -> Once:
        return measure(bundle, work=units if bundle == twins.candidate else 0)

    return gate([Pair("self-test", twins.baseline, twins.candidate)], one)


def calibrated_units(
    bundle: Path, measure: MeasureLaden, slowdown: float, *, pairs: int = CALIBRATION_PAIRS
) -> int:
    """How much work beside each image makes an engine slower by so much, as it is measured here.

    Work beside an engine takes longer than the same work alone, for the engine empties the caches
    and wakes threads; so it is measured where it will be done.

    Args:
        bundle: The engine.
        measure: Measures it in a fresh process.
        slowdown: As a fraction of its latency.
        pairs: Processes with and without work that take turns.
    """
    plain = [measure(bundle).value("steady")]
    many = units_for(CALIBRATION_FACTOR * slowdown, plain[0])
    laden = [measure(bundle, work=many).value("steady")]
    for _ in range(pairs - 1):
        plain.append(measure(bundle).value("steady"))
        laden.append(measure(bundle, work=many).value("steady"))
    plain_ms = statistics.median(plain)
    each_ms = statistics.median(b - a for a, b in zip(plain, laden, strict=True)) / many
    if each_ms <= 0:
        # the machine's noise is larger than half the engine: no gate will say anything here
        return units_for(slowdown, plain_ms)
    return max(1, round(slowdown * plain_ms / each_ms))


def injected(pair: PairReport) -> float:
    """How much slower the candidate was: the median over all rounds of one side by the other.

    Not one side's median by the other's: on a machine that drifts those are of different moments.
    """
    both = zip(pair.baseline, pair.candidate, strict=True)
    return statistics.median(b.value("steady") / a.value("steady") for a, b in both) - 1


def rate(hits: int, of: int) -> Rate:
    """How often something happened, with its limits."""
    return Rate(hits=hits, of=of, at_least=at_least(hits, of), at_most=at_most(hits, of))


def _trial(report: GateReport, kind: Kind) -> Trial:
    [pair] = report.pairs
    judgement = pair.cell("steady")
    return Trial(
        kind=kind,
        verdict=report.verdict,
        slowdown=judgement.slowdown,
        injected=injected(pair),
        rounds=judgement.rounds,
        seconds=report.seconds,
        reason=report.reasons[0],
    )


def _summed_up(
    trials: Sequence[Trial], machine: Machine, engine: str, *, slowdown: float, units: int
) -> SelfTestReport:
    equal, slower = ([one for one in trials if one.kind == kind] for kind in ("equal", "slower"))
    estimates = [one.slowdown for one in equal]
    return SelfTestReport(
        machine=machine,
        fingerprint=machine.fingerprint(),
        engine_sha256=engine,
        slowdown=slowdown,
        units=units,
        false_alarms=_said("slower", equal),
        caught=_said("slower", slower),
        missed=_said("pass", slower),
        injected=statistics.median(one.injected for one in slower) if slower else None,
        spread=statistics.stdev(estimates) if len(estimates) > 1 else None,
        seconds=statistics.median(one.seconds for one in trials),
        trials=tuple(trials),
    )


def _said(verdict: Verdict, trials: Sequence[Trial]) -> Rate:
    return rate(sum(one.verdict == verdict for one in trials), len(trials))
