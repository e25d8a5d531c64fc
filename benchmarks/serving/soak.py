"""Many requests, every answer held to the engine's own, and models swapped under them.

Run with a bundle. Images of mixed sizes and formats go through the server; the digest of each
answer must be that of what the same engine makes in this process. Then, with the load going on, the
model is swapped through the admin port, again and again, and broken bundles are offered to it.

Status 1 for one wrong or missing answer, a swap that did not happen, a broken bundle that was not
refused, or memory that grows.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import itertools
import json
import os
import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from asking import Connections, connections, post
from corpus import broken_bundles, images
from servers import Server, cores, free_port, pocketgan, reseal, scratch
from verdicts import Verdicts, growth_mib

from devices.sealed import MANIFEST, digest
from serving.local import open_engine
from serving.negotiate import Output
from serving.settings import ServingSettings

OUTPUTS = (Output("png"), Output("jpeg"), Output("webp", 70))
MAY_GROW_MIB = 8.0
MAY_GROW_BY_SWAPS_MIB = 32.0
TOKEN = "only-for-this-benchmark"


@dataclass(frozen=True)
class Case:
    """A request, and the digest of its right answer, by the bundle that answers."""

    message: bytes
    sha256: Mapping[str, str]


@dataclass
class Tally:
    """What became of the requests.

    Attributes:
        statuses: How many answers of each status.
        wrong: Answers with another image than the engine's.
        bundles: How many answers of each bundle.
        rss_mib: Memory of the server, once a second.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    bundles: Counter[str] = field(default_factory=Counter)
    rss_mib: list[float] = field(default_factory=list)

    @property
    def failed(self) -> int:
        """Answers that were not 200 and right."""
        return self.statuses.total() - self.statuses[200] + len(self.wrong)


def main() -> None:
    """Soak, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--swaps", type=int, default=50)
    parser.add_argument("--broken", type=int, default=10)
    parser.add_argument("--images", type=int, default=66)
    parser.add_argument(
        "--float-engine", type=Path, help="ONNX file of the other model; else it differs in name"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--short", action="store_true", help="seconds, to see that it works")
    args = parser.parse_args()
    if args.short:
        args.requests, args.swaps, args.broken, args.images = 200, 2, 5, 11
    server_core, client_core = cores()
    os.sched_setaffinity(0, {client_core})
    with scratch(args.bundle) as (bundle, folder):
        bundles = folder / "bundles"
        bundles.mkdir()
        models = [
            reseal(bundle, bundles / "one", name="one"),
            reseal(bundle, bundles / "other", name="other", float_engine=args.float_engine),
        ]
        broken = broken_bundles(bundle, bundles, args.broken)
        cases = make_cases(models, args.images, args.seed)
        env = {
            "POCKETGAN_BUNDLES_DIR": str(bundles),
            "POCKETGAN_ADMIN_PORT": str(free_port()),
            "POCKETGAN_ADMIN_TOKEN": TOKEN,
            # the budget is of a machine that does nothing else
            "POCKETGAN_LATENCY_POLICY": "off",
        }
        with pocketgan(models[0], core=server_core, env=env) as server:
            admin = int(env["POCKETGAN_ADMIN_PORT"])
            raise SystemExit(asyncio.run(soak(server, admin, cases, broken, args)))


def make_cases(models: list[Path], count: int, seed: int) -> list[Case]:
    """Every image in every format of answer, translated by every model in this process."""
    engines = {
        f"sha256:{digest(model / MANIFEST)}": open_engine(model, ServingSettings())
        for model in models
    }
    cases = []
    for data in images(count, seed):
        for output in OUTPUTS:
            quality = "" if output.quality is None else f"&quality={output.quality}"
            expected = {
                name: hashlib.sha256(engine.translate(data, output, "native")).hexdigest()
                for name, engine in engines.items()
            }
            path = f"/v1/translate?format={output.format}{quality}"
            cases.append(Case(post(path, data, {"Content-Type": "image/*"}), expected))
    return cases


async def soak(
    server: Server, admin: int, cases: list[Case], broken: list[str], args: argparse.Namespace
) -> int:
    """The steady part, the part with swaps; the exit status."""
    verdicts, rng = Verdicts(), random.Random(args.seed)
    endless = (rng.choice(cases) for _ in itertools.repeat(None))
    async with connections(server.port) as pool:
        # shapes that come for the first time take memory
        await send(pool, iter(cases), Tally(), args.clients)
        began, tally = time.perf_counter(), Tally()
        watcher = asyncio.create_task(watch(server, tally))
        await send(pool, itertools.islice(endless, args.requests), tally, args.clients)
        watcher.cancel()
        seconds = time.perf_counter() - began
        judge(tally, verdicts, f"{args.requests} requests in {seconds:.0f} s")
        grown = growth_mib(tally.rss_mib)
        verdicts.say(
            grown <= MAY_GROW_MIB,
            f"memory: {grown:+.1f} MiB from the second quarter to the last, at most "
            f"{MAY_GROW_MIB:g}; {tally.rss_mib[0]:.0f} to {tally.rss_mib[-1]:.0f} MiB",
        )
        if args.swaps or broken:
            under_load, tally = asyncio.Event(), Tally()
            load = itertools.takewhile(lambda _: not under_load.is_set(), endless)
            sending = asyncio.create_task(send(pool, load, tally, args.clients))
            try:
                await change_models(server, admin, broken, args.swaps, verdicts)
            finally:
                under_load.set()
                await sending
            judge(tally, verdicts, f"{tally.statuses.total()} requests while models changed")
            print("answers by bundle:", dict(tally.bundles.most_common()))
    return verdicts.status()


async def send(pool: Connections, cases: Iterator[Case], tally: Tally, clients: int) -> None:
    """Send all cases, so many at a time, and hold every answer to what it should be."""

    async def client() -> None:
        for case in cases:
            try:
                answer = await pool.ask(case.message)
            except (OSError, TimeoutError) as error:
                tally.statuses[0] += 1
                tally.wrong.append(f"no answer: {error!r}")
                continue
            tally.statuses[answer.status] += 1
            if answer.status == 200:
                bundle = answer.headers.get("pocketgan-bundle", "")
                tally.bundles[bundle] += 1
                if case.sha256.get(bundle) != hashlib.sha256(answer.body).hexdigest():
                    tally.wrong.append(f"another image, of {bundle}")

    await asyncio.gather(*(client() for _ in range(clients)))


async def change_models(
    server: Server, admin: int, broken: list[str], swaps: int, verdicts: Verdicts
) -> None:
    """Swap to and fro, and offer what is broken in between."""
    swapped, refused, rss_mib, seconds = 0, 0, [], []
    async with connections(admin) as pool:
        for name in itertools.islice(itertools.cycle(("other", "one")), swaps):
            answer = await swap(pool, name)
            swapped += answer == 200
            rss_mib.append(server.rss_mib())
        for name in broken:
            began = time.perf_counter()
            refused += 400 <= await swap(pool, name) < 500
            seconds.append(time.perf_counter() - began)
    verdicts.say(swapped == swaps, f"swapped {swapped} times of {swaps}")
    if len(rss_mib) >= 8:
        grown = growth_mib(rss_mib)
        verdicts.say(
            grown <= MAY_GROW_BY_SWAPS_MIB,
            f"memory by swaps: {grown:+.1f} MiB, at most {MAY_GROW_BY_SWAPS_MIB:g}; "
            f"{rss_mib[0]:.0f} to {rss_mib[-1]:.0f} MiB",
        )
    verdicts.say(refused == len(broken), f"refused {refused} broken bundles of {len(broken)}")


async def swap(pool: Connections, name: str) -> int:
    """Ask the admin port for a model; the status, 0 where nobody answers."""
    body = json.dumps({"bundle": name}).encode()
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    try:
        answer = await pool.ask(post("/v1/model", body, headers), timeout_s=120)
    except (OSError, TimeoutError):
        return 0
    return answer.status


async def watch(server: Server, tally: Tally) -> None:
    """Note the memory until cancelled."""
    while True:
        tally.rss_mib.append(server.rss_mib())
        await asyncio.sleep(1.0)


def judge(tally: Tally, verdicts: Verdicts, what: str) -> None:
    """Say whether every answer was right."""
    right = tally.statuses[200] - len(tally.wrong)
    statuses = dict(sorted(tally.statuses.items()))
    verdicts.say(
        tally.failed == 0 and right > 0,
        f"{what}: {right} right, {tally.failed} failed; statuses {statuses} {tally.wrong[:3]}",
    )


if __name__ == "__main__":
    main()
