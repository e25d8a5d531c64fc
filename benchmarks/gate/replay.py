"""What a machine once measured of one engine, played back to a rule as if it measured now.

A stream is one engine in fresh processes, one after the other, as they were recorded. A gate that
is played back begins at some process of it and takes the ones that follow, in the order in which
its rule runs its two sides; so drift, neighbours and what a process has in common with the next
stay as they were. After the last process comes the first again. The candidate is the same engine,
its times multiplied.
"""

from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float64]
Runs = Sequence[Samples]
"""Milliseconds of each image, of each process."""

Order = Literal["interleaved", "in turn", "stored"]
"""How a rule runs its sides: baseline and candidate by turns; first all of one, then all of the
other; or the baseline some minutes before, since its figures are those of an earlier run."""

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Process:
    """One fresh process.

    Attributes:
        at_s: When it began, in seconds from the beginning of the stream.
        took_s: How long it lived, its start included.
        samples_ms: Every image after the warm-up, in order, (n,).
        others_cores: How many processors others kept busy meanwhile.
    """

    at_s: float
    took_s: float
    samples_ms: Samples
    others_cores: float


@dataclass(frozen=True)
class Stream:
    """Processes of one engine in the order in which they ran, and what is told about them."""

    condition: str
    about: dict[str, Any]
    processes: tuple[Process, ...]

    @property
    def seconds(self) -> float:
        """From the first process to the end of the last."""
        return self.processes[-1].at_s + self.processes[-1].took_s


class Playback:
    """One gate on a recorded machine.

    Args:
        stream: What was recorded.
        start: The process to begin with, from 0.
        slowdown: How much slower the candidate is; 0.1 is 10 %.
    """

    def __init__(self, stream: Stream, start: int, slowdown: float) -> None:
        self._stream = stream
        self._at = start
        self._factor = 1 + slowdown
        self.processes = 0
        self.seconds = 0.0

    def baseline(self) -> Samples:
        """Milliseconds of the baseline's images, in the next process."""
        return self._next().samples_ms

    def candidate(self) -> Samples:
        """Milliseconds of the candidate's images, in the next process."""
        return self._next().samples_ms * self._factor

    def wait(self, seconds: float) -> None:
        """Let time pass in which others use the machine; it is not counted as spent."""
        passed = 0.0
        while passed < seconds:
            passed += self._take().took_s

    def _next(self) -> Process:
        process = self._take()
        self.processes += 1
        self.seconds += process.took_s
        return process

    def _take(self) -> Process:
        process = self._stream.processes[self._at % len(self._stream.processes)]
        self._at += 1
        return process


def both_sides(
    playback: Playback, order: Order, each: int, *, wait_s: float = 0.0
) -> tuple[list[Samples], list[Samples]]:
    """The baseline's and the candidate's processes, ``each`` of both, in the given order.

    Args:
        playback: The machine.
        order: See `Order`.
        each: Processes of each side.
        wait_s: Between a stored baseline and its candidate.
    """
    baseline: list[Samples] = []
    candidate: list[Samples] = []
    if order == "interleaved":
        for _ in range(each):
            baseline.append(playback.baseline())
            candidate.append(playback.candidate())
        return baseline, candidate
    baseline.extend(playback.baseline() for _ in range(each))
    if order == "stored":
        playback.wait(wait_s)
    candidate.extend(playback.candidate() for _ in range(each))
    return baseline, candidate


def write_stream(path: Path, stream: Stream) -> None:
    """Write a stream: a line about it, then a line for each process, compressed.

    Times of images are whole microseconds.
    """
    header = {"schema_version": SCHEMA_VERSION, "condition": stream.condition, **stream.about}
    lines = [header]
    for process in stream.processes:
        lines.append(
            {
                "at_s": round(process.at_s, 3),
                "took_s": round(process.took_s, 3),
                "others_cores": round(process.others_cores, 2),
                "samples_us": [round(1000 * float(one)) for one in process.samples_ms],
            }
        )
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    # no time stamp, so that the same stream is the same file
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


def read_stream(path: Path) -> Stream:
    """Read what `write_stream` wrote.

    Raises:
        ValueError: It is not such a file, or no process is in it.
    """
    try:
        lines = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
        header, *rest = lines
        version = header.pop("schema_version")
        condition = header.pop("condition")
        processes = tuple(
            Process(
                one["at_s"],
                one["took_s"],
                np.array(one["samples_us"], np.float64) / 1000,
                one["others_cores"],
            )
            for one in rest
        )
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no recorded noise ({error!r}); make one with record.py") from (
            error
        )
    if version != SCHEMA_VERSION:
        raise ValueError(f"{path} has schema_version {version}, this reads {SCHEMA_VERSION}")
    if not processes or any(len(one.samples_ms) == 0 for one in processes):
        raise ValueError(f"{path} has no process, or one without images; record it again")
    if any(b.at_s < a.at_s for a, b in itertools.pairwise(processes)):
        raise ValueError(f"{path} is not in the order in which it was recorded")
    return Stream(condition, header, processes)
