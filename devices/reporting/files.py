"""Write checks to the files that a user asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from devices.budget import NONE_FAILED, Checked
from devices.reporting.junit import junit
from devices.reporting.markdown import markdown


def write_reports(
    checks: Sequence[Checked],
    failed: Mapping[str, str] = NONE_FAILED,
    *,
    to_markdown: Path | None,
    to_junit: Path | None,
) -> None:
    """Write Markdown and JUnit XML, each where it has a file.

    Args:
        checks: What was measured.
        failed: Titles of what could not be measured, and why.
        to_markdown: For people.
        to_junit: For a CI system.
    """
    if to_markdown is not None:
        to_markdown.write_text(markdown(checks, failed), encoding="utf-8")
    if to_junit is not None:
        to_junit.write_text(junit(checks, failed), encoding="utf-8")
