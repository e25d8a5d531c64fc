"""A server that answers every request with the same bytes: how much wrk itself can do."""

from __future__ import annotations

import asyncio
import sys


class Echo(asyncio.Protocol):
    """Reads a request with a Content-Length, answers ``size`` bytes, keeps the connection."""

    def __init__(self, size: int) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: {size}\r\n\r\n"
        self._answer = head.encode() + b"x" * size
        self._seen = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to answer."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer once the request is whole."""
        self._seen += data
        head, blank, body = self._seen.partition(b"\r\n\r\n")
        if blank:
            _, _, after = head.lower().partition(b"content-length:")
            length = int(after.split(b"\r\n", 1)[0]) if after else 0
            if len(body) >= length:
                self._seen = body[length:]
                self._transport.write(self._answer)


async def main(port: int, size: int) -> None:
    """Serve until killed."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Echo(size), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
