"""Whether a report that came over the network can be believed.

A board can be mistaken, out of date or in other hands. What it sends must be a report of the
engine that was sent, agree with itself, and fit into the time that passed here meanwhile.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from pydantic import ValidationError

from devices.check import PERCENTILES
from devices.latency import MODES, LatencyReport, ModeName
from devices.percentiles import percentile
from devices.profile import explain
from devices.remote.words import BoardError, one_line
from devices.sealed import SealedEngine

MAX_REPORT_BYTES = 32 * 2**20
"""The longest mode of an image that takes 0.1 ms writes about 12 MiB."""
MAX_TEXT = 1000
CLOSE = 1e-9


def believe(
    text: bytes,
    sealed: SealedEngine,
    mode: ModeName,
    *,
    architecture: str,
    wall_s: float,
) -> LatencyReport:
    """Read a report as the board wrote it, and check what can be checked from here.

    Args:
        text: JSON.
        sealed: What was to be measured.
        mode: How long it was to be measured.
        architecture: What the board said it is before.
        wall_s: Seconds that passed here while it measured.

    Raises:
        BoardError: It is no report, or says what cannot be; one line with the value.
    """
    try:
        report = LatencyReport.model_validate_json(text)
    except ValidationError as error:
        raise BoardError(f"its report is none: {_short(explain(error, LatencyReport))}") from None
    except RecursionError:
        raise BoardError("its report is none: nested too deep") from None
    wrong = next(_lies(report, sealed, mode, architecture, wall_s), None)
    if wrong is not None:
        raise BoardError(f"its report cannot be believed: {_short(wrong)}")
    return report


def _lies(
    report: LatencyReport, sealed: SealedEngine, mode: ModeName, architecture: str, wall_s: float
) -> Iterator[str]:
    expected: dict[str, object] = {
        "engine_sha256": sealed.sha256[sealed.engine_file],
        "profile": sealed.profile.name,
        "backend": sealed.backend,
        "precision": sealed.precision,
        "image_size": sealed.profile.image_size,
        "mode": mode,
    }
    for name, value in expected.items():
        got = getattr(report, name)
        if got != value:
            yield f"{name} is {got}, and {value} was asked for"
    for leaf in _leaves(report.model_dump()):
        if isinstance(leaf, float) and not math.isfinite(leaf):
            yield f"one of its numbers is {leaf}"
        if isinstance(leaf, str) and not (leaf.isprintable() and len(leaf) <= MAX_TEXT):
            yield f"one of its texts is not for people: {leaf[:40]!r}"
    if report.machine.architecture != architecture:
        yield f"it measured on {report.machine.architecture} and is {architecture}"
    if report.fingerprint != report.machine.fingerprint():
        yield f"fingerprint {report.fingerprint} is not that of the machine it describes"
    if not report.conditions.readings:
        yield "nobody looked at its clocks meanwhile"
    samples = report.samples_ms
    times = {"load_ms": report.load_ms, "first_ms": report.first_ms}
    times["samples_ms"] = min(samples, default=0.0)
    for name, value in times.items():
        if value <= 0:
            yield f"{name} has {value:g}, a time is more than 0"
    total_s = math.fsum((*samples, *report.cold_ms, report.load_ms, report.first_ms)) / 1e3
    if total_s > wall_s + 1:
        yield f"its images took {total_s:.1f} s together, and {wall_s:.1f} s passed here"
    wanted = MODES[mode]
    if len(samples) < wanted.min_samples and total_s < wanted.max_seconds / 2:
        yield f"it has {len(samples)} images, the mode {mode} wants {wanted.min_samples}"
    for percent in PERCENTILES:
        said, true = getattr(report, f"p{percent}"), percentile(samples, percent)
        if (said is None) != (true is None):
            yield f"p{percent} does not fit {len(samples)} images"
        elif said is not None and true is not None:
            for name in ("value_ms", "upper_ms"):
                one, other = getattr(said, name), getattr(true, name)
                if not math.isclose(one, other, rel_tol=CLOSE):
                    yield f"p{percent}.{name} is {one:g}, its own samples give {other:g}"


def _leaves(value: object) -> Iterator[object]:
    """Every value, and key, that holds no others, however deep."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield key
            yield from _leaves(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _leaves(each)
    else:
        yield value


def _short(text: str) -> str:
    return one_line(text.replace("\n", " "))
