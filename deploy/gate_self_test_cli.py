"""``pocketgan gate --self-test``: what the gate is worth on this very machine."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from devices.gate.report import GateReport
    from devices.gate.rounds import Measure, Pair
    from devices.gate.selftest import SelfTestReport, Trial

MOST_FALSE_ALARMS = 0.01
MOST_MISSED = 0.05
"""What a self-test must not show, with 95 % confidence, to be exceeded."""

DEFAULT_GATES = 20


def self_test(console: Console, args: argparse.Namespace) -> int:
    """Run gates whose answer is known; return the exit status.

    Raises:
        ValueError, OSError, DeviceError: What a user can mend.
    """
    from deploy.gate_history import file_of, spread_of
    from deploy.gate_show import progress_of, show_self_test
    from deploy.gating import gate
    from devices.check import ready
    from devices.gate.judge import LOOKS
    from devices.gate.selftest import run_self_test
    from devices.measure_once import in_fresh_process
    from devices.sealed import read_sealed
    from devices.showing import machine_line, show_facts
    from devices.signature import configured
    from devices.telemetry.readers import readers_of_this_machine
    from devices.telemetry.watch import Watch

    bundle = Path(args.baseline)
    read_sealed(bundle, configured(args.key, os.environ))
    _, machine = ready(bundle)
    spread = spread_of(args.history, machine)
    rounds = LOOKS[-1] if args.rounds is None else args.rounds
    gates = DEFAULT_GATES if args.gates is None else args.gates
    show_facts(console, bundle=args.baseline, machine=machine_line(machine))

    def one(pairs: Sequence[Pair], measure: Measure) -> GateReport:
        return gate(
            pairs,
            measure,
            rounds=rounds,
            known_spread=spread,
            watching=lambda: Watch(readers_of_this_machine()),
        )

    with progress_of(console, "gates") as on_gate:

        def on_trial(done: int, trial: Trial) -> None:
            on_gate(done, 2 * gates)

        report = run_self_test(
            bundle,
            in_fresh_process,
            gates=gates,
            gate=one,
            history=file_of(args.history, machine),
            on_trial=on_trial,
        )
    show_self_test(console, report)
    if args.json is not None:
        args.json.write_text(report.model_dump_json() + "\n")
    status, text, style = _judged(report)
    console.print(text, style=style, markup=False)
    return status


def _judged(report: SelfTestReport) -> tuple[int, str, str]:
    """Exit status, words and their style."""
    if not report.caught.hits + report.missed.hits:
        return 2, "cannot say: every slower engine was inconclusive here", "bold yellow"
    if report.false_alarms.at_least > MOST_FALSE_ALARMS:
        return 1, f"false alarms come more often than {MOST_FALSE_ALARMS:.0%} here", "bold red"
    if report.missed.at_least > MOST_MISSED:
        return 1, f"slow-downs pass more often than {MOST_MISSED:.0%} here", "bold red"
    return 0, "nothing speaks against this gate on this machine", "bold green"
