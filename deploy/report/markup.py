"""HTML and SVG as trees: what is text stays text, and every tag that opens closes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element, tostring

Node = Element | str
NONE = "-"
"""What a cell says where there is nothing to say; not shown where rows are lists."""


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        content: What it says.
        number: Whether it is set in figures, to the right.
    """

    content: str
    number: bool = False


def element(tag: str, attributes: Mapping[str, str] | None = None, *children: Node) -> Element:
    """One element with text and elements inside, in order."""
    made = Element(tag, dict(attributes or {}))
    add(made, children)
    return made


def add(parent: Element, children: Iterable[Node]) -> None:
    """Append text and elements."""
    for child in children:
        if isinstance(child, Element):
            parent.append(child)
        elif len(parent):
            parent[-1].tail = (parent[-1].tail or "") + child
        else:
            parent.text = (parent.text or "") + child


def table(
    caption: str,
    headers: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    *,
    stacked: bool = False,
    marked: int | None = None,
) -> Element:
    """A table whose first column names the rows.

    Args:
        caption: What it shows.
        headers: One for each column.
        rows: Equally many cells each.
        stacked: Whether each row becomes a list of its own on a narrow screen.
        marked: Index of the row to stand out, if any.
    """
    numbers = [False] * len(headers)
    body = element("tbody")
    for index, row in enumerate(rows):
        line = element("tr", {"class": "marked"} if index == marked else {})
        for column, (header, cell) in enumerate(zip(headers, row, strict=True)):
            numbers[column] |= cell.number
            kinds = ["number"] * cell.number + ["none"] * (cell.content == NONE)
            attributes = {"data-label": header} | ({"class": " ".join(kinds)} if kinds else {})
            first = {"scope": "row"} if column == 0 else {}
            line.append(element("td" if column else "th", attributes | first, cell.content))
        body.append(line)
    head = element("tr")
    for header, number in zip(headers, numbers, strict=True):
        attributes = {"scope": "col"} | ({"class": "number"} if number else {})
        head.append(element("th", attributes, header))
    return element(
        "table",
        {"class": "stacked"} if stacked else {},
        element("caption", {}, caption),
        element("thead", {}, head),
        body,
    )


def facts(pairs: Mapping[str, str]) -> Element:
    """Names and what they are, as a list of definitions."""
    made = element("dl")
    for name, fact in pairs.items():
        made.append(element("dt", {}, name))
        made.append(element("dd", {}, fact))
    return made


def document(title: str, style: str, body: Iterable[Node]) -> str:
    """A whole page; a browser that shows it asks no host for anything."""
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    page = element(
        "html",
        {"lang": "en"},
        element(
            "head",
            {},
            element("meta", {"charset": "utf-8"}),
            element("meta", {"http-equiv": "Content-Security-Policy", "content": policy}),
            element("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
            element("meta", {"name": "color-scheme", "content": "light dark"}),
            element("title", {}, title),
            element("style", {}, style),
        ),
        element("body", {}, element("main", {}, *body)),
    )
    return "<!DOCTYPE html>\n" + tostring(page, encoding="unicode", method="html") + "\n"
