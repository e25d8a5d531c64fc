"""``pocketgan check``: light at import, the work is in the room's other files."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from devices.remote.cli import add_remote_arguments, run_on
from devices.showing import machine_line, require_folder_of, show_facts, size_line

if TYPE_CHECKING:
    from rich.console import Console

    from devices.budget import Checked
    from devices.machine import Machine
    from devices.sealed import SealedEngine

STYLES = {"pass": "bold green", "over": "bold red", "inconclusive": "bold yellow"}


def add_arguments(name: str, parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("bundle", type=Path, help="the bundle to measure")
    parser.add_argument(
        "--mode",
        choices=("rapid", "fast", "normal"),
        default="fast",
        help="how long: about 6, 10 or 60 seconds, after 3, 5 or 10 cold starts (default: fast)",
    )
    parser.add_argument(
        "--key",
        type=Path,
        help="public key, or a folder of them, one of which must have signed it "
        "(POCKETGAN_TRUSTED_KEYS)",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write all that was measured"
    )
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="also write a table for a pull request"
    )
    parser.add_argument(
        "--junit", type=Path, metavar="FILE", help="also write JUnit XML, a test for each promise"
    )
    add_remote_arguments(parser)


def run(name: str, args: argparse.Namespace) -> int:
    """Run the verb; return its exit status.

    Raises:
        ValueError, DeviceError: What a user can mend.
    """
    from rich.console import Console

    from devices.check import ready
    from devices.reporting.files import write_reports
    from devices.sealed import read_sealed
    from devices.signature import configured

    if args.on is not None:
        return run_on(args)
    for option in ("json", "markdown", "junit"):
        require_folder_of(getattr(args, option), f"--{option}")
    for option in ("inventory", "export", "fetch"):
        if getattr(args, option) is not None:
            raise ValueError(f"--{option} is for boards: name them with --on, or leave it out")
    # before anything of it is loaded
    read_sealed(args.bundle, configured(args.key, os.environ))
    sealed, machine = ready(args.bundle)
    console = Console(highlight=False)
    checked = _measured(console, args, sealed, machine)
    if args.json is not None:
        args.json.write_text(checked.report.model_dump_json() + "\n")
    write_reports([checked], to_markdown=args.markdown, to_junit=args.junit)
    _show(console, checked)
    return checked.verdict.exit_status


def _measured(
    console: Console, args: argparse.Namespace, sealed: SealedEngine, machine: Machine
) -> Checked:
    from devices.budget import budget_row, judged
    from devices.check import measure_bundle
    from devices.latency import MODES
    from devices.measure_once import in_fresh_process
    from devices.telemetry.readers import readers_of_this_machine
    from devices.telemetry.watch import Watch

    profile = sealed.profile
    mode = MODES[args.mode]
    show_facts(
        console,
        bundle=f"{args.bundle}: {sealed.backend} {sealed.precision}, {size_line(profile)}, "
        f"{profile.name}",
        machine=machine_line(machine),
        budget=f"of {budget_row(profile, machine.power_mode)}",
        mode=f"{args.mode}, at least {mode.min_seconds:g} s and {mode.min_samples} images",
    )
    report = measure_bundle(
        args.bundle,
        args.mode,
        cold_start=lambda bundle: in_fresh_process(bundle).cold_ms,
        watch=Watch(readers_of_this_machine()),
        on_phase=lambda words: console.print(words, style="dim", markup=False),
    )
    return judged(str(args.bundle), report, profile)


def _show(console: Console, checked: Checked) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from devices.reporting.table import HEADERS, facts, rows, verdict_line

    table = Table(box=SIMPLE_HEAD)
    table.add_column(f"{len(checked.report.samples_ms)} images")
    for header in HEADERS:
        table.add_column(header, justify="right")
    table.add_column("")
    colours = {"pass": "green", "over": "red", "inconclusive": "yellow", None: "yellow"}
    for row in rows(checked):
        table.add_row(row.name, *row.cells, Text(row.note, style=colours[row.verdict]))
    console.print(table)
    _draw(console, checked)
    show_facts(console, **facts(checked))
    style = STYLES[checked.verdict.verdict]
    for reason in checked.verdict.reasons:
        console.print(f"- {reason}", style=style, markup=False)
    console.print(verdict_line(checked), style=style, markup=False)


def _draw(console: Console, checked: Checked) -> None:
    from rich.text import Text

    from devices.reporting.histogram import blocks_for, histogram

    latencies = [one for one in checked.verdict.promises if one.unit == "ms"]
    marks = {one.name: one.value for one in latencies if one.value is not None}
    marks |= {f"{one.name} budget": one.limit for one in latencies}
    lines = histogram(
        checked.report.samples_ms,
        marks=marks,
        width=console.width - 2,
        blocks=blocks_for(console.encoding),
    )
    for line in lines:
        console.print(Text(f"  {line}", no_wrap=True, overflow="crop"))
    console.print()
