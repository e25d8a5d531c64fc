"""A check as JUnit XML, which CI systems show as tests: one for each promise of the profile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from xml.etree import ElementTree

from devices.budget import NONE_FAILED, WORDS, BudgetVerdict, Checked, Promise
from devices.reporting.table import facts
from devices.reporting.xunit import case_in, clean, document, outcome, said, suite_in, written
from devices.showing import machine_line


def junit(checks: Sequence[Checked], failed: Mapping[str, str] = NONE_FAILED) -> str:
    """One suite for each check, or for what could not be measured.

    A broken promise is a failure, one that cannot be judged an error, and one for which there were
    too few images is skipped. Where nothing else says why a check does not pass, the machine does:
    the last test of each suite is that it was still.

    Args:
        checks: What was measured.
        failed: Titles of what could not be measured, and why.
    """
    root = document("pocketgan check")
    for checked in checks:
        _suite(root, checked)
    for title, why in failed.items():
        case = case_in(suite_in(root, title), "pocketgan.check", "measured")
        outcome(case, "error", why)
    return written(root)


def _suite(root: ElementTree.Element, checked: Checked) -> None:
    report = checked.report
    suite = suite_in(root, checked.title)
    properties = ElementTree.SubElement(suite, "properties")
    told = {
        "verdict": WORDS[checked.verdict.verdict],
        "budget of": checked.budget_of,
        "images": str(len(report.samples_ms)),
        "machine": machine_line(report.machine),
        "engine": f"{report.backend} {report.precision}",
        "engine sha256": report.engine_sha256,
        **facts(checked),
    }
    for name, value in told.items():
        ElementTree.SubElement(properties, "property", name=name, value=clean(value))
    where = f"pocketgan.check.{report.profile}"
    for promise in checked.verdict.promises:
        _case(suite, where, promise, checked.verdict)
    still = case_in(suite, where, "the machine is still")
    if checked.verdict.disturbed:
        outcome(still, "error", "; ".join(checked.verdict.disturbed))
    seconds = sum(report.samples_ms) / 1e3
    suite.set("time", f"{seconds:.3f}")
    suite.set("timestamp", f"{report.started_at:%Y-%m-%dT%H:%M:%S}")


def _case(suite: ElementTree.Element, where: str, promise: Promise, verdict: BudgetVerdict) -> None:
    name = f"{promise.name} within {promise.limit:g} {promise.unit}"
    case = case_in(suite, where, name)
    if promise.verdict is None:
        # what no promise could be judged for is no pass, and must not look like one
        outcome(case, "skipped" if verdict.verdict == "pass" else "error", promise.reason)
    elif promise.verdict == "over":
        outcome(case, "failure", promise.reason)
    elif promise.verdict == "inconclusive":
        outcome(case, "error", promise.reason or "the machine was not still")
    if promise.value is not None and promise.upper is not None:
        said(
            case,
            f"measured {promise.value:.2f} {promise.unit}, "
            f"at most {promise.upper:.2f} with 99 % confidence"
            if promise.unit == "ms"
            else f"measured {promise.value:.2f} {promise.unit}",
        )
