"""A histogram of latencies in lines of text."""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence

import numpy as np

EIGHTHS = "\u258f\u258e\u258d\u258c\u258b\u258a\u2589\u2588"
"""Blocks of one to eight eighths of a character."""

ASCII = "#"

BARS = 12
"""About so many bars, before the tail; a terminal has 24 lines."""

LONGEST = 60
"""Longer bars are harder to compare, not easier."""

SHORTEST = 10

BODY_PERCENT = 97
"""What lies above this percentile is the tail: one slow image in a thousand would otherwise press
all others into the first bar."""


def blocks_for(encoding: str) -> str:
    """The characters to draw with in a terminal of such an encoding."""
    try:
        EIGHTHS.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return EIGHTHS


def histogram(
    samples_ms: Sequence[float], *, marks: Mapping[str, float], width: int, blocks: str = ASCII
) -> list[str]:
    """Draw latencies, one bar a line, the slowest gathered in the last.

    Args:
        samples_ms: At least one.
        marks: Names to write behind the bar in which their milliseconds lie; those beyond the
            slowest image are written under the last bar.
        width: Columns a line may take; 40 or more.
        blocks: What to draw with, from the smallest part of a character to the whole.
    """
    edges = _edges(samples_ms)
    counts = _counts(samples_ms, edges)
    slowest = max(samples_ms)
    tail = slowest >= edges[-1]
    labels = _labels(edges, tail)
    beyond = {name: at for name, at in marks.items() if at > slowest and at >= edges[-1]}
    names: list[list[str]] = [[] for _ in counts]
    for name, at in marks.items():
        if name not in beyond:
            names[min(_bar_of(at, edges), len(counts) - 1)].append(name)
    if tail:
        names[-1].append(f"up to {slowest:.1f} ms")
    notes = [
        f"{count}  {', '.join(found)}" if found else str(count)
        for count, found in zip(counts, names, strict=True)
    ]
    room = width - len(labels[0]) - max(map(len, notes)) - 2
    longest = max(SHORTEST, min(LONGEST, room))
    most = max(counts)
    lines = [
        f"{label} {_bar(count / most * longest, blocks)} {note}"
        for label, count, note in zip(labels, counts, notes, strict=True)
    ]
    if beyond:
        lines.append("beyond: " + ", ".join(f"{name} {at:g} ms" for name, at in beyond.items()))
    return lines


def _edges(samples_ms: Sequence[float]) -> list[float]:
    """Edges of the bars below the tail, at round numbers: one more than there are bars."""
    low = min(samples_ms)
    body = float(np.percentile(samples_ms, BODY_PERCENT))
    step = _round_up(max(body - low, low * 1e-3, 1e-6) / BARS)
    first = math.floor(low / step)
    # the body ends inside the last bar
    last = max(math.floor(body / step), first) + 1
    return [round(number * step, 9) for number in range(first, last + 1)]


def _round_up(step: float) -> float:
    """The next of 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(times * power for times in (1, 2, 5, 10) if times * power >= step * (1 - 1e-9))


def _bar_of(at: float, edges: Sequence[float]) -> int:
    """Which bar a latency is in; the one after the last edge is the tail."""
    return max(0, bisect.bisect_right(edges, at) - 1)


def _counts(samples_ms: Sequence[float], edges: Sequence[float]) -> list[int]:
    counts = [0] * len(edges)
    for sample in samples_ms:
        counts[_bar_of(sample, edges)] += 1
    return counts if counts[-1] else counts[:-1]


def _labels(edges: Sequence[float], tail: bool) -> list[str]:
    """Where each bar begins, in milliseconds, as short as tells them apart and equally wide."""
    digits = max(0, -math.floor(math.log10(edges[1] - edges[0]) + 1e-9))
    begins = [f"{edge:.{digits}f} ms" for edge in edges]
    labels = [*begins[:-1], *([f"> {begins[-1]}"] if tail else [])]
    wide = max(map(len, labels))
    return [label.rjust(wide) for label in labels]


def _bar(length: float, blocks: str) -> str:
    """A bar of so many characters; what is not nothing is never drawn as nothing."""
    if length <= 0:
        return ""
    parts = len(blocks)
    whole, rest = divmod(max(1, round(length * parts)), parts)
    return blocks[-1] * whole + (blocks[rest - 1] if rest else "")
