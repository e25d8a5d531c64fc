"""How much faster is a shipped engine than its teacher? Run with a bundle and its export.

The teacher in PyTorch eager and the engine take turns in one run, on the same number of threads;
each round gives one ratio of medians, and what is printed is their median and quartiles.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from deploy.artifacts import Bundle, StudentExport
from deploy.eager import COMMAND, eager_teacher
from devices.check import noise
from devices.latency import interleave, timed
from devices.session import open_session

PER_ROUND = 10


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("export", type=Path)
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()

    bundle, export = Bundle.read(args.bundle), StudentExport.read(args.export)
    face = bundle.manifest
    profile = face.profile
    session = open_session(bundle.engine, profile, backend=face.backend, precision=face.precision)
    with eager_teacher(
        export.path, threads=profile.threads, image_size=profile.image_size, command=COMMAND
    ) as teacher:
        if teacher is None:
            raise SystemExit("the teacher needs torch: pip install 'pocketgan[compress]'")
        runners = {"teacher": teacher, "engine": timed(session, noise(profile))}
        samples = interleave(runners, rounds=args.rounds, per_round=PER_ROUND)

    medians = {
        name: [
            statistics.median(values[i : i + PER_ROUND]) for i in range(0, len(values), PER_ROUND)
        ]
        for name, values in samples.items()
    }
    ratios = sorted(a / b for a, b in zip(medians["teacher"], medians["engine"], strict=True))
    low, middle, high = statistics.quantiles(ratios, n=4)
    for name, values in medians.items():
        print(f"{name:8} {statistics.median(values):8.2f} ms, median of {args.rounds} rounds")
    print(
        f"{face.backend} {face.precision} is {middle:.1f} times faster than the teacher in PyTorch "
        f"eager (quartiles {low:.1f} to {high:.1f}; {args.rounds} rounds of {PER_ROUND}, "
        f"{profile.threads} threads each, {profile.image_size} px)"
    )


if __name__ == "__main__":
    main()
