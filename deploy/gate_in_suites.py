"""A gate in a test suite: where its baseline is, a budget beside it, and one at a time."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.baselines import PREFIX, Store
from deploy.cache_lock import hold
from deploy.gate_history import spread_of
from deploy.gating import Watching, gate
from devices.cache_folder import cache_folder
from devices.gate.judge import LOOKS
from devices.gate.report import GateReport
from devices.gate.rounds import Measure, Pair
from devices.machine import differences, this_machine
from devices.percentiles import percentile
from devices.sealed import MANIFEST, read_sealed
from devices.session import DeviceError

LOCK_POLL_S = 0.25


class NotMeasuredError(ValueError):
    """There is no verdict, not even that these rounds cannot say."""


def measured(
    name: str,
    candidate: Path,
    *,
    baseline: str | Path,
    folder: Path | None,
    budget_ms: float | None,
    rounds: int | None,
    measure: Measure,
    watching: Watching | None,
) -> GateReport:
    """Compare two bundles, while no other gate of this user does.

    Args:
        name: What the report calls them.
        candidate: The bundle that may be slower.
        baseline: The one that is good enough, see `find_baseline`.
        folder: Where baselines are, or None.
        budget_ms: What the candidate's median must keep to as well, or None.
        rounds: How often to measure each at most; by default as often as `pocketgan gate`.
        measure: Measures a bundle in a fresh process.
        watching: Makes what looks at the machine meanwhile, or None.

    Raises:
        NotMeasuredError: No such bundle, or none for this machine; the message says why.
    """
    try:
        old = find_baseline(baseline, candidate, folder)
        with alone(cache_folder()):
            report = gate(
                [Pair(name, old, candidate)],
                measure,
                rounds=LOOKS[-1] if rounds is None else rounds,
                known_spread=spread_of(None, this_machine()),
                watching=watching,
            )
    except (DeviceError, ValueError, OSError) as error:
        raise NotMeasuredError(str(error)) from error
    return report if budget_ms is None else within_budget(report, budget_ms)


def find_baseline(named: str | Path, candidate: Path, folder: Path | None) -> Path:
    """The bundle that a test named: a path, one in the folder of baselines, or ``store:NAME``.

    Raises:
        BundleError: The candidate, or what the store holds, is damaged.
        ValueError: There is none; the message says how to get one.
    """
    if str(named).startswith(PREFIX):
        if folder is None:
            raise ValueError(
                f"where is {named}? Name the folder of the store, --latency-baseline DIR"
            )
        device = read_sealed(candidate).profile.name
        found = Store(folder).baseline(str(named).removeprefix(PREFIX), device)
        if found is None:
            raise ValueError(
                f"nothing was accepted as {named} for {device} in {folder} yet; accept a bundle "
                f"that is good enough: pocketgan gate --accept --baseline {named} "
                f"--candidate {candidate} --store {folder}"
            )
        return found
    places = [Path(named), *([folder / named] if folder else [])]
    for place in places:
        if (place / MANIFEST).is_file():
            return place
    looked = " nor ".join(str(place) for place in places)
    advice = "keep one there" if folder else "name the folder it is in, --latency-baseline DIR"
    raise ValueError(f"there is no baseline, no bundle at {looked}; {advice}")


def within_budget(report: GateReport, budget_ms: float) -> GateReport:
    """The report, with the candidate's median judged against a limit as well.

    As `pocketgan check` does it: the 99 % bound must be within the budget, not only the estimate.
    The samples are the medians of the rounds, which are independent, a process each. A machine that
    throttled or changed says nothing of a budget either.
    """
    runs = [once for pair in report.pairs for once in pair.candidate]
    moved = any(differences(runs[0].machine, once.machine) for once in runs)
    p50 = percentile([once.value("steady") for once in runs], 50)
    if moved or report.unsteady:
        return report
    if p50 is None or p50.upper_ms <= budget_ms:
        return report
    over = p50.value_ms > budget_ms
    but = "" if over else f" but may be {p50.upper_ms:.2f} ms"
    reason = f"the median is {p50.value_ms:.2f} ms{but}, the budget is {budget_ms:g} ms"
    update: dict[str, object] = {"reasons": (*report.reasons, reason)}
    if report.verdict == "pass" or (over and report.verdict == "inconclusive"):
        verdict = "slower" if over else "inconclusive"
        update = {"verdict": verdict, "reasons": (reason, *report.reasons)}
    return report.model_copy(update=update)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Wait until no other gate measures: they would measure each other.

    Args:
        folder: Where the lock is; made if it is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        with hold(folder / "latency-gate.lock", wait=False) as held:
            if held:
                yield
                return
        time.sleep(LOCK_POLL_S)


def file_name(test: str, began_s: float) -> str:
    """A name for the report of a gate: readable, short enough, and no other gate's.

    Args:
        test: Node id of its test.
        began_s: When it began, seconds since the epoch.
    """
    readable = re.sub(r"[^A-Za-z0-9]+", "-", test)[-80:].strip("-")
    return f"{readable}-{hashlib.sha256(f'{test}|{began_s}'.encode()).hexdigest()[:8]}.json"
