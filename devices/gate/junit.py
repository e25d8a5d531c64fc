"""A gate as JUnit XML, which CI systems show as tests: one for each question of each pair."""

from __future__ import annotations

from xml.etree import ElementTree

from devices.gate.report import GateReport, PairReport
from devices.gate.table import answers, facts, headline, images_line
from devices.reporting.junit import clean


def junit(report: GateReport) -> str:
    """One suite for each pair, and one with the verdict over all of them.

    What grew is a failure. A latency that these rounds cannot judge is an error; a cold start or
    memory that they cannot judge is skipped, for the gate passes without them. The verdict is a
    test of its own, because the machine may decide it: a throttled one makes it an error.
    """
    root = ElementTree.Element("testsuites", name="pocketgan gate")
    suite = _suite(root, "verdict", 1)
    case = _case(suite, "verdict", "the gate passes")
    if report.verdict != "pass":
        tag = "failure" if report.verdict == "slower" else "error"
        _outcome(case, tag, "; ".join([headline(report), *report.reasons[1:]]))
    said = ElementTree.SubElement(case, "system-out")
    said.text = clean("\n".join(f"{name}: {fact}" for name, fact in facts(report).items()))
    suite.set("time", f"{report.seconds:.3f}")
    for pair in report.pairs:
        _pair(root, pair)
    return _written(root)


def not_compared(name: str, why: str) -> str:
    """A gate without a baseline: one test, which was skipped."""
    root = ElementTree.Element("testsuites", name="pocketgan gate")
    case = _case(_suite(root, name, 1), name, "the gate passes")
    _outcome(case, "skipped", why)
    return _written(root)


def _pair(root: ElementTree.Element, pair: PairReport) -> None:
    suite = _suite(root, pair.name, len(pair.cells) + 1)
    for answer, cell in zip(answers(pair), pair.cells, strict=True):
        case = _case(suite, pair.name, f"{answer.name} within {answer.floor} of the baseline")
        if answer.verdict == "slower":
            _outcome(case, "failure", cell.judgement.reason)
        elif answer.verdict == "inconclusive":
            tag = "error" if cell.measured == "steady" else "skipped"
            _outcome(case, tag, cell.judgement.reason)
        said = ElementTree.SubElement(case, "system-out")
        said.text = f"{answer.before} to {answer.after} ({answer.change})"
    case = _case(suite, pair.name, "images as good as the baseline's")
    if pair.images and pair.images.worse:
        _outcome(case, "failure", pair.images.worse)
    said = ElementTree.SubElement(case, "system-out")
    said.text = clean(images_line(pair.images))


def _suite(root: ElementTree.Element, name: str, tests: int) -> ElementTree.Element:
    return ElementTree.SubElement(root, "testsuite", name=clean(name), tests=str(tests))


def _case(suite: ElementTree.Element, pair: str, name: str) -> ElementTree.Element:
    where = clean(f"pocketgan.gate.{pair}")
    return ElementTree.SubElement(suite, "testcase", classname=where, name=name)


def _outcome(case: ElementTree.Element, tag: str, why: str) -> None:
    ElementTree.SubElement(case, tag, message=clean(why))


def _written(root: ElementTree.Element) -> str:
    for suite in root:
        for key, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            suite.set(key, str(len(suite.findall(f"testcase/{tag}"))))
    ElementTree.indent(root)
    text: str = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'
