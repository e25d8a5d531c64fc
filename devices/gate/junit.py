"""A gate as JUnit XML, which CI systems show as tests: one for each question of each pair."""

from __future__ import annotations

from xml.etree import ElementTree

from devices.gate.report import GateReport, PairReport
from devices.gate.table import answers, facts, headline, images_line
from devices.reporting.xunit import case_in, document, outcome, said, suite_in, written

SUITES = "pocketgan gate"


def junit(report: GateReport) -> str:
    """One suite for each pair, and one with the verdict over all of them.

    What grew is a failure. A latency that these rounds cannot judge is an error; a cold start or
    memory that they cannot judge is skipped, for the gate passes without them. The verdict is a
    test of its own, because the machine may decide it: a throttled one makes it an error.
    """
    root = document(SUITES)
    suite = suite_in(root, "verdict")
    case = _case(suite, "verdict", "the gate passes")
    if report.verdict != "pass":
        tag = "failure" if report.verdict == "slower" else "error"
        outcome(case, tag, "; ".join([headline(report), *report.reasons[1:]]))
    said(case, "\n".join(f"{name}: {fact}" for name, fact in facts(report).items()))
    suite.set("time", f"{report.seconds:.3f}")
    for pair in report.pairs:
        _pair(root, pair)
    return written(root)


def not_compared(name: str, why: str) -> str:
    """A gate without a baseline: one test, which was skipped."""
    root = document(SUITES)
    case = _case(suite_in(root, name), name, "the gate passes")
    outcome(case, "skipped", why)
    return written(root)


def _pair(root: ElementTree.Element, pair: PairReport) -> None:
    suite = suite_in(root, pair.name)
    for answer, cell in zip(answers(pair), pair.cells, strict=True):
        case = _case(suite, pair.name, f"{answer.name} within {answer.floor} of the baseline")
        if answer.verdict == "slower":
            outcome(case, "failure", cell.judgement.reason)
        elif answer.verdict == "inconclusive":
            tag = "error" if cell.measured == "steady" else "skipped"
            outcome(case, tag, cell.judgement.reason)
        said(case, f"{answer.before} to {answer.after} ({answer.change})")
    case = _case(suite, pair.name, "images as good as the baseline's")
    if pair.images and pair.images.worse:
        outcome(case, "failure", pair.images.worse)
    said(case, images_line(pair.images))


def _case(suite: ElementTree.Element, pair: str, name: str) -> ElementTree.Element:
    return case_in(suite, f"pocketgan.gate.{pair}", name)
