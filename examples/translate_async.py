"""Translate many images by a server, several at a time.

    python examples/translate_async.py http://127.0.0.1:8000 translated photos/*.jpg

Needs httpx2 and nothing of pocketgan; with its predecessor httpx, change the import.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import httpx2

IN_FLIGHT = 8
ATTEMPTS = 20


async def translate(client: httpx2.AsyncClient, source: Path, target: Path) -> None:
    """Translate one file, coming back where the server is busy."""
    data = await asyncio.to_thread(source.read_bytes)
    for _ in range(ATTEMPTS):
        response = await client.post("/v1/translate", content=data, params={"format": "jpeg"})
        if response.status_code != 503:
            break
        await asyncio.sleep(int(response.headers.get("Retry-After", "1")))
    if response.status_code != 200:
        # every refusal is a JSON object with one sentence
        raise RuntimeError(f"{source}: {response.status_code}: {response.json()['detail']}")
    await asyncio.to_thread(target.write_bytes, response.content)
    print(f"{source} -> {target}  ({response.headers['Server-Timing']})")


async def main(url: str, folder: Path, sources: list[Path]) -> int:
    """Translate all; the number of those that failed."""
    folder.mkdir(parents=True, exist_ok=True)
    places = asyncio.Semaphore(IN_FLIGHT)

    async with httpx2.AsyncClient(base_url=url, timeout=120) as client:

        async def one(source: Path) -> None:
            async with places:
                await translate(client, source, folder / f"{source.stem}.jpg")

        outcomes = await asyncio.gather(*map(one, sources), return_exceptions=True)

    failed = [outcome for outcome in outcomes if outcome is not None]
    for outcome in failed:
        print(outcome, file=sys.stderr)
    return len(failed)


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit("usage: translate_async.py URL FOLDER IMAGE...")
    arguments = [Path(argument) for argument in sys.argv[2:]]
    sys.exit(1 if asyncio.run(main(sys.argv[1], arguments[0], arguments[1:])) else 0)
