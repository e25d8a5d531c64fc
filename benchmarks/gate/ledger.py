"""What a campaign writes of its gates and their processes, and the table of all of it."""

from __future__ import annotations

import gzip
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from devices.gate.judge import Verdict
from devices.gate.lines import append_lines, read_lines
from devices.gate.rates import at_least, at_most
from devices.profile import Frozen

Kind = Literal["idle-aa", "busy-aa", "idle-slow", "busy-slow"]
KINDS: tuple[Kind, ...] = ("idle-aa", "busy-aa", "idle-slow", "busy-slow")

GATES = "gates.jsonl"
RAW = "raw"

LIMIT_S = 60
"""A gate should not take longer."""


class Process(Frozen):
    """One fresh process of a gate.

    Attributes:
        gate: Number of the gate.
        condition: ``idle`` or ``busy``.
        side: ``baseline`` or ``candidate``.
        work: Units of extra work beside each image.
        at_s: When it began, in seconds since the campaign did.
        took_s: How long it lived, its start and end included.
        samples_ms: Every image after the warm-up, in order.
        cold_ms: From the start of the process to the end of its first image.
        load_ms: Of that, opening the session.
        first_ms: Of that, the first image.
    """

    gate: int
    kind: Kind
    condition: str
    side: str
    work: int
    at_s: float
    took_s: float
    samples_ms: tuple[float, ...]
    cold_ms: float
    load_ms: float
    first_ms: float
    peak_rss_mib: float


class Neighbours(Frozen):
    """Who else used the processor during a gate, in cores on average.

    Attributes:
        before: Others than the campaign, in the half second before.
        others: Others than the campaign and its neighbour, meanwhile; the host of a virtual
            machine counts as one of them.
        steal: Of that, what the host took.
        own: The campaign's neighbour; None without one.
    """

    before: float
    others: float
    steal: float
    own: float | None


class Numbers(Frozen):
    """What a gate says of the latency, as in its judgement.

    Attributes:
        slowdown: The gate's estimate.
        injected: How much slower the candidate was, by the median over all rounds.
        baseline_ms: Median of the medians of the baseline.
    """

    slowdown: float
    upper: float | None
    p_value: float
    spread: float
    visible: float | None
    injected: float
    baseline_ms: float


class GateLine(Frozen):
    """One gate.

    Attributes:
        verdict: ``failed`` where a process failed; ``reason`` has its words then.
        called: What was called slower: ``steady``, ``cold``, ``memory``.
        at_s: When it began, in seconds since the campaign did.
        rounds: How many it took.
        units: Extra work of the candidate beside each image.
        numbers: None where a process failed.
    """

    schema_version: Literal[1] = 1
    gate: int
    kind: Kind
    verdict: Verdict | Literal["failed"]
    reason: str
    called: tuple[str, ...]
    at_s: float
    rounds: int
    seconds: float
    units: int
    numbers: Numbers | None
    neighbours: Neighbours


def add_gate(out: Path, line: GateLine, processes: Sequence[Process]) -> None:
    """Write a gate down; its processes first, so that no line is without them."""
    path = raw_file(out, line.gate, line.kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with gzip.open(part, "wt") as file:
        file.writelines(one.model_dump_json() + "\n" for one in processes)
    part.replace(path)
    append_lines(out / GATES, [line.model_dump_json()])


def gates_in(out: Path) -> list[GateLine]:
    """All gates of a campaign, in order."""
    return [GateLine.model_validate_json(line) for line in read_lines(out / GATES)]


def processes_of(out: Path, line: GateLine) -> Iterator[Process]:
    """What one gate measured, in the order it ran."""
    with gzip.open(raw_file(out, line.gate, line.kind), "rt") as file:
        for text in file:
            yield Process.model_validate_json(text)


def raw_file(out: Path, gate: int, kind: Kind) -> Path:
    """Where the processes of a gate are."""
    return out / RAW / f"{gate:04d}-{kind}.jsonl.gz"


def said(line: GateLine) -> str:
    """One gate in one line, for who looks on."""
    injected = f", really {line.numbers.injected:+.1%}" if line.numbers else ""
    return (
        f"{line.gate:4d} {line.kind:9} {line.verdict:12} {line.rounds:2d} rounds "
        f"{line.seconds:5.1f} s  others {line.neighbours.others:.2f} cores{injected}; {line.reason}"
    )


def table(lines: Sequence[GateLine]) -> str:
    """All kinds, in Markdown: what the gate said, how sure that is, how long it took."""
    parts = [_of_kind(kind, [line for line in lines if line.kind == kind]) for kind in KINDS]
    head = (
        "| kind | gates | slower | pass | inconclusive | failed | seconds: median, 95 %, most | "
        "over 60 s | really slower: median (quartiles) | others' cores: median, 95 %, most |\n"
        "|---|---|---|---|---|---|---|---|---|---|"
    )
    equal = [line for line in lines if line.kind.endswith("aa")]
    alarms = [line for line in equal if line.verdict == "slower"]
    sentences = []
    if equal:
        sentences.append(
            f"False alarms: {_share(alarms, equal)}, at most "
            f"{at_most(len(alarms), len(equal)):.2%} with 95 % confidence."
        )
    for kind in ("idle-slow", "busy-slow"):
        slow = [line for line in lines if line.kind == kind]
        caught = [line for line in slow if line.verdict == "slower"]
        missed = [line for line in slow if line.verdict == "pass"]
        if slow:
            sentences.append(
                f"{kind}: caught {_share(caught, slow)}, at least "
                f"{at_least(len(caught), len(slow)):.1%} with 95 % confidence; passed "
                f"{_share(missed, slow)}, at most {at_most(len(missed), len(slow)):.1%}."
            )
    sentences += [
        f"Alarm in gate {line.gate} ({line.kind}, {', '.join(line.called)}): {line.reason}."
        for line in alarms
    ]
    return "\n".join([head, *filter(None, parts), "", *sentences])


def _of_kind(kind: Kind, lines: Sequence[GateLine]) -> str:
    if not lines:
        return ""
    verdicts = [line.verdict for line in lines]
    seconds = [line.seconds for line in lines]
    injected = [line.numbers.injected for line in lines if line.numbers]
    others = [line.neighbours.others for line in lines]
    cells = [
        kind,
        str(len(lines)),
        *(str(verdicts.count(one)) for one in ("slower", "pass", "inconclusive", "failed")),
        f"{statistics.median(seconds):.1f}, {np.percentile(seconds, 95):.1f}, {max(seconds):.1f}",
        str(sum(one > LIMIT_S for one in seconds)),
        _quartiles(injected),
        f"{statistics.median(others):.2f}, {np.percentile(others, 95):.2f}, {max(others):.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def _quartiles(values: Sequence[float]) -> str:
    if not values:
        return "-"
    low, middle, high = np.percentile(values, (25, 50, 75))
    return f"{middle:+.1%} ({low:+.1%} to {high:+.1%})"


def _share(some: Sequence[GateLine], of: Sequence[GateLine]) -> str:
    return f"{len(some)} of {len(of)} ({len(some) / len(of):.1%})"
