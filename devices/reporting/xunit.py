"""JUnit XML, which CI systems show as tests: its elements, and text that it can hold."""

from __future__ import annotations

import re
from xml.etree import ElementTree

FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 allows in no document, not even escaped (section 2.2)."""


def document(name: str) -> ElementTree.Element:
    """A document without suites."""
    return ElementTree.Element("testsuites", name=name)


def suite_in(root: ElementTree.Element, name: str) -> ElementTree.Element:
    """A new suite of a document."""
    return ElementTree.SubElement(root, "testsuite", name=clean(name))


def case_in(suite: ElementTree.Element, where: str, name: str) -> ElementTree.Element:
    """A new test of a suite; it passes, as long as it has no `outcome`."""
    return ElementTree.SubElement(suite, "testcase", classname=clean(where), name=name)


def outcome(case: ElementTree.Element, tag: str, why: str) -> None:
    """Say that a test did not pass: ``failure``, ``error`` or ``skipped``."""
    ElementTree.SubElement(case, tag, message=clean(why))


def said(case: ElementTree.Element, text: str) -> None:
    """What a test printed."""
    ElementTree.SubElement(case, "system-out").text = clean(text)


def written(root: ElementTree.Element) -> str:
    """The document as text, its tests counted."""
    for suite in root:
        suite.set("tests", str(len(suite.findall("testcase"))))
        for key, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            suite.set(key, str(len(suite.findall(f"testcase/{tag}"))))
    ElementTree.indent(root)
    text: str = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def clean(text: str) -> str:
    """Text without what XML cannot hold: a board's name may have any byte in it."""
    return FORBIDDEN.sub("\ufffd", text)
