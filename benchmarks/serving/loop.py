"""The yardstick: decode, engine and encode in a plain loop, without a server.

Run by overhead.py. Takes a number of seconds a line from its standard input, works for so long and
prints what it did; between two lines it sleeps.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import sys
import time
from pathlib import Path

from serving.local import open_engine
from serving.negotiate import Output
from serving.settings import ServingSettings


def main(bundle: Path, image: Path) -> None:
    """Answer every line of standard input."""
    engine = open_engine(bundle, ServingSettings())
    data, output = image.read_bytes(), Output("jpeg")
    answer = engine.translate(data, output, "native")
    print(json.dumps({"sha256": hashlib.sha256(answer).hexdigest()}), flush=True)
    for line in sys.stdin:
        seconds, times_s = float(line), []
        cpu_s, started = time.process_time(), time.perf_counter()
        while (now := time.perf_counter()) - started < seconds:
            engine.translate(data, output, "native")
            times_s.append(time.perf_counter() - now)
        took = time.perf_counter() - started
        report = {
            "requests": len(times_s),
            "seconds": took,
            "p50_ms": statistics.median(times_s) * 1e3,
            "p99_ms": sorted(times_s)[int(len(times_s) * 0.99)] * 1e3,
            "cpu_s": time.process_time() - cpu_s,
        }
        print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
