"""What a server costs: requests per second beside the same work in a plain loop. Run with a bundle.

A 256 px JPEG goes in and a JPEG comes out. The yardstick is decode, engine and encode in a loop;
pocketgan and three serving frameworks, each from an environment of its own, do the same work behind
HTTP. Every answer is byte for byte the loop's, or the run ends.

Whoever is measured has one processor, and wrk, which asks, has the other; every engine has one
thread. The loop runs right before and right after each measurement, with the server halted: what a
table says of "the loop" is the ratio to those two, so a machine that slows down slows both.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contenders import RIVALS, Rival, install, started
from servers import ONE_THREAD, ROOT, Server, cores, free_port, photo, post, running, scratch

SIDE = 256
CLIENTS = (1, 4, 16)
FLOOR = 0.9
HERE = Path(__file__).parent
JPEG = {"Content-Type": "image/jpeg", "Accept": "image/jpeg"}


@dataclass
class Cell:
    """One contender at one number of clients, over all rounds."""

    per_s: list[float] = field(default_factory=list)
    of_the_loop: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)


def main() -> None:
    """Measure, print the table, and end with status 1 where pocketgan does not keep its word."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of one measurement")
    parser.add_argument("--only", nargs="*", help="rivals to measure; none for pocketgan alone")
    parser.add_argument("--json", type=Path, help="write every sample there")
    parser.add_argument("--short", action="store_true", help="pocketgan alone, seconds; no verdict")
    args = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk asks the questions here: apt-get install wrk")
    rounds, seconds = (1, 1.0) if args.short else (args.rounds, args.seconds)
    names = [rival.folder.name for rival in RIVALS] if args.only is None else args.only
    rivals = [] if args.short else [rival for rival in RIVALS if rival.folder.name in names]
    for needed in rivals:
        install(needed)

    server_core, client_core = cores()
    with scratch(args.bundle) as (bundle, folder), ExitStack() as stack:
        (folder / "photo.jpg").write_bytes(photo(SIDE))
        loop = stack.enter_context(the_loop(bundle, folder, server_core))
        report(ceiling(folder, server_core, client_core, seconds))
        table: dict[str, dict[int, Cell]] = {}
        facts: dict[str, str] = {}
        contenders: list[Rival | None] = [None, *rivals]
        for turn in range(rounds):
            for rival in (
                contenders[turn % len(contenders) :] + contenders[: turn % len(contenders)]
            ):
                name = rival.name if rival else "pocketgan"
                cells = table.setdefault(name, {clients: Cell() for clients in CLIENTS})
                with started(rival, bundle, folder, core=server_core) as server:
                    loop.check(name, server, (folder / "photo.jpg").read_bytes())
                    measure(server, loop, cells, folder, client_core, seconds)
                    of = f"{rival.version()}, " if rival else ""
                    facts[name] = (
                        f"{of}{len(server.tree())} processes, {server.rss_mib():.0f} MiB, "
                        f"ready after {server.started_s:.1f} s"
                    )
                print(f"round {turn + 1} of {rounds}: {name}", file=sys.stderr, flush=True)
    show(table, facts, rounds, seconds)
    if args.json:
        args.json.write_text(json.dumps(table, default=vars, indent=1) + "\n")
    if not args.short and not verdict(table):
        raise SystemExit(1)


class Loop:
    """The process of loop.py."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.sha256 = self._line()["sha256"]

    def run(self, seconds: float) -> dict[str, Any]:
        """Let it work for a while."""
        assert self._process.stdin
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()
        return self._line()

    def check(self, name: str, server: Server, data: bytes) -> None:
        """Hold a server's answer to the loop's own, and warm the server up.

        Raises:
            SystemExit: It answers something else.
        """
        for _ in range(20):
            answer = post(f"{server.url}/v1/translate", data, JPEG)
            if hashlib.sha256(answer).hexdigest() != self.sha256:
                raise SystemExit(f"{name} answers another image than the loop makes")

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout
        said: dict[str, Any] = json.loads(self._process.stdout.readline())
        return said


@contextmanager
def the_loop(bundle: Path, folder: Path, core: int) -> Iterator[Loop]:
    """Start loop.py on a core."""
    pinned = ["taskset", "--cpu-list", str(core)]
    command = [*pinned, sys.executable, HERE / "loop.py", bundle, folder / "photo.jpg"]
    env = os.environ | ONE_THREAD | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    ) as process:
        try:
            yield Loop(process)
        finally:
            process.kill()


def ceiling(folder: Path, server_core: int, client_core: int, seconds: float) -> str:
    """What wrk reaches against a server that does nothing: it must not be the bottleneck."""
    port = free_port()
    size = len(photo(SIDE))
    command: list[str | Path] = [sys.executable, HERE / "echo.py", str(port), str(size)]
    with running(command, port, core=server_core, ready="/") as server:
        done = wrk(server, folder, 16, client_core, seconds)
    return (
        f"wrk with 16 clients against a server that does nothing: {done['per_s']:.0f} requests/s, "
        f"p99 {done['p99_ms']:.2f} ms"
    )


def measure(
    server: Server,
    loop: Loop,
    cells: dict[int, Cell],
    folder: Path,
    client_core: int,
    seconds: float,
) -> None:
    """Loop, server, loop, server, ...: every number of clients once."""
    with server.stopped():
        before = loop.run(seconds / 2)
    for clients, cell in cells.items():
        cpu_s = server.cpu_s()
        done = wrk(server, folder, clients, client_core, seconds)
        cpu_s = server.cpu_s() - cpu_s
        with server.stopped():
            after = loop.run(seconds / 2)
        alone = statistics.mean(one["requests"] / one["seconds"] for one in (before, after))
        cell.per_s.append(done["per_s"])
        cell.of_the_loop.append(done["per_s"] / alone)
        cell.p50_ms.append(done["p50_ms"])
        cell.p99_ms.append(done["p99_ms"])
        loop_cpu_ms = 1e3 * sum(one["cpu_s"] for one in (before, after))
        loop_cpu_ms /= before["requests"] + after["requests"]
        cell.cpu_ms.append(1e3 * cpu_s / done["requests"] - loop_cpu_ms)
        before = after


def wrk(server: Server, folder: Path, clients: int, core: int, seconds: float) -> dict[str, float]:
    """Ask as fast as it answers, so many at a time.

    Raises:
        SystemExit: A request failed.
    """
    command = ["taskset", "--cpu-list", str(core), "wrk", "--threads", "1", "--timeout", "60s"]
    command += ["--connections", str(clients), "--duration", f"{max(1, round(seconds))}s"]
    command += ["--script", str(HERE / "post.lua"), f"{server.url}/v1/translate"]
    env = os.environ | {"WRK_BODY": str(folder / "photo.jpg")}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=True)
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("WRK "))
    said = json.loads(line.removeprefix("WRK "))
    if said["failed"] or not said["requests"]:
        raise SystemExit(f"{said['failed']} of {said['requests']} requests failed: {done.stdout}")
    return {
        "requests": said["requests"],
        "per_s": said["requests"] / said["duration_us"] * 1e6,
        "p50_ms": said["p50_us"] / 1e3,
        "p99_ms": said["p99_us"] / 1e3,
    }


def show(
    table: dict[str, dict[int, Cell]], facts: dict[str, str], rounds: int, seconds: float
) -> None:
    """Print medians over the rounds, and the spread of what is compared."""
    report(
        f"\nmedians of {rounds} interleaved rounds of {seconds:g} s; lowest and highest beside\n"
    )
    report(
        "| server | clients | requests/s | of the loop | p50 ms | p99 ms | CPU ms beyond the loop |"
    )
    report("|---|---|---|---|---|---|---|")
    for name, cells in table.items():
        for clients, cell in cells.items():
            report(
                f"| {name} | {clients} | {middle(cell.per_s):.1f} | {spread(cell.of_the_loop)} "
                f"| {middle(cell.p50_ms):.1f} | {middle(cell.p99_ms):.1f} "
                f"| {middle(cell.cpu_ms):.2f} |"
            )
    report("")
    for name, fact in facts.items():
        report(f"{name}: {fact}")


def verdict(table: dict[str, dict[int, Cell]]) -> bool:
    """Say whether pocketgan reaches `FLOOR` of the loop and leads, at every number of clients."""
    kept = True
    for clients, cell in table["pocketgan"].items():
        ours = middle(cell.of_the_loop)
        others = {
            name: middle(cells[clients].of_the_loop)
            for name, cells in table.items()
            if name != "pocketgan"
        }
        ahead = all(ours > other for other in others.values())
        kept &= ours >= FLOOR and ahead
        best = max(others, key=others.__getitem__) if others else None
        beside = f"; the best other: {best} {others[best]:.2f}" if best else ""
        word = "passed" if ours >= FLOOR and ahead else "FAILED"
        report(f"{word}: {clients} clients: {ours:.2f} of the loop (at least {FLOOR}){beside}")
    return kept


def middle(values: Sequence[float]) -> float:
    """Their median."""
    return statistics.median(values)


def spread(values: Sequence[float]) -> str:
    """Median, lowest and highest."""
    return f"{middle(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def report(line: str) -> None:
    """Print a line now."""
    print(line, flush=True)


if __name__ == "__main__":
    main()
