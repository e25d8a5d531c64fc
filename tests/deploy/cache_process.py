"""A process that wants one engine of a cache; see test_cache_processes.py."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

from deploy import cache
from tests.deploy.cache_keys import make_key

FOREVER_S = 60.0


def main(root: str, out: str, how: str) -> None:
    folder = Path(root).parent

    def fill(target: Path) -> Path:
        with (folder / "builds").open("a") as builds:
            builds.write("one\n")
        engine = target / "engine.plan"
        engine.write_bytes(b"half")
        print("filling", flush=True)
        if how == "stall in fill":
            time.sleep(FOREVER_S)
        while how == "wait for go" and not (folder / "go").exists():
            time.sleep(0.01)
        engine.write_bytes(b"half and half")
        return engine

    def stall(path: Path) -> None:
        print("keeping", flush=True)
        time.sleep(FOREVER_S)

    logging.basicConfig(level=logging.INFO)
    if how == "stall in keep":
        cache._to_disk = stall
    cache.EngineCache(Path(root)).build(make_key(), fill, Path(out), name="restore")


if __name__ == "__main__":
    main(*sys.argv[1:])
