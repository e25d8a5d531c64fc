"""How many requests a client may make: one token bucket for each, of as many as fit."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

MOST_CLIENTS = 10_000
"""Clients that are remembered. Forgetting one fills its bucket again, which only helps a client
that shows ten thousand addresses; that is what keys are for."""


class RateError(RuntimeError):
    """This client asks more often than it may.

    Attributes:
        retry_after_s: When to come back, in whole seconds.
    """

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


@dataclass
class _Bucket:
    tokens: float
    filled: float


class Rates:
    """Token buckets by client. Not thread-safe: it belongs to the event loop.

    Args:
        per_s: Requests per second that a client may keep up; None for any number.
        burst: Requests that a client who was quiet may make at once.
        most_clients: Clients remembered; whoever was quiet for longest is forgotten first.
        clock: Seconds, rising.
    """

    def __init__(
        self,
        per_s: float | None,
        burst: int,
        *,
        most_clients: int = MOST_CLIENTS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._per_s = per_s
        self._burst = burst
        self._most_clients = most_clients
        self._clock = clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def spend(self, client: str, requests: int = 1) -> None:
        """Count requests of a client; more than a burst at once count as a full one.

        Raises:
            RateError: It has none left.
        """
        if self._per_s is None:
            return
        now = self._clock()
        bucket = self._buckets.pop(client, None) or _Bucket(self._burst, now)
        bucket.tokens = min(self._burst, bucket.tokens + (now - bucket.filled) * self._per_s)
        bucket.filled = now
        self._buckets[client] = bucket  # the latest last
        if len(self._buckets) > self._most_clients:
            self._buckets.popitem(last=False)
        price = min(requests, self._burst)
        if bucket.tokens < price:
            wait_s = (price - bucket.tokens) / self._per_s
            raise RateError(
                f"more than {self._per_s:g} requests per second (and {self._burst} at once) "
                f"from one client; the next is welcome in {wait_s:.3g} s",
                retry_after_s=max(1, math.ceil(wait_s)),
            )
        bucket.tokens -= price
