"""A small asyncio client over plain sockets: keeps connections, and times every answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Answer:
    """What a server said.

    Attributes:
        status: 0 where it closed the connection without a word.
        headers: Names in lower case.
        body: All of it.
        seconds: From the first byte sent to the last one received.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float


@dataclass
class Connections:
    """Connections to one server; those that are idle are used again.

    Attributes:
        port: Where it listens, on this machine.
        opened: How many were opened so far.
    """

    port: int
    opened: int = 0
    _idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = field(default_factory=list)

    async def ask(self, message: bytes, timeout_s: float = 60.0) -> Answer:
        """Send one whole HTTP/1.1 request and take its answer.

        Raises:
            OSError, TimeoutError: The server does not listen, or does not answer.
        """
        started = time.perf_counter()
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof() and not writer.is_closing():
                break
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            self.opened += 1
        keep = False
        try:
            async with asyncio.timeout(timeout_s):
                writer.write(message)
                # a server may refuse before it has read everything, and close
                with suppress(ConnectionError):
                    await writer.drain()
                status, headers, body = await read_answer(reader)
            keep = status > 0 and headers.get("connection", "").lower() != "close"
        finally:
            if keep:
                self._idle.append((reader, writer))
            else:
                writer.close()
        return Answer(status, headers, body, time.perf_counter() - started)

    async def close(self) -> None:
        """Close what is idle."""
        for _, writer in self._idle:
            writer.close()
        self._idle.clear()


@asynccontextmanager
async def connections(port: int) -> AsyncIterator[Connections]:
    """Connections to a server on this machine, closed at the end."""
    made = Connections(port)
    try:
        yield made
    finally:
        await made.close()


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body; status 0 where the connection ends before a whole head."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return 0, {}, b""
    headers = {}
    for line in head[1:]:
        name, colon, value = line.partition(":")
        if colon:
            headers[name.strip().lower()] = value.strip()
    status = int(head[0].split(" ")[1])
    try:
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return status, headers, await _chunks(reader)
        if "content-length" in headers:
            return status, headers, await reader.readexactly(int(headers["content-length"]))
        return status, headers, await reader.read()
    except (asyncio.IncompleteReadError, ConnectionError):
        return status, headers | {"connection": "close"}, b""


def post(path: str, body: bytes, headers: Mapping[str, str] | None = None) -> bytes:
    """The bytes of a POST request."""
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int((await reader.readline()).split(b";")[0] or b"0", 16):
        body += await reader.readexactly(size)
        await reader.readline()
    await reader.readline()
    return body
