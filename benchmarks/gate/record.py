"""Record a machine's noise: one bundle in fresh processes, for minutes. Run with a bundle.

`idle` is the machine as it is; `busy` has a neighbour that keeps one core busy; `drift` has one
whose share of that core grows and fades, from nothing to all of it and back in two minutes. What
others than the measured process did is recorded with each process, so that idle can be seen to be
idle. Or take what a campaign has measured of two equal sides; its gates of one condition follow
each other like one stream, though others ran between them.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import psutil
from ledger import gates_in, processes_of
from neighbour import neighbour
from replay import Process, Stream, write_stream
from simulate import CONDITIONS, NOISE

from deploy.neighbours import cpu_use, others_cores
from devices.machine import this_machine
from devices.measure_once import in_fresh_process
from devices.sealed import read_sealed

PERIOD_S = 120.0
SLICE_S = 0.05


def main() -> None:
    """Record and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--condition", choices=CONDITIONS, required=True)
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--out", type=Path, default=NOISE, help="folder for the stream")
    parser.add_argument(
        "--campaign",
        type=Path,
        metavar="DIR",
        help="measure nothing; take what benchmarks/gate/campaign.py --out DIR has measured",
    )
    args = parser.parse_args()
    if args.minutes <= 0:
        parser.error(f"--minutes must be above 0, got {args.minutes}")
    if args.campaign and args.condition == "drift":
        parser.error("a campaign has no condition drift; record it")
    sealed, machine = read_sealed(args.bundle), this_machine()
    written = (args.campaign / "campaign.json").stat().st_mtime if args.campaign else time.time()
    about = {
        "recorded": datetime.fromtimestamp(written, UTC).strftime("%Y-%m-%d"),
        "engine": f"{sealed.backend} {sealed.precision}, {sealed.profile.image_size} pixels, "
        f"{sealed.profile.threads} threads",
        "machine": f"{machine.cpu}, {machine.cores} cores",
        "runtimes": machine.runtimes,
    }
    if args.campaign:
        processes = of_campaign(args.campaign, args.condition, args.minutes)
    else:
        with beside(args.condition):
            processes = record(args.bundle, args.minutes * 60)
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"{args.condition}.jsonl.gz"
    write_stream(path, Stream(args.condition, about, tuple(processes)))
    medians = np.array([np.median(one.samples_ms) for one in processes])
    others = np.array([one.others_cores for one in processes])
    print(
        f"wrote {path}: {len(processes)} processes, {path.stat().st_size / 1024:.0f} KiB; medians "
        f"{medians.min():.2f} to {medians.max():.2f} ms; others kept {np.median(others):.2f} cores "
        f"busy (9 of 10 times below {np.quantile(others, 0.9):.2f})"
    )


def record(bundle: Path, seconds: float) -> list[Process]:
    """Measure a bundle in fresh processes until the time is over."""
    processes = []
    begin = time.monotonic()
    while (at_s := time.monotonic() - begin) < seconds:
        before = cpu_use()
        once = in_fresh_process(bundle)
        others = others_cores(before, cpu_use())
        took_s = time.monotonic() - begin - at_s
        processes.append(Process(at_s, took_s, np.array(once.samples_ms), others))
    return processes


def of_campaign(out: Path, condition: str, minutes: float) -> list[Process]:
    """The first minutes that a campaign spent on gates of two equal sides under a condition.

    Raises:
        ValueError: There are none.
    """
    processes: list[Process] = []
    seconds = 0.0
    for line in gates_in(out):
        if line.kind != f"{condition}-aa" or seconds > 60 * minutes:
            continue
        others = line.neighbours.others + (line.neighbours.own or 0.0)
        for one in processes_of(out, line):
            samples = np.array(one.samples_ms)
            processes.append(Process(one.at_s, one.took_s, samples, others))
            seconds += one.took_s
    if not processes:
        raise ValueError(f"{out} holds no gate {condition}-aa")
    first_s = processes[0].at_s
    return [replace(one, at_s=one.at_s - first_s) for one in processes]


@contextlib.contextmanager
def beside(condition: str) -> Iterator[None]:
    """Have the neighbour that belongs to a condition, or none."""
    if condition == "idle":
        yield
        return
    with neighbour() as pid:
        if condition == "busy":
            yield
            return
        over = threading.Event()
        thread = threading.Thread(target=come_and_go, args=(psutil.Process(pid), over))
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def come_and_go(process: psutil.Process, over: threading.Event) -> None:
    """Halt a process for a part of every moment; its share rises and falls with the time."""
    begin = time.monotonic()
    while not over.is_set():
        share = share_at(time.monotonic() - begin)
        if share > 0:
            process.resume()
            over.wait(SLICE_S * share)
        process.suspend()
        over.wait(SLICE_S * (1 - share))


def share_at(seconds: float) -> float:
    """From 0 to 1 and back within `PERIOD_S`."""
    return math.sin(math.pi * seconds / PERIOD_S) ** 2


if __name__ == "__main__":
    main()
