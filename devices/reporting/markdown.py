"""A check as Markdown, for a pull request or the summary of a CI job."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from devices.budget import NONE_FAILED, WORDS, Checked
from devices.reporting.table import HEADERS, facts, rows, verdict_line
from devices.showing import machine_line

UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
SPECIAL = re.compile(r"([\\`*_{}\[\]<>|~#])")


def markdown(checks: Sequence[Checked], failed: Mapping[str, str] = NONE_FAILED) -> str:
    """One section for each check: verdict, reasons, table, and the rest folded away.

    Args:
        checks: What was measured.
        failed: Titles of what could not be measured, and why.
    """
    sections = [_section(checked) for checked in checks]
    sections += [f"### {plain(title)}: failed\n\n- {plain(why)}\n" for title, why in failed.items()]
    return "\n".join(sections)


def plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line: nothing in it is a link, a cell or HTML."""
    line = UNPRINTABLE.sub("?", " ".join(text.split()))
    return SPECIAL.sub(r"\\\1", line)


def _section(checked: Checked) -> str:
    report = checked.report
    lines = [
        f"### {plain(checked.title)}: {WORDS[checked.verdict.verdict]}",
        "",
        f"**{plain(verdict_line(checked))}**",
        "",
        *(f"- {plain(reason)}" for reason in checked.verdict.reasons),
    ]
    if checked.verdict.reasons:
        lines.append("")
    lines += [
        table_line(f"{len(report.samples_ms)} images", *HEADERS, ""),
        table_line("---", *["---:"] * len(HEADERS), "---"),
        *(table_line(row.name, *row.cells, plain(row.note)) for row in rows(checked)),
        "",
        "Milliseconds an image: the estimate, and what it is at most with 99 % confidence if "
        "images were independent; how many independent ones they count as.",
        "",
        "<details><summary>cold start, memory, machine</summary>",
        "",
        table_line("", ""),
        table_line("---", "---"),
        *(table_line(name, plain(fact)) for name, fact in facts(checked).items()),
        table_line("machine", plain(machine_line(report.machine))),
        table_line("engine", plain(f"{report.backend} {report.precision}, {report.engine_sha256}")),
        table_line("measured", f"{report.started_at:%Y-%m-%d %H:%M:%S %Z}"),
        "",
        "</details>",
        "",
    ]
    return "\n".join(lines)


def table_line(*cells: str) -> str:
    """A line of a table, of cells that are `plain`."""
    return f"| {' | '.join(cells)} |"
