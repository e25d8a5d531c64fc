"""A neighbour that keeps one core busy with real work: products of matrices and JPEG coding.

Not pinned to a core, for a neighbour in a cloud is not either. Without a limit it ends when the
program that started it does, however that ends.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image

SIDE = 512
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
LEAST_BURST_S, LONGEST_BURST_S = 0.1, 2.0


def main() -> None:
    """Work until the time is over, or the one who started it is gone."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--steady", action="store_true", help="without a pause (the default)")
    how.add_argument("--bursts", action="store_true", help="0.1 to 2 s of work, then of rest")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--seed", type=int, default=0, help="of the bursts")
    parser.add_argument(
        "--while-child-of",
        type=int,
        metavar="PID",
        default=os.getppid(),
        help="end when this process has (default: the one that started it)",
    )
    args = parser.parse_args()
    work(args.seconds, args.while_child_of, random.Random(args.seed) if args.bursts else None)


def work(seconds: float, parent: int, bursts: random.Random | None) -> None:
    """Multiply and code for so long.

    Args:
        seconds: How long at most.
        parent: Ends when this is no longer the process that started it.
        bursts: Draws lengths of work and rest; there is no rest if None.
    """
    generator = np.random.default_rng(0)
    matrix = generator.standard_normal((SIDE, SIDE), dtype=np.float32)
    photo = Image.fromarray(generator.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
    end = time.monotonic() + seconds
    rest_at = draw(bursts)
    while time.monotonic() < end and os.getppid() == parent:
        matrix = matrix @ matrix
        matrix /= np.abs(matrix).max()
        coded = io.BytesIO()
        photo.save(coded, "JPEG", quality=90)
        photo = Image.open(coded)
        photo.load()
        if bursts is not None and time.monotonic() >= rest_at:
            time.sleep(bursts.uniform(LEAST_BURST_S, LONGEST_BURST_S))
            rest_at = draw(bursts)


def draw(bursts: random.Random | None) -> float:
    """When the next rest is due, on the monotonic clock."""
    length_s = bursts.uniform(LEAST_BURST_S, LONGEST_BURST_S) if bursts else float("inf")
    return time.monotonic() + length_s


@contextmanager
def neighbour(how: str = "--steady") -> Iterator[int]:
    """Have such a neighbour for a while; yields its process id.

    Args:
        how: ``--steady`` or ``--bursts``.
    """
    process = subprocess.Popen(
        [sys.executable, __file__, how, "--while-child-of", str(os.getpid())],
        env=os.environ | ONE_THREAD,
        start_new_session=True,  # Ctrl-C is for the campaign, which ends it
    )
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    main()
