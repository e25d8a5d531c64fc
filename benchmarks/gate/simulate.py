"""Which rule finds a slow-down, and which cries wolf? Plays recorded noise back through them.

`benchmarks/gate/noise` holds what one machine measured of one engine in fresh processes: idle, with
a busy neighbour, and with one that comes and goes. A gate begins at every process in turn; its
candidate is the same engine, its times multiplied. Printed are, of each rule, false alarms with two
equal sides and the share of slow-downs that it calls; drawn are the one against the other.

The other rules are played twice: with as many processes as our gate needs on average, at the
slow-down where it needs most of them, and with as many as they take by themselves. Ends with
status 1 if one of them has both fewer false alarms and more power, in no more time than ours.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from replay import Playback, Stream, both_sides, read_stream
from rules import RULES, RUN_SECONDS, Rule, pocketgan
from scores import SLOWDOWNS, Score, claim, table

NOISE = Path(__file__).parent / "noise"
CONDITIONS = ("idle", "busy", "drift")
OURS = "pocketgan"
OUR_TIME = "ours"
OWN_TIME = "its own"


def main() -> int:
    """Play, print, draw; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--noise", type=Path, default=NOISE, help="folder of recorded noise")
    parser.add_argument("--gates", type=int, default=2000, help="of each kind, at most")
    parser.add_argument(
        "--wait-seconds",
        type=float,
        default=120,
        help="between a stored baseline and its candidate (default: 120)",
    )
    parser.add_argument("--out", type=Path, help="draw gate-simulation.png into this folder")
    args = parser.parse_args()
    if args.gates < 1:
        parser.error(f"--gates must be at least 1, got {args.gates}")
    files = [args.noise / f"{name}.jsonl.gz" for name in CONDITIONS]
    missing = [str(file) for file in files if not file.exists()]
    if missing:
        parser.error(f"no {', '.join(missing)}; record with benchmarks/gate/record.py")
    if args.out and importlib.util.find_spec("matplotlib") is None:
        parser.error("--out draws with matplotlib: pip install 'pocketgan[metrics]'")
    played: dict[str, list[Score]] = {}
    lines = []
    for file in files:
        stream = read_stream(file)
        scores = play(stream, starts(stream, args.gates), args.wait_seconds)
        played[stream.condition] = scores
        show(stream, scores)
        lines += claim(stream.condition, scores[0], in_no_more_time(scores))
    print("\n".join(lines))
    if args.out:
        # matplotlib belongs to an extra, and the tables need none
        from plot import draw  # noqa: PLC0415

        print(f"drew {draw(played, args.out)}")
    kept = not any("FAILED" in line for line in lines)
    print("verdict: passed" if kept else "verdict: FAILED")
    return 0 if kept else 1


def starts(stream: Stream, gates: int) -> list[int]:
    """Where gates begin: as many processes of the stream, evenly apart, none of them twice."""
    count = len(stream.processes)
    return [int(at) for at in np.linspace(0, count, min(gates, count), endpoint=False)]


def play(stream: Stream, begin: Sequence[int], wait_s: float) -> list[Score]:
    """All rules on one stream, ours first."""
    ours, most = play_ours(stream, begin)
    scores = [ours]
    for rule in RULES:
        own = rule.processes or processes_for(RUN_SECONDS, stream)
        scores.append(play_rule(stream, begin, rule, math.ceil(most / 2), OUR_TIME, wait_s))
        scores.append(play_rule(stream, begin, rule, own, OWN_TIME, wait_s))
    return scores


def play_ours(stream: Stream, begin: Sequence[int]) -> tuple[Score, float]:
    """Our gate, and the processes it needs on average at the slow-down where it needs most."""
    slower, passed, processes, seconds = {}, {}, {}, {}
    for slowdown in (0.0, *SLOWDOWNS):
        gates = [Playback(stream, start, slowdown) for start in begin]
        verdicts = [pocketgan(gate) for gate in gates]
        slower[slowdown] = verdicts.count("slower")
        passed[slowdown] = verdicts.count("pass")
        processes[slowdown] = float(np.mean([gate.processes for gate in gates]))
        seconds[slowdown] = float(np.mean([gate.seconds for gate in gates]))
    score = Score(
        rule=OURS,
        given=OUR_TIME,
        processes=float(np.mean(list(processes.values()))),
        seconds=float(np.mean(list(seconds.values()))),
        gates=len(begin),
        false_alarms=slower.pop(0.0),
        caught=slower,
        passed=passed,
    )
    return score, max(processes.values())


def play_rule(
    stream: Stream, begin: Sequence[int], rule: Rule, each: int, given: str, wait_s: float
) -> Score:
    """Another rule, with so many processes of each side."""
    slower = {}
    seconds = 0.0
    for slowdown in (0.0, *SLOWDOWNS):
        gates = [Playback(stream, start, slowdown) for start in begin]
        sides = (both_sides(gate, rule.order, each, wait_s=wait_s) for gate in gates)
        slower[slowdown] = sum(rule.slower(*both) for both in sides)
        seconds = float(np.mean([gate.seconds for gate in gates]))
    return Score(
        rule=rule.name,
        given=given,
        processes=2 * each,
        seconds=seconds,
        gates=len(begin),
        false_alarms=slower.pop(0.0),
        caught=slower,
    )


def processes_for(seconds: float, stream: Stream) -> int:
    """How many of a stream's processes have images for so long."""
    of_one = float(np.median([one.samples_ms.sum() for one in stream.processes])) / 1000
    return max(1, math.ceil(seconds / of_one))


def in_no_more_time(scores: Sequence[Score]) -> list[Score]:
    """The other rules, where they did not run more processes than they were given."""
    given = max(one.processes for one in scores[1:] if one.given == OUR_TIME)
    return [one for one in scores[1:] if one.processes <= given]


def show(stream: Stream, scores: Sequence[Score]) -> None:
    """Print what became of a stream."""
    ours = scores[0]
    medians = np.array([np.median(one.samples_ms) for one in stream.processes])
    apart = np.abs(np.diff(np.log(medians)))
    others = np.median([one.others_cores for one in stream.processes])
    print(
        f"## {stream.condition}\n\n"
        f"{len(medians)} processes in {stream.seconds / 60:.1f} minutes; medians from "
        f"{medians.min():.2f} to {medians.max():.2f} ms, half of the neighbours more than "
        f"{np.median(apart):.1%} apart; others kept {others:.1f} cores busy. {ours.gates} gates of "
        f"each kind, which overlap: some {len(medians) / ours.processes:.0f} share no process.\n"
    )
    print("\n".join(table(scores)))
    if ours.passed is not None:
        told = []
        for slowdown in (0.0, *SLOWDOWNS):
            slower = ours.false_alarms if slowdown == 0.0 else ours.caught[slowdown]
            passed = ours.passed[slowdown]
            unsure = ours.gates - slower - passed
            told.append(
                f"| {slowdown:.0%} | {passed / ours.gates:.1%} | {unsure / ours.gates:.1%} "
                f"| {slower / ours.gates:.1%} |"
            )
        print("\n| slow-down | pocketgan: pass | inconclusive | slower |\n|---|---|---|---|")
        print("\n".join(told) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
