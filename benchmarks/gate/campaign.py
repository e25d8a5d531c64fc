"""Measure the gate itself: hundreds of gates of which the right answer is known.

Four kinds take turns, so that the machine's mood is in all of them: on the machine as it is
(``idle``) or beside a neighbour that keeps one core busy (``busy``), and a bundle against a copy of
itself (``aa``) or against a copy with known extra work beside each image (``slow``).

    python benchmarks/gate/campaign.py BUNDLE --out DIR            runs what is missing
    python benchmarks/gate/campaign.py BUNDLE --out DIR --report   prints what is there

It may be stopped at any moment and goes on where it was; of a gate that was not over nothing stays.
DIR holds:

* ``campaign.json``: `Setup`, with the work that makes the slow-down in each condition;
* ``gates.jsonl``: one `ledger.GateLine` per gate, added when it is over; no gate is left out;
* ``raw/NNNN-KIND.jsonl.gz``: everything that gate ``NNNN`` measured, one `ledger.Process` per
  line, in the order they ran;
* ``baseline/``, ``candidate/``: the bundle and its copy;
* ``code/``: the measuring code as it was when the campaign began. All of the campaign runs it,
  whatever happens to the checkout meanwhile.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Literal

import numpy as np
from ledger import (
    KINDS,
    GateLine,
    Kind,
    Numbers,
    Process,
    add_gate,
    gates_in,
    said,
    table,
)
from neighbour import neighbour
from processor import neighbours, used

import devices
from devices.gate.judge import LOOKS
from devices.gate.report import GateReport, Once
from devices.gate.rounds import Measure, Pair, compare
from devices.gate.selftest import MeasureLaden, Twins, calibrated_units, injected, known_gate
from devices.measure_once import in_fresh_process
from devices.profile import Frozen
from devices.session import DeviceError

COUNTS: Mapping[Kind, int] = {"idle-aa": 150, "busy-aa": 150, "idle-slow": 100, "busy-slow": 100}
SETTLE_S = 0.5
CALIBRATION_PAIRS = 9
CURVE_PAIRS = 60
FAILURES_IN_A_ROW = 3


class Setup(Frozen):
    """What stays the same over a campaign.

    Attributes:
        began_s: Seconds since the epoch.
        slowdown: What the extra work shall make.
        neighbour: How the neighbour works, ``--steady`` or ``--bursts``; ``others`` where somebody
            else keeps a core busy.
        rounds: Of a gate, at most.
        units: Extra work beside each image, by condition.
    """

    schema_version: Literal[1] = 1
    began_s: float
    slowdown: float
    neighbour: str
    rounds: int
    units: dict[str, int]


def main(argv: Sequence[str] | None = None, measure: MeasureLaden = in_fresh_process) -> None:
    """Run what is missing, and print what is there."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle", type=Path, help="it must run on this machine")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--count", type=counts, default=COUNTS, metavar="KIND=N,...")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no gate later")
    parser.add_argument("--slowdown", type=float, default=0.1, help="default: 0.1, which is 10 %%")
    parser.add_argument("--rounds", type=int, default=LOOKS[-1], help="of a gate, at most")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--bursts", action="store_true", help="the neighbour rests now and then")
    how.add_argument(
        "--others", action="store_true", help="busy kinds only: others keep a core busy already"
    )
    parser.add_argument("--units", type=int, help="of extra work, instead of calibrating it")
    parser.add_argument(
        "--curve", type=works, metavar="N,N,...", help="only: what so much work makes of the engine"
    )
    parser.add_argument("--report", action="store_true", help="measure nothing")
    parser.add_argument("--short", action="store_true", help="one small gate, to see that it works")
    args = parser.parse_args(argv)
    if args.short:
        args.count, args.rounds = {"busy-slow": 1}, LOOKS[1]
    if args.others and not all(kind.startswith("busy") for kind in args.count):
        parser.error("--others keep a core busy: no idle kind can run beside them; give --count")
    if args.curve:
        curve(args.bundle, measure, args.curve, CURVE_PAIRS)
        return
    if not args.report:
        if argv is None:  # as a program
            run_from_copy(args.out)
        try:
            run(args, measure)
        except KeyboardInterrupt:
            print("\nstopped; the same command goes on", flush=True)
    print(table(gates_in(args.out)))


def counts(text: str) -> dict[Kind, int]:
    """Read ``idle-aa=150,busy-slow=100``.

    Raises:
        ArgumentTypeError: That is something else.
    """
    found: dict[Kind, int] = {}
    for part in text.split(","):
        name, _, count = part.partition("=")
        kind = next((kind for kind in KINDS if kind == name), None)
        if kind is None or not count.isdecimal():
            raise argparse.ArgumentTypeError(f"{part!r} is no KIND=N; kinds: {', '.join(KINDS)}")
        found[kind] = int(count)
    return found


def works(text: str) -> list[int]:
    """Read ``100,200``."""
    return [int(part) for part in text.split(",")]


def run(args: argparse.Namespace, measure: MeasureLaden) -> None:
    """Run gates until there are as many as asked, or the time is over."""
    end = time.monotonic() + 60 * args.minutes
    twins = Twins(*(copied(args.bundle, args.out / name) for name in ("baseline", "candidate")))
    setup = set_up(args, twins.baseline, measure)
    failures = 0
    while time.monotonic() < end:
        done = gates_in(args.out)
        kind = next_kind(done, args.count)
        if kind is None:
            return
        line, processes = one_gate(len(done), twins, kind, setup, measure)
        add_gate(args.out, line, processes)
        print(said(line), flush=True)
        failures = failures + 1 if line.verdict == "failed" else 0
        if failures == FAILURES_IN_A_ROW:
            raise SystemExit(f"{failures} gates in a row failed; see {args.out}")


def copied(folder: Path, to: Path) -> Path:
    """Copy a folder, whole or not at all, unless that was done before."""
    if not to.is_dir():
        part = to.with_name(f"{to.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(folder, part, ignore=shutil.ignore_patterns("__pycache__"))
        part.rename(to)
    return to


def set_up(args: argparse.Namespace, bundle: Path, measure: MeasureLaden) -> Setup:
    """What the campaign began with; extra work is calibrated where its kind is first asked for."""
    path = args.out / "campaign.json"
    how = "others" if args.others else "--bursts" if args.bursts else "--steady"
    setup = Setup(
        began_s=time.time(), slowdown=args.slowdown, neighbour=how, rounds=args.rounds, units={}
    )
    if path.is_file():
        setup = Setup.model_validate_json(path.read_text())
        if (args.slowdown, how, args.rounds) != (setup.slowdown, setup.neighbour, setup.rounds):
            raise SystemExit(
                f"{args.out} was begun with --slowdown {setup.slowdown} --rounds {setup.rounds} "
                f"and a neighbour {setup.neighbour}; go on like that or take another --out"
            )
    asked = {kind.removesuffix("-slow") for kind in args.count if kind.endswith("-slow")}
    for condition in sorted(asked - setup.units.keys()):
        with surroundings(condition, how):
            time.sleep(SETTLE_S)
            pairs = 1 if args.short else CALIBRATION_PAIRS
            units = args.units or calibrated_units(bundle, measure, args.slowdown, pairs=pairs)
        print(f"{condition}: {args.slowdown:.0%} are {units} units of work", flush=True)
        setup = setup.model_copy(update={"units": setup.units | {condition: units}})
    path.write_text(setup.model_dump_json(indent=1) + "\n")
    return setup


def curve(bundle: Path, measure: MeasureLaden, works: Sequence[int], pairs: int) -> None:
    """Print what some amounts of work make of an engine here, with quartiles over the pairs."""
    seen: dict[int, list[float]] = {work: [] for work in works}
    for number in range(pairs):
        for work in works:
            # as in a gate, neither side is always the first: beside a neighbour that matters
            order = (work, 0) if number % 2 else (0, work)
            one, other = (measure(bundle, work=units).value("steady") for units in order)
            seen[work].append((one / other if number % 2 else other / one) - 1)
    for work, found in seen.items():
        low, middle, high = np.percentile(found, (25, 50, 75))
        print(f"{work} units of work: {middle:+.1%} ({low:+.1%} to {high:+.1%}, {pairs} pairs)")


def next_kind(done: Sequence[GateLine], wanted: Mapping[Kind, int]) -> Kind | None:
    """The kind that is most behind; None where nothing is missing."""
    have = {kind: sum(line.kind == kind for line in done) for kind in wanted}
    behind = [kind for kind in wanted if have[kind] < wanted[kind]]
    return min(behind, key=lambda kind: have[kind] / wanted[kind], default=None)


def one_gate(
    number: int, twins: Twins, kind: Kind, setup: Setup, measure: MeasureLaden
) -> tuple[GateLine, list[Process]]:
    """Run one gate; what it said, and everything it measured."""
    condition, _, what = kind.partition("-")
    units = setup.units[condition] if what == "slow" else 0
    processes: list[Process] = []

    def recorded(bundle: Path, *, work: int = 0) -> Once:
        at_s = time.time() - setup.began_s
        once = measure(bundle, work=work)
        took_s = time.time() - setup.began_s - at_s
        side = "candidate" if bundle == twins.candidate else "baseline"
        processes.append(process(once, number, kind, side, work, at_s, took_s))
        return once

    def gate(pairs: Sequence[Pair], measure: Measure) -> GateReport:
        return compare(pairs, measure, rounds=setup.rounds)

    report, reason = None, ""
    with surroundings(condition, setup.neighbour) as pid:
        earlier = used(pid)
        time.sleep(SETTLE_S)
        at_s, begin = time.time() - setup.began_s, used(pid)
        try:
            report = known_gate(twins, recorded, units=units, gate=gate)
        except DeviceError as error:
            reason = str(error)
        end = used(pid)
    line = GateLine(
        gate=number,
        kind=kind,
        verdict=report.verdict if report else "failed",
        reason=report.reasons[0] if report else reason,
        called=called(report) if report else (),
        at_s=at_s,
        rounds=len(report.pairs[0].baseline) if report else 0,
        seconds=end.everyone.at_s - begin.everyone.at_s,
        units=units,
        numbers=numbers(report) if report else None,
        neighbours=neighbours(earlier, begin, end, with_own=pid is not None),
    )
    return line, processes


def surroundings(condition: str, how: str) -> AbstractContextManager[int | None]:
    """The machine as it is, or with a neighbour, whose process id it is then."""
    ours = condition == "busy" and how != "others"
    return neighbour(how) if ours else nullcontext()


def process(
    once: Once, gate: int, kind: Kind, side: str, work: int, at_s: float, took_s: float
) -> Process:
    """What is kept of a process: a tenth of a microsecond is finer than any clock here."""
    return Process(
        gate=gate,
        kind=kind,
        condition=kind.partition("-")[0],
        side=side,
        work=work,
        at_s=round(at_s, 3),
        took_s=round(took_s, 3),
        samples_ms=tuple(round(one, 4) for one in once.samples_ms),
        cold_ms=round(once.cold_ms, 4),
        load_ms=round(once.load_ms, 4),
        first_ms=round(once.first_ms, 4),
        peak_rss_mib=once.peak_rss_mib,
    )


def called(report: GateReport) -> tuple[str, ...]:
    """What a gate called slower."""
    [pair] = report.pairs
    return tuple(cell.measured for cell in pair.cells if cell.judgement.verdict == "slower")


def numbers(report: GateReport) -> Numbers:
    """What a gate says of the latency."""
    [pair] = report.pairs
    judgement = pair.cell("steady")
    return Numbers(
        slowdown=judgement.slowdown,
        upper=judgement.upper,
        p_value=judgement.p_value,
        spread=judgement.spread,
        visible=judgement.visible,
        injected=injected(pair),
        baseline_ms=statistics.median(once.value("steady") for once in pair.baseline),
    )


def run_from_copy(out: Path) -> None:
    """Start again with a copy of the measuring code, which nobody changes."""
    source = Path(devices.__file__).parent
    code = out.resolve() / "code"
    if source.parent == code:
        return
    copied(source, code / "devices")
    path = os.pathsep.join([str(code), *filter(None, [os.environ.get("PYTHONPATH")])])
    os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {"PYTHONPATH": path})


if __name__ == "__main__":
    main()
