"""Hold a latency report against what a profile promises: kept, broken, or nobody can say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from devices.latency import LatencyReport
from devices.percentiles import Percentile, smallest_count
from devices.profile import DeviceProfile, LatencyBudget

Verdict = Literal["pass", "over", "inconclusive"]

Status = Literal[0, 1, 2]

EXIT_STATUS: dict[Verdict, Status] = {"pass": 0, "over": 1, "inconclusive": 2}

WORDS: dict[Verdict, str] = {
    "pass": "within the budget",
    "over": "over budget",
    "inconclusive": "cannot be judged",
}


NONE_FAILED: Mapping[str, str] = MappingProxyType({})
"""No title of what could not be measured."""


@dataclass(frozen=True)
class Promise:
    """One promise of a profile and what became of it.

    Attributes:
        name: ``p50``, ``p90``, ``p99`` or ``peak memory``.
        unit: ``ms`` or ``MiB``.
        limit: The most that was promised.
        value: What was measured; None where the images were too few.
        upper: What it may be, with 99 % confidence; the value itself for memory.
        verdict: Whether it was kept; None where there were too few images to judge it.
        reason: Why it does not pass; empty where it does.
    """

    name: str
    unit: str
    limit: float
    value: float | None
    upper: float | None
    verdict: Verdict | None
    reason: str = ""


@dataclass(frozen=True)
class BudgetVerdict:
    """What a report says of a budget.

    Attributes:
        verdict: Over where a promise was broken on a still machine; inconclusive where the machine
            was disturbed, or where no promise was broken and one could not be shown.
        promises: One by one.
        disturbed: Why nothing measured there can be believed; empty where the machine was still.
    """

    verdict: Verdict
    promises: tuple[Promise, ...]
    disturbed: tuple[str, ...] = ()

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it does not pass, a sentence each, the weightiest first."""
        judged = tuple(p.reason for p in self.promises if p.verdict is not None and p.reason)
        if self.disturbed or judged or self.verdict == "pass":
            return (*self.disturbed, *judged)
        return tuple(p.reason for p in self.promises if p.reason)

    @property
    def unjudged(self) -> tuple[str, ...]:
        """Promises for which there were too few images."""
        return tuple(p.name for p in self.promises if p.verdict is None)

    @property
    def exit_status(self) -> Status:
        """0 within the budget, 1 over it, 2 where these figures cannot say."""
        return EXIT_STATUS[self.verdict]


@dataclass(frozen=True)
class Checked:
    """A report, held against its profile.

    Attributes:
        title: What was checked, as the reader knows it: a bundle, or a bundle on a host.
        budget_of: Which row of which profile the budget is.
    """

    title: str
    report: LatencyReport
    verdict: BudgetVerdict
    budget_of: str


def judged(title: str, report: LatencyReport, profile: DeviceProfile) -> Checked:
    """Hold a report against its profile, in the power mode in which it was measured."""
    budget = profile.budget_in(report.power_mode)
    return Checked(
        title=title,
        report=report,
        verdict=judge_budget(report, budget, profile.memory_mib),
        budget_of=budget_row(profile, report.power_mode),
    )


def budget_row(profile: DeviceProfile, power_mode: str | None) -> str:
    """Which budget `DeviceProfile.budget_in` takes, in words."""
    if power_mode is None or not profile.power_modes:
        return profile.name
    if any(mode.name == power_mode and mode.budget for mode in profile.power_modes):
        return f"{profile.name} in power mode {power_mode}"
    why = f"{power_mode} has no budget of its own"
    return f"{profile.name} in its fastest power mode ({why})"


def judge_budget(report: LatencyReport, budget: LatencyBudget, memory_mib: float) -> BudgetVerdict:
    """Hold a report against a budget.

    The 99 % bound must be within the budget, not only the estimate: a promise is to be shown. An
    estimate over it is over; between the two, the figures cannot say. A percentile without enough
    images is not judged, and nothing is where the machine was disturbed: a throttled board is
    slow for a reason that is not the engine's, and a lucky one fast.
    """
    promises = (*_latencies(report, budget), _memory(report, memory_mib))
    disturbed = report.conditions.disturbed
    if disturbed:
        promises = tuple(
            replace(one, verdict="inconclusive") if one.verdict else one for one in promises
        )
    return BudgetVerdict(_verdict(promises), promises, disturbed)


def _verdict(promises: tuple[Promise, ...]) -> Verdict:
    verdicts = {one.verdict for one in promises}
    if "over" in verdicts:
        return "over"
    no_latency = all(one.verdict is None for one in promises if one.unit == "ms")
    return "inconclusive" if "inconclusive" in verdicts or no_latency else "pass"


def _latencies(report: LatencyReport, budget: LatencyBudget) -> Iterator[Promise]:
    for key, limit in budget:
        name = key.removesuffix("_ms")
        got: Percentile | None = getattr(report, name)
        if got is None:
            needed = smallest_count(int(name.removeprefix("p")))
            reason = f"{name} needs {needed} images, has {len(report.samples_ms)}"
            yield Promise(name, "ms", limit, None, None, None, reason)
            continue
        verdict: Verdict = "pass"
        reason = ""
        if got.value_ms > limit:
            verdict = "over"
            reason = f"{name} is {got.value_ms:.2f} ms, the budget is {limit:g} ms"
        elif got.upper_ms > limit:
            verdict = "inconclusive"
            reason = (
                f"{name} is {got.value_ms:.2f} ms but may be {got.upper_ms:.2f} ms, the budget is "
                f"{limit:g} ms: measure longer (--mode normal) or on a quieter machine"
            )
        yield Promise(name, "ms", limit, got.value_ms, got.upper_ms, verdict, reason)


def _memory(report: LatencyReport, memory_mib: float) -> Promise:
    peak = report.peak_rss_mib
    over = peak > memory_mib
    reason = f"peak memory is {peak:.0f} MiB, the budget is {memory_mib:g} MiB" if over else ""
    return Promise("peak memory", "MiB", memory_mib, peak, peak, "over" if over else "pass", reason)
