"""A check as JUnit XML, which CI systems show as tests: one for each promise of the profile."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree

from devices.budget import NONE_FAILED, WORDS, BudgetVerdict, Checked, Promise
from devices.reporting.table import facts
from devices.showing import machine_line

FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 allows in no document, not even escaped (section 2.2)."""


def junit(checks: Sequence[Checked], failed: Mapping[str, str] = NONE_FAILED) -> str:
    """One suite for each check, or for what could not be measured.

    A broken promise is a failure, one that cannot be judged an error, and one for which there were
    too few images is skipped. Where nothing else says why a check does not pass, the machine does:
    the last test of each suite is that it was still.

    Args:
        checks: What was measured.
        failed: Titles of what could not be measured, and why.
    """
    root = ElementTree.Element("testsuites", name="pocketgan check")
    for checked in checks:
        _suite(root, checked)
    for title, why in failed.items():
        suite = ElementTree.SubElement(root, "testsuite", name=clean(title))
        _outcome(_test(suite, "pocketgan.check", "measured"), "error", why)
        _count(suite)
    ElementTree.indent(root)
    text: str = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def clean(text: str) -> str:
    """Text without what XML cannot hold: a board's name may have any byte in it."""
    return FORBIDDEN.sub("\ufffd", text)


def _suite(root: ElementTree.Element, checked: Checked) -> None:
    report = checked.report
    suite = ElementTree.SubElement(root, "testsuite", name=clean(checked.title))
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
    where = clean(f"pocketgan.check.{report.profile}")
    for promise in checked.verdict.promises:
        _case(suite, where, promise, checked.verdict)
    still = _test(suite, where, "the machine is still")
    if checked.verdict.disturbed:
        _outcome(still, "error", "; ".join(checked.verdict.disturbed))
    _count(suite)
    seconds = sum(report.samples_ms) / 1e3
    suite.set("time", f"{seconds:.3f}")
    suite.set("timestamp", f"{report.started_at:%Y-%m-%dT%H:%M:%S}")


def _case(suite: ElementTree.Element, where: str, promise: Promise, verdict: BudgetVerdict) -> None:
    name = f"{promise.name} within {promise.limit:g} {promise.unit}"
    case = _test(suite, where, name)
    if promise.verdict is None:
        # what no promise could be judged for is no pass, and must not look like one
        _outcome(case, "skipped" if verdict.verdict == "pass" else "error", promise.reason)
    elif promise.verdict == "over":
        _outcome(case, "failure", promise.reason)
    elif promise.verdict == "inconclusive":
        _outcome(case, "error", promise.reason or "the machine was not still")
    if promise.value is not None and promise.upper is not None:
        said = ElementTree.SubElement(case, "system-out")
        said.text = clean(
            f"measured {promise.value:.2f} {promise.unit}, "
            f"at most {promise.upper:.2f} with 99 % confidence"
            if promise.unit == "ms"
            else f"measured {promise.value:.2f} {promise.unit}"
        )


def _test(suite: ElementTree.Element, where: str, name: str) -> ElementTree.Element:
    return ElementTree.SubElement(suite, "testcase", classname=where, name=name)


def _count(suite: ElementTree.Element) -> None:
    suite.set("tests", str(len(suite.findall("testcase"))))
    for key, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(key, str(len(suite.findall(f"testcase/{tag}"))))


def _outcome(case: ElementTree.Element, tag: str, why: str) -> None:
    ElementTree.SubElement(case, tag, message=clean(why))
