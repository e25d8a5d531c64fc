"""Send slow clients away: uvicorn waits for the head of a request as long as it takes."""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Callable, Iterable
from typing import Any

log = logging.getLogger(__name__)

EVERY_S = 1


class SlowClients:
    """Closes connections on which no whole request has arrived for too long.

    A connection that waits for an answer, and a websocket, are left alone: they have limits of
    their own.

    Args:
        connections: Those that the server has now, as uvicorn keeps them.
        limit_s: Longest that a request may take to arrive, in seconds, silence before it included.
        clock: Seconds, rising.
    """

    def __init__(
        self,
        connections: Callable[[], Iterable[Any]],
        limit_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connections = connections
        self._limit_s = limit_s
        self._clock = clock
        self._since: weakref.WeakKeyDictionary[Any, float] = weakref.WeakKeyDictionary()

    async def sweep(self) -> None:
        """Look at every connection; to be called every second."""
        now = self._clock()
        for connection in list(self._connections()):
            if not waits_for_client(connection):
                self._since.pop(connection, None)
            elif now - self._since.setdefault(connection, now) > self._limit_s:
                log.info("a connection without a whole request for %g s is closed", self._limit_s)
                connection.transport.abort()


def waits_for_client(connection: Any) -> bool:
    """Whether an HTTP connection of uvicorn has no request that is being answered."""
    if not hasattr(connection, "cycle"):
        return False  # a websocket
    cycle = connection.cycle
    return cycle is None or bool(cycle.response_complete)
