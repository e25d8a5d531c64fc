"""What a machine has shown before: steady latencies, and how far equal engines seemed apart.

One file of JSON lines per machine, named after its fingerprint. Lines are only ever added, so that
several gates may write at once and a file that was cut off loses its last line at most.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import (
    AwareDatetime,
    Field,
    FiniteFloat,
    PositiveFloat,
    PositiveInt,
    TypeAdapter,
    ValidationError,
)

from devices.gate.lines import append_lines, read_lines
from devices.gate.report import PairReport
from devices.profile import Frozen
from devices.sealed import SealedEngine

log = logging.getLogger(__name__)

HISTORY_VARIABLE = "POCKETGAN_HISTORY"

SCHEMA_VERSION = 1

ENOUGH = 8
"""Entries below which a quartile says little."""

RECENT = 100
"""Entries that count: machines age, are updated and are moved."""

RUNS = 3
"""The smallest of so many processes stands for a measurement, as rustc-perf does it."""

DEFAULT_THRESHOLD = 0.1
"""Change that is worth a warning where little is known of a machine. Two runs on one hosted machine
differ by 2.66 % (one standard deviation, CodSpeed's blog); latencies of two days differ by more."""

Migration = Callable[[dict[str, Any]], dict[str, Any]]

MIGRATIONS: Mapping[int, Migration] = {}
"""From a version to the next one; the first version is still the only one."""


class Steady(Frozen):
    """Steady latency of one bundle, from one gate.

    Attributes:
        at: When.
        name: The job: what stays the same when the engine is made anew.
        engine_sha256: Digest of the engine file.
        profile: Name of the device profile.
        runtimes: Versions of the runtimes there were.
        medians_ms: Of each fresh process, in order, in milliseconds per image.
    """

    schema_version: Literal[1] = 1
    kind: Literal["steady"] = "steady"
    at: AwareDatetime
    name: str
    engine_sha256: str
    profile: str
    runtimes: dict[str, str]
    medians_ms: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)]


class Equal(Frozen):
    """How far an engine seemed slower than itself, by one gate.

    Attributes:
        at: When.
        engine_sha256: Digest of the engine file.
        profile: Name of the device profile.
        runtimes: Versions of the runtimes there were.
        slowdown: The gate's estimate; 0.01 is 1 % slower.
        rounds: What the gate took for it.
    """

    schema_version: Literal[1] = 1
    kind: Literal["equal"] = "equal"
    at: AwareDatetime
    engine_sha256: str
    profile: str
    runtimes: dict[str, str]
    slowdown: FiniteFloat
    rounds: PositiveInt


Entry = Steady | Equal

_READER: TypeAdapter[Entry] = TypeAdapter(Annotated[Entry, Field(discriminator="kind")])

E = TypeVar("E", Steady, Equal)


def alike(entries: Iterable[Entry], kind: type[E], runtimes: Mapping[str, str]) -> list[E]:
    """The latest entries of one kind that were measured with these runtimes, oldest first."""
    same = [one for one in entries if isinstance(one, kind) and one.runtimes == runtimes]
    return sorted(same, key=lambda one: one.at)[-RECENT:]


def known_spread(entries: Sequence[Entry], runtimes: Mapping[str, str]) -> float | None:
    """How far equal engines seem apart on a machine: the interquartile range of A/A estimates.

    Args:
        entries: Of this machine.
        runtimes: Versions that are installed; what others showed does not count.

    Returns:
        A fraction, 0.01 is 1 %; None where there are fewer than `ENOUGH` estimates.
    """
    estimates = [one.slowdown for one in alike(entries, Equal, runtimes)]
    if len(estimates) < ENOUGH:
        return None
    low, high = np.percentile(estimates, (25, 75))
    return float(high - low)


def warn_from_history(
    entries: Sequence[Entry], name: str, runtimes: Mapping[str, str], medians_ms: Sequence[float]
) -> str | None:
    """A warning where a job has become slower than its history lets expect.

    The rule of rustc-perf: the smallest of three processes is compared with the one before, and a
    change is worth a word above Q3 + 3 x IQR of the changes so far. Without a baseline engine
    nothing takes turns, so the machine's day is in the change too: a warning, never a verdict.

    Args:
        entries: Of this machine.
        name: The job.
        runtimes: Versions that are installed; a new runtime begins a new history.
        medians_ms: Of fresh processes, the first three count.

    Returns:
        A sentence, or None where nothing is to be said or nothing is known.

    Raises:
        ValueError: Fewer than three processes.
    """
    if len(medians_ms) < RUNS:
        raise ValueError(
            f"history compares the smallest of {RUNS} processes, got {len(medians_ms)}; "
            "measure more of them"
        )
    past = [
        min(one.medians_ms[:RUNS])
        for one in alike(entries, Steady, runtimes)
        if one.name == name and len(one.medians_ms) >= RUNS
    ]
    if not past:
        return None
    now_ms = min(medians_ms[:RUNS])
    change = now_ms / past[-1] - 1
    threshold, of = _threshold(past)
    if change <= threshold:
        return None
    return (
        f"{name} takes {now_ms:.2f} ms and took {past[-1]:.2f} ms before ({change:+.1%}); {of}. "
        "Compare it with the engine of then: pocketgan gate --baseline OLD --candidate NEW"
    )


def _threshold(past_ms: Sequence[float]) -> tuple[float, str]:
    """Change that is worth a word, and where it comes from."""
    changes = np.abs(np.diff(past_ms)) / np.asarray(past_ms[:-1])
    if len(changes) < ENOUGH:
        many = f"{len(changes)} earlier changes are too few to judge by"
        return DEFAULT_THRESHOLD, f"above {DEFAULT_THRESHOLD:.0%} is worth a word, {many}"
    first, third = np.percentile(changes, (25, 75))
    threshold = float(third + 3 * (third - first))
    return threshold, f"{len(changes)} earlier changes put the limit at {threshold:.1%}"


def steady_entries(
    pair: PairReport, baseline: SealedEngine, candidate: SealedEngine, at: datetime
) -> list[Steady]:
    """What a gate shows of both its bundles; one entry where they are the same engine.

    Args:
        pair: What was measured.
        baseline: What the baseline's manifest says.
        candidate: What the candidate's says.
        at: When the gate began.
    """
    sides = ((baseline, pair.baseline), (candidate, pair.candidate))
    entries = {
        sealed.sha256[sealed.engine_file]: Steady(
            at=at,
            name=pair.name,
            engine_sha256=sealed.sha256[sealed.engine_file],
            profile=sealed.profile.name,
            runtimes=runs[0].machine.runtimes,
            medians_ms=tuple(once.value("steady") for once in runs),
        )
        for sealed, runs in sides
    }
    return list(entries.values())


def equal_entry(pair: PairReport, sealed: SealedEngine, at: datetime) -> Equal:
    """What a gate shows that compared a bundle with itself.

    Args:
        pair: What was measured.
        sealed: What the bundle's manifest says.
        at: When the gate began.
    """
    judgement = pair.cell("steady")
    return Equal(
        at=at,
        engine_sha256=sealed.sha256[sealed.engine_file],
        profile=sealed.profile.name,
        runtimes=pair.baseline[0].machine.runtimes,
        slowdown=judgement.slowdown,
        rounds=judgement.rounds,
    )


def history_file(fingerprint: str, environ: Mapping[str, str] | None = None) -> Path:
    """Where the history of a machine is kept.

    In the folder ``POCKETGAN_HISTORY`` where that is set, else in ``pocketgan/latency`` of the
    user's state folder (``XDG_STATE_HOME``, by default ``~/.local/state``).

    Args:
        fingerprint: Of the machine (`devices.machine.Machine.fingerprint`).
        environ: Environment variables; by default those of this process.
    """
    environ = os.environ if environ is None else environ
    if given := environ.get(HISTORY_VARIABLE):
        return Path(given) / f"{fingerprint}.jsonl"
    state = environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "pocketgan" / "latency" / f"{fingerprint}.jsonl"


def recall(path: Path, migrations: Mapping[int, Migration] = MIGRATIONS) -> list[Entry]:
    """Read a history; empty where there is none yet.

    Lines that cannot be read are left out, with a warning: a gate must not fail because of an old
    line, and a line that was cut off says nothing.

    Args:
        path: The file.
        migrations: What makes an entry of each older version one of the next.
    """
    entries = []
    for number, line in enumerate(read_lines(path), start=1):
        try:
            entries.append(_entry(line, migrations))
        except ValueError as error:
            why = str(error).splitlines()[0]
            log.warning("%s line %d is left out: %s", path, number, why)
    return entries


def remember(path: Path, entries: Sequence[Entry]) -> None:
    """Add entries to a history, all or none.

    Raises:
        OSError: The file cannot be written.
    """
    append_lines(path, [entry.model_dump_json() for entry in entries])


def _entry(line: str, migrations: Mapping[int, Migration]) -> Entry:
    raw = json.loads(line)
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if not isinstance(version, int):
        raise ValueError("it has no schema_version")
    while version < SCHEMA_VERSION and version in migrations:
        raw = migrations[version](raw)
        version += 1
    if version != SCHEMA_VERSION:
        raise ValueError(f"its schema_version is {version}, this pocketgan reads {SCHEMA_VERSION}")
    try:
        return _READER.validate_json(json.dumps(raw | {"schema_version": version}))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{where}: {first['msg']}") from error
