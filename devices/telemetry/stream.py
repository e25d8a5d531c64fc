"""A tool that prints a line again and again, and only its newest line matters."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Sequence

from devices.telemetry.reading import ReaderError

END_S = 2.0
"""How long a tool may take to end when asked; then it is killed."""

CHUNKS = 16
"""Pieces of 64 KiB to take at a time: a tool that never pauses must not hold up the watch."""


class LastLine:
    """Owns a running tool: starts it at the first read, ends it when closed.

    One process for the whole watch, because starting one for each look would take more of the
    processor than the look itself.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._command = tuple(command)
        self._process: subprocess.Popen[bytes] | None = None
        self._rest = b""

    def read(self) -> str | None:
        """The newest whole line since the last read, with its end; None where there is none yet.

        Raises:
            ReaderError: The tool cannot be started, or has ended.
        """
        process = self._process or self._start()
        assert process.stdout is not None  # opened as a pipe
        ended = False
        for _ in range(CHUNKS):
            try:
                chunk = os.read(process.stdout.fileno(), 1 << 16)
            except BlockingIOError:
                break
            if not chunk:
                ended = True
                break
            self._rest += chunk
        whole, newline, self._rest = self._rest.rpartition(b"\n")
        if newline:
            return (whole.rpartition(b"\n")[2] + newline).decode(errors="replace")
        if ended:
            raise ReaderError(f"{self._command[0]} ended with status {process.wait()}")
        return None

    def close(self) -> None:
        """End the tool; nothing happens where it never ran."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            with contextlib.suppress(OSError):
                process.stdout.close()

    def _start(self) -> subprocess.Popen[bytes]:
        try:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
            )
        except OSError as error:
            raise ReaderError(f"{self._command[0]} cannot be started: {error}") from error
        assert process.stdout is not None  # opened as a pipe
        os.set_blocking(process.stdout.fileno(), False)
        self._process = process
        return process
