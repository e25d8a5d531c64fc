"""From bundles to one file of HTML."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from deploy.artifacts import Bundle
from deploy.evidence import read_evidence
from deploy.report.figures import Subject
from deploy.report.page import page
from deploy.report.tiles import Worst, worst_tiles
from devices.sealed import MANIFEST
from devices.session import DeviceError


def write_report(bundles: Sequence[Bundle], out: Path, *, private: bool = False) -> list[str]:
    """Write what is known of some bundles as a page that needs nothing beside it.

    Args:
        bundles: At least one; with several, a comparison comes first.
        out: An ``.html`` file, replaced when the new one is complete.
        private: Leave out the images.

    Returns:
        What had to be left out and why, one sentence each.

    Raises:
        ValueError: ``out`` is not an ``.html`` file, or lies in a bundle; or no bundle is given.
        BundleError: The evidence of a bundle cannot be read.
    """
    if not bundles:
        raise ValueError("a report is of at least one bundle, got none")
    if out.suffix != ".html":
        raise ValueError(f"a report is an .html file, got --out {out}")
    if (out.parent / MANIFEST).exists():
        raise ValueError(
            f"{out.parent} is a sealed bundle: write the report beside it, not into it"
        )
    left_out: list[str] = []
    subjects = [
        Subject(
            bundle=bundle,
            evidence=read_evidence(bundle),
            worst=None if private else _worst(bundle, left_out),
            anchor=f"bundle{index}",
            title=title,
        )
        for index, (bundle, title) in enumerate(zip(bundles, _titles(bundles), strict=True), 1)
    ]
    now = datetime.now(UTC)
    made = f"Made by pocketgan {metadata.version('pocketgan')} on {now:%Y-%m-%d}."
    absent = [*left_out, *(["images, as they are private"] if private else [])]
    if absent:
        made += f" Left out: {'; '.join(absent)}."
    _replace(out, page(subjects, made=made))
    return left_out


def _titles(bundles: Sequence[Bundle]) -> list[str]:
    titles = [f"{one.manifest.model.name} on {one.manifest.profile.name}" for one in bundles]
    return [
        title if titles.count(title) == 1 else f"{title} ({bundle.digest[:8]})"
        for title, bundle in zip(titles, bundles, strict=True)
    ]


def _worst(bundle: Bundle, left_out: list[str]) -> Worst | None:
    """The worst tiles; a machine that cannot run the engine can still show the numbers."""
    try:
        return worst_tiles(bundle)
    except DeviceError as error:
        left_out.append(f"images of {bundle.manifest.model.name}: {error}")
        return None


def _replace(out: Path, text: str) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{out.name}-", dir=out.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(name, 0o644)
        os.replace(name, out)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
