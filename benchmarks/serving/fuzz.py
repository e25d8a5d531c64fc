"""Ten thousand malformed requests, and clients that are too slow. Run with a bundle.

Damaged images, polyglots, bombs, huge headers, false lengths, broken forms: each must be answered
with a 4xx, or with an image where what was sent turns out to be one after all (a flipped bit in a
JPEG is often just another colour). Meanwhile other connections send a byte a second and others
nothing. With ``--schemathesis`` that program tries what the OpenAPI says, from an environment of
its own.

Status 1 for any other answer, for a request that hangs, for a server that ended, answers a good
image differently afterwards, or took much memory.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import time
import venv
from collections import Counter, defaultdict
from contextlib import suppress
from pathlib import Path

from asking import connections, post, read_answer
from corpus import images
from malformed import TRANSLATE, Attack, attacks
from servers import ROOT, Server, cores, photo, pocketgan, scratch
from verdicts import Verdicts

from deploy.imaging import ImageError
from serving.formats import read_picture

SETTINGS = {
    "POCKETGAN_MAX_PIXELS": str(256 * 256),
    "POCKETGAN_MAX_DECODE_PIXELS": str(512 * 512),
    "POCKETGAN_MAX_BODY_BYTES": str(2**20),
    "POCKETGAN_BODY_TIMEOUT_S": "2",
    "POCKETGAN_LOG_LEVEL": "critical",
    "POCKETGAN_LATENCY_POLICY": "off",
}
"""Small limits, so that what is within them takes little memory too."""
TOO_LONG_S = 10.0
MAY_TAKE_MIB = 64.0
SLOW_CLIENTS = 20
SLOW = ("a dripping body", "a dripping head", "a missing body", "nothing at all")
SCHEMATHESIS = ROOT / "build" / "serving-rivals" / "schemathesis"


def main() -> None:
    """Attack, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--requests", type=int, default=12_000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--schemathesis", action="store_true", help="and that program")
    parser.add_argument("--short", action="store_true", help="seconds, to see that it works")
    args = parser.parse_args()
    server_core, client_core = cores()
    os.sched_setaffinity(0, {client_core})
    with (
        scratch(args.bundle) as (bundle, _),
        pocketgan(bundle, core=server_core, env=SETTINGS) as server,
    ):
        count = 400 if args.short else args.requests
        verdicts = Verdicts()
        asyncio.run(fuzz(server, verdicts, count, args.clients, args.seed))
        if args.schemathesis:
            verdicts.say(schemathesis(server), "schemathesis found no failure")
        raise SystemExit(verdicts.status())


async def fuzz(server: Server, verdicts: Verdicts, count: int, clients: int, seed: int) -> None:
    """All attacks, beside slow clients; then the verdicts."""
    good = post(TRANSLATE, photo(256), {"Accept": "image/png"})
    async with connections(server.port) as pool:
        before = await pool.ask(good)
        # sizes that come for the first time take memory, as good images do too
        await asyncio.gather(*(pool.ask(post(TRANSLATE, data)) for data in images(66, seed)))
    rss_mib = [server.rss_mib()]
    seen: dict[str, Counter[int]] = defaultdict(Counter)
    wrong: list[str] = []
    todo = attacks(count, seed)

    async def client() -> None:
        for attack in todo:
            status, fault = await send(server, attack)
            seen[attack.kind][status] += 1
            if fault:
                wrong.append(fault)
            rss_mib.append(server.rss_mib())

    slow = [asyncio.create_task(dawdle(server, SLOW[at % len(SLOW)])) for at in range(SLOW_CLIENTS)]
    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    took = time.perf_counter() - began
    loris = await asyncio.gather(*slow)
    patient = Counter(SLOW[at % len(SLOW)] for at, gone in enumerate(loris) if not gone)
    for kind, statuses in sorted(seen.items()):
        print(f"{kind:12} {dict(sorted(statuses.items()))}")
    answered = sum(statuses.total() for statuses in seen.values())
    verdicts.say(not wrong, f"{answered} requests in {took:.0f} s: {len(wrong)} wrong {wrong[:5]}")
    verdicts.say(
        not patient,
        f"slow clients: {sum(loris)} of {len(loris)} were sent away in {TOO_LONG_S:g} s; "
        f"not those with {dict(patient)}",
    )
    jump = max(rss_mib) - rss_mib[0]
    verdicts.say(jump <= MAY_TAKE_MIB, f"memory: {jump:+.1f} MiB at most, of {MAY_TAKE_MIB:g}")
    alive = server.process.is_running() and server.process.status() != "zombie"
    verdicts.say(alive, "the server lives")
    async with connections(server.port) as pool:
        after = await pool.ask(good)
    verdicts.say(
        before.status == after.status == 200 and before.body == after.body,
        "a good image is answered as before",
    )


async def send(server: Server, attack: Attack) -> tuple[int, str]:
    """Send one attack on a connection of its own; the status and what is wrong with it.

    Status 0 is a connection that was closed without an answer, which is right only where the client
    hung up first.
    """
    try:
        async with asyncio.timeout(TOO_LONG_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            try:
                writer.write(attack.message)
                # the server may refuse before it has read everything, and close
                with suppress(ConnectionError):
                    await writer.drain()
                    if attack.hang_up:
                        writer.write_eof()
                status, _, _ = await read_answer(reader)
            finally:
                writer.close()
    except TimeoutError:
        return -1, f"{attack.kind}: no answer in {TOO_LONG_S:g} s"
    except OSError as error:
        return 0, f"{attack.kind}: {error!r}"
    if 400 <= status < 500 or (status == 200 and _is_image(attack.body)):
        return status, ""
    if status == 0 and attack.hang_up:
        return status, ""
    return status, f"{attack.kind}: status {status} for {attack.message[:80]!r}"


async def dawdle(server: Server, way: str) -> bool:
    """Be slow in one of the ways of `SLOW`; whether the server had enough of it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    head = f"POST {TRANSLATE} HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n".encode()
    if way.endswith("body"):
        writer.write(head)

    async def drip() -> None:
        with suppress(ConnectionError):
            for byte in head:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(1.0)

    dripping = asyncio.create_task(drip()) if "dripping" in way else None
    try:
        async with asyncio.timeout(TOO_LONG_S):
            with suppress(ConnectionError):
                while await reader.read(4096):
                    pass
        return True
    except TimeoutError:
        return False
    finally:
        if dripping:
            dripping.cancel()
        writer.close()


def schemathesis(server: Server) -> bool:
    """Let schemathesis try the OpenAPI of the server; whether it is content."""
    if not (SCHEMATHESIS / "installed").exists():
        print(f"installing schemathesis into {SCHEMATHESIS} (once)", file=sys.stderr, flush=True)
        venv.create(SCHEMATHESIS, with_pip=True)
        python = SCHEMATHESIS / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", "schemathesis>=4"], check=True)
        (SCHEMATHESIS / "installed").touch()
    config = Path(__file__).with_name("schemathesis.toml")
    command: list[str | Path] = [SCHEMATHESIS / "bin" / "st", "--config-file", config, "run"]
    command += [f"{server.url}/openapi.json", "--seed", "1", "--max-examples", "200"]
    done = subprocess.run([*command, "--continue-on-failure"], cwd=SCHEMATHESIS)
    return done.returncode == 0


def _is_image(body: bytes | None) -> bool:
    try:
        read_picture(body or b"", max_pixels=512 * 512)
        return True
    except ImageError:
        return False


if __name__ == "__main__":
    main()
