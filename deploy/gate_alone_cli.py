"""``pocketgan gate`` where nothing was accepted yet: what history says, as a warning."""

from __future__ import annotations

import argparse
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def alone(console: Console, args: argparse.Namespace, job: str, why: str) -> int:
    """Measure a candidate without a baseline; decide nothing, and return the exit status.

    Args:
        console: Where to print.
        args: What the verb was given.
        job: What the candidate is for, as it is called in the store.
        why: Why there is no baseline, in a few words.

    Raises:
        ValueError, OSError, DeviceError: What a user can mend.
    """
    from deploy.gate_history import file_of, kept
    from devices.check import ready
    from devices.gate.history import RUNS, Steady, recall, warn_from_history
    from devices.gate.junit import not_compared
    from devices.gate.markdown import not_compared as not_compared_markdown
    from devices.measure_once import in_fresh_process
    from devices.sealed import read_sealed
    from devices.signature import configured

    bundle = Path(args.candidate)
    read_sealed(bundle, configured(args.key, os.environ))
    sealed, machine = ready(bundle)
    at = datetime.now(UTC)
    medians_ms = tuple(in_fresh_process(bundle).value("steady") for _ in range(RUNS))
    name = f"{job} on {sealed.profile.name}"
    entries = recall(file_of(args.history, machine))
    warning = warn_from_history(entries, name, machine.runtimes, medians_ms)
    steady = Steady(
        at=at,
        name=name,
        engine_sha256=sealed.sha256[sealed.engine_file],
        profile=sealed.profile.name,
        runtimes=machine.runtimes,
        medians_ms=medians_ms,
    )
    said = [f"latency {min(medians_ms):.2f} ms, the best of {RUNS} processes"]
    said += [f"warning: {warning}"] if warning else []
    said += kept(args.history, machine, [steady])
    for sentence in said:
        console.print(sentence, markup=False)
    console.print(f"{why}: nothing was compared", style="bold yellow", markup=False)
    for path, text in (
        (args.json, steady.model_dump_json() + "\n"),
        (args.markdown, not_compared_markdown(why, said)),
        (args.junit, not_compared(name, why)),
    ):
        if path is not None:
            path.write_text(text)
    return 0
