"""Twice the requests that a server can answer, for a minute. Run with a bundle.

First the server is asked by one client at a time: the 99th percentile of that is the deadline that
every later request carries (``X-Timeout-Ms``). Then its capacity is measured, and then requests
arrive at twice that rate, whether or not earlier ones are answered. The server has one processor,
this program the other.

Status 1 unless what was accepted came within twice the deadline (99th percentile), everything else
was refused with 503 at once, and memory stayed flat.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from asking import Connections, connections, post
from servers import Server, cores, photo, pocketgan, scratch
from verdicts import Verdicts, growth_mib

SIDE = 256
AT_ONCE_MS = 50.0
"""A refusal that takes longer was not one at once."""
MAY_GROW_MIB = 8.0
JPEG = {"Content-Type": "image/jpeg", "Accept": "image/jpeg"}


@dataclass
class Flood:
    """What became of the requests of the overload.

    Attributes:
        ms: By status: from the moment a request was due to the end of its answer, each in
            milliseconds. A generator that is late counts against the server, not for it.
        rss_mib: Memory of the server, once a second.
        late_ms: How late requests were sent.
        lost: Requests without an answer.
    """

    ms: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    rss_mib: list[float] = field(default_factory=list)
    late_ms: list[float] = field(default_factory=list)
    lost: int = 0


def main() -> None:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--times", type=float, default=2.0, help="of the capacity")
    parser.add_argument("--deadline-ms", type=float, help="instead of the unloaded p99")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--short", action="store_true", help="seconds, to see that it works")
    args = parser.parse_args()
    server_core, client_core = cores()
    with scratch(args.bundle) as (bundle, _):
        os.sched_setaffinity(0, {client_core})
        with pocketgan(bundle, core=server_core) as server:
            raise SystemExit(asyncio.run(overload(server, args)))


async def overload(server: Server, args: argparse.Namespace) -> int:
    """The three phases; the exit status."""
    data, rng = photo(SIDE), random.Random(args.seed)
    verdicts = Verdicts(lenient=args.short)
    async with connections(server.port) as pool:
        unloaded = await closed(pool, data, clients=1, count=50 if args.short else 1000)
        deadline_ms = args.deadline_ms or percentile(unloaded, 99)
        print(
            f"unloaded, {len(unloaded)} requests one after the other: "
            f"p50 {percentile(unloaded, 50):.1f} ms, p99 {percentile(unloaded, 99):.1f} ms; "
            f"X-Timeout-Ms {max(1, round(deadline_ms))}"
        )
        began = time.perf_counter()
        loaded = await closed(pool, data, clients=4, count=100 if args.short else 2000)
        capacity = len(loaded) / (time.perf_counter() - began)
        rate = capacity * args.times
        seconds = 2.0 if args.short else args.seconds
        print(f"capacity {capacity:.1f} requests/s; now {rate:.1f} requests/s for {seconds:g} s")
        request = post("/v1/translate", data, JPEG | {"X-Timeout-Ms": str(round(deadline_ms) or 1)})
        flood = await opened(server, pool, request, rate, seconds, rng)
        after = await closed(pool, data, clients=1, count=20)
    judge(flood, verdicts, deadline_ms, capacity, seconds)
    verdicts.say(
        bool(after), f"afterwards it answers as before: p50 {percentile(after, 50):.1f} ms"
    )
    return verdicts.status()


async def closed(pool: Connections, data: bytes, *, clients: int, count: int) -> list[float]:
    """Ask ``count`` times, each client waiting for its answer; milliseconds of each.

    Raises:
        SystemExit: A request was refused.
    """
    request, left, ms = post("/v1/translate", data, JPEG), iter(range(count)), []

    async def client() -> None:
        for _ in left:
            answer = await pool.ask(request)
            if answer.status != 200:
                raise SystemExit(f"an unloaded server answers {answer.status}: {answer.body!r}")
            ms.append(answer.seconds * 1e3)

    await asyncio.gather(*(client() for _ in range(clients)))
    return ms


async def opened(
    server: Server,
    pool: Connections,
    request: bytes,
    rate: float,
    seconds: float,
    rng: random.Random,
) -> Flood:
    """Requests at random moments (Poisson), whether or not earlier ones are answered."""
    flood, tasks = Flood(), set()

    async def one(due: float) -> None:
        flood.late_ms.append((time.perf_counter() - due) * 1e3)
        try:
            answer = await pool.ask(request)
        except (OSError, TimeoutError):
            flood.lost += 1
            return
        flood.ms[answer.status].append((time.perf_counter() - due) * 1e3)

    async def watch() -> None:
        while True:
            flood.rss_mib.append(server.rss_mib())
            await asyncio.sleep(min(1.0, seconds / 10))

    watcher = asyncio.create_task(watch())
    began = due = time.perf_counter()
    while due - began < seconds:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        task = asyncio.create_task(one(due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        due += rng.expovariate(rate)
    await asyncio.gather(*tasks)
    watcher.cancel()
    return flood


def judge(
    flood: Flood, verdicts: Verdicts, deadline_ms: float, capacity: float, seconds: float
) -> None:
    """Print what became of the requests, and whether that is as promised."""
    asked = sum(map(len, flood.ms.values())) + flood.lost
    for status, ms in sorted(flood.ms.items()):
        print(
            f"{status}: {len(ms)} of {asked} ({100 * len(ms) / asked:.1f} %), "
            f"p50 {percentile(ms, 50):.1f} ms, p99 {percentile(ms, 99):.1f} ms, "
            f"max {max(ms):.1f} ms"
        )
    accepted, refused = flood.ms.get(200, []), flood.ms.get(503, [])
    late_ms = percentile(flood.late_ms, 99)
    print(
        f"answered {len(accepted) / seconds:.1f} requests/s of the capacity of {capacity:.1f}; "
        f"the generator was late by {late_ms:.1f} ms (p99)"
    )
    others = {status: len(ms) for status, ms in flood.ms.items() if status not in (200, 503)}
    verdicts.say(
        bool(accepted) and percentile(accepted, 99) <= 2 * deadline_ms,
        f"accepted: p99 {percentile(accepted, 99):.1f} ms, "
        f"at most twice the deadline: {2 * deadline_ms:.1f} ms",
        timed=True,
    )
    verdicts.say(
        not others and not flood.lost,
        f"the rest is 503: {len(refused)}; other statuses {others}, without an answer {flood.lost}",
        timed=True,
    )
    verdicts.say(
        not refused or percentile(refused, 99) <= AT_ONCE_MS,
        f"503 at once: p99 {percentile(refused, 99):.1f} ms, at most {AT_ONCE_MS:g} ms",
        timed=True,
    )
    grown = growth_mib(flood.rss_mib)
    verdicts.say(grown <= MAY_GROW_MIB, f"memory: {grown:+.1f} MiB, at most {MAY_GROW_MIB:g} MiB")


def percentile(values: Sequence[float], percent: int) -> float:
    """The value that so many percent are at or below; NaN of nothing."""
    if not values:
        return float("nan")
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)]


if __name__ == "__main__":
    main()
