"""One ssh process with the far side at its other end; nothing waits without a limit."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, TypeVar, cast

from pydantic import ValidationError

from devices.profile import Frozen
from devices.remote.far_side import GREETING
from devices.remote.inventory import Board
from devices.remote.words import BoardError, command, one_line

GREETING_S = 60.0
"""From the start of ssh to the board's first word: jump hosts, keys, a slow card to start from."""
CLOSE_S = 20.0
MAX_LINE_BYTES = 64 * 2**10
MAX_BANNER_LINES = 200
CHUNK_BYTES = 256 * 2**10

FAR_SIDE = Path(__file__).with_name("far_side.py")

HINTS = {
    "Host key verification failed": "its key is not the one in known_hosts; connect by hand once "
    "and compare the fingerprint with the board's own",
    "Permission denied": "`ssh {0}` must work without a question: put your key there, or into the "
    "agent",
    "Could not resolve hostname": "it is no name of the inventory, of ~/.ssh/config or of the "
    "network",
}

Reply = TypeVar("Reply", bound=Frozen)


class Refusal(Frozen):
    """The far side could not do it, and says why."""

    error: str


class Size(Frozen):
    """So many bytes follow."""

    bytes: int


class Left(Frozen):
    """Why the folder is still there; empty where it is gone."""

    left: str


class Link:
    """A connection to one board, for the thread that made it.

    Everything raises `BoardError` where the board does not do its part, is late, or the user wants
    to stop.
    """

    def __init__(self, board: Board, stop: threading.Event, config: Path | None = None) -> None:
        """Connect and greet.

        Args:
            board: Where to.
            stop: Set from outside to end the connection; an event that nobody sets for none.
            config: A configuration in place of the user's.
        """
        self._board = board
        self._stop = stop
        self._doing = "connecting"
        self._seconds = GREETING_S
        self._deadline = time.monotonic() + GREETING_S
        self._expired = self._greeted = False
        self._over = threading.Event()
        self._said: deque[bytes] = deque(maxlen=16)
        self._process = subprocess.Popen(
            command(board.destination, config),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # away from the terminal: no question can be asked there, and Ctrl-C comes to us alone
            start_new_session=True,
            env=os.environ | {"SSH_ASKPASS_REQUIRE": "never"},
        )
        pipes = (self._process.stdin, self._process.stdout, self._process.stderr)
        self._to, self._from, self._errors = (cast(BinaryIO, pipe) for pipe in pipes)
        self._threads = [
            threading.Thread(target=self._watch, daemon=True),
            threading.Thread(target=self._listen, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Link:
        try:
            self._greet()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def ask(
        self, request: Mapping[str, object], reply: type[Reply], doing: str, seconds: float
    ) -> Reply:
        """Send a request and read its answer.

        Args:
            request: What `far_side.main` reads.
            reply: What the answer must be.
            doing: In the words of an error: "no answer after 5 s while ...".
            seconds: The most it may take.
        """
        self._begin(doing, seconds)
        self._write(json.dumps(request).encode() + b"\n")
        return self._answer(reply)

    def put(
        self,
        request: Mapping[str, object],
        file: Path,
        reply: type[Reply],
        doing: str,
        seconds: float,
        progress: Callable[[float], None],
    ) -> Reply:
        """Send a request and the bytes of a file after it; ``progress`` gets the share sent."""
        self._begin(doing, seconds)
        size = file.stat().st_size
        self._write(json.dumps({**request, "bytes": size}).encode() + b"\n")
        sent = 0
        with file.open("rb") as content:
            while chunk := content.read(CHUNK_BYTES):
                self._write(chunk)
                sent += len(chunk)
                progress(sent / size)
        return self._answer(reply)

    def get(self, name: str, most_bytes: int, out: BinaryIO, doing: str, seconds: float) -> None:
        """Write a file of the board's folder to ``out``; more than ``most_bytes`` is refused."""
        size = self.ask({"do": "get", "name": name, "most": most_bytes}, Size, doing, seconds).bytes
        if not 0 <= size <= most_bytes:
            raise BoardError(f"it offers {size} bytes while {doing}, the most is {most_bytes}")
        while size:
            chunk = self._from.read(min(size, CHUNK_BYTES))
            if not chunk:
                raise self._lost()
            out.write(chunk)
            size -= len(chunk)

    def close(self) -> None:
        """End the ssh process and everything it started; the far side cleans up by itself."""
        self._begin("closing", CLOSE_S)
        for pipe in (self._to, self._from):
            with contextlib.suppress(OSError):
                pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=2)
        self._end()
        self._over.set()
        for thread in self._threads:
            thread.join(timeout=5)
        self._errors.close()

    def _greet(self) -> None:
        code = FAR_SIDE.read_bytes()
        self._write(f"{self._board.python}\n{len(code)}\n".encode() + code)
        for _ in range(MAX_BANNER_LINES):  # a login shell may have something to say first
            line = self._line()
            if line.strip() == GREETING.encode():
                self._greeted = True
                return
            self._said.append(line)
        raise BoardError(
            f"it printed {MAX_BANNER_LINES} lines and no greeting: its login shell talks too much"
        )

    def _begin(self, doing: str, seconds: float) -> None:
        self._doing, self._seconds = doing, seconds
        self._deadline = time.monotonic() + seconds

    def _write(self, content: bytes) -> None:
        try:
            self._to.write(content)
            self._to.flush()
        except OSError:
            raise self._lost() from None

    def _line(self) -> bytes:
        line = self._from.readline(MAX_LINE_BYTES + 1)
        if line.endswith(b"\n"):
            return line
        if len(line) > MAX_LINE_BYTES:
            raise BoardError(f"it answered with more than {MAX_LINE_BYTES} bytes on one line")
        raise self._lost()

    def _answer(self, reply: type[Reply]) -> Reply:
        line = self._line()
        with contextlib.suppress(ValidationError):
            raise BoardError(f"{self._doing}: {one_line(Refusal.model_validate_json(line).error)}")
        try:
            return reply.model_validate_json(line)
        except ValidationError:
            said = one_line(line.decode("ascii", "replace"))[:80]
            raise BoardError(f"it answered nonsense while {self._doing}: {said!r}") from None

    def _lost(self) -> BoardError:
        """Why nothing comes any more, after ssh has ended and said what it had to say."""
        if not (self._stop.is_set() or self._expired):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=5)
        self._end()
        self._threads[1].join(timeout=5)
        said = one_line(b"".join(self._said).decode("ascii", "replace"))
        if self._stop.is_set():
            return BoardError(f"stopped while {self._doing}")
        if self._expired:
            return BoardError(f"no answer after {self._seconds:g} s while {self._doing}")
        if self._greeted:
            return BoardError(
                f"the connection was lost while {self._doing}" + (f": {said}" if said else "")
            )
        if self._process.returncode in (126, 127):
            return BoardError(
                f"it has no Python at {self._board.python!r}: install 3.11 or newer and name it "
                "with python = in the inventory"
            )
        hint = next((cure for sign, cure in HINTS.items() if sign in said), "")
        cure = f"; {hint.format(self._board.destination)}" if hint else ""
        return BoardError(f"cannot connect: {said or 'ssh ended without a word'}{cure}")

    def _end(self) -> None:
        if self._process.poll() is not None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)  # a jump host is an ssh of its own
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=2)
                return

    def _watch(self) -> None:
        """End ssh where the time is up or somebody wants to stop; reads and writes then fail."""
        while not self._over.wait(0.1):
            late = time.monotonic() > self._deadline
            if late or self._stop.is_set():
                self._expired = late
                self._end()
                return

    def _listen(self) -> None:
        """Keep the last of what ssh prints, so that a talkative board fills no pipe."""
        while chunk := os.read(self._errors.fileno(), 4096):
            self._said.append(chunk)
