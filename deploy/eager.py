"""The teacher in PyTorch eager, as a runner to measure beside the engines.

deploy has no torch, so the teacher lives in a process of its own and answers counts with samples.
"""

from __future__ import annotations

import contextlib
import json
import logging
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

log = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "compress.eager")
PATIENCE_S = 120.0
"""Longest wait for one answer: importing torch on a slow board, or a slow teacher."""


class EagerError(RuntimeError):
    """The teacher's process did not do what it was asked."""


@contextlib.contextmanager
def eager_teacher(
    export: Path,
    *,
    threads: int,
    image_size: int,
    command: Sequence[str] = COMMAND,
    patience_s: float = PATIENCE_S,
) -> Iterator[Callable[[int], list[float]] | None]:
    """Start the teacher; gives a runner, or None where it cannot start (no torch, say).

    Args:
        export: The student export, which holds the teacher.
        threads: CPU threads it may use.
        image_size: Height and width of its image, in pixels.
        command: Prints ``ready``, then answers each line ``N`` with one line of JSON: N samples in
            milliseconds, after a warm-up of its own.
        patience_s: Longest wait for one answer, in seconds.

    Raises:
        EagerError: From the runner: the process ended, is silent, or does not answer in samples.
    """
    arguments = [str(export), "--threads", str(threads), "--image-size", str(image_size)]
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                [*command, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        except OSError as error:
            log.info("the teacher is not measured: %s", error)
            yield None
            return
        with process:
            try:
                if _answer(process, patience_s) != "ready":
                    process.kill()
                    log.info("the teacher is not measured: %s", _last_line(errors))
                    yield None
                    return
                yield lambda count: _samples(process, count, patience_s, errors)
            finally:
                process.kill()  # it ends with its input too, but perhaps not now


def _samples(
    process: subprocess.Popen[str], count: int, patience_s: float, errors: IO[bytes]
) -> list[float]:
    assert process.stdin is not None
    answer = ""
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(f"{count}\n")
        process.stdin.flush()
        answer = _answer(process, patience_s)
    if not answer:
        raise EagerError(f"the teacher stopped while it was measured: {_last_line(errors)}")
    try:
        samples = [float(sample) for sample in json.loads(answer)]
    except (ValueError, TypeError) as error:
        raise EagerError(f"the teacher answered {answer!r}, not {count} samples") from error
    if len(samples) != count:
        raise EagerError(f"the teacher answered {len(samples)} samples, not {count}")
    return samples


def _answer(process: subprocess.Popen[str], patience_s: float) -> str:
    """The next line, or nothing where the process ended; one that is silent for long is ended."""
    assert process.stdout is not None
    alarm = threading.Timer(patience_s, process.kill)
    alarm.start()
    try:
        return process.stdout.readline().strip()
    finally:
        alarm.cancel()


def _last_line(errors: IO[bytes]) -> str:
    errors.seek(0)
    lines = errors.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"
