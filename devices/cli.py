"""``pocketgan check | gate | devices``: light at import, the work is in the room's other files."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from devices.gate import GateReport
    from devices.latency import LatencyReport, ModeName
    from devices.machine import Machine
    from devices.percentiles import Percentile
    from devices.profile import DeviceProfile

DEFAULT_ROUNDS = 10

STYLES = {"pass": "bold green", "slower": "bold red", "inconclusive": "bold yellow"}
WORDS = {
    "pass": "not slower",
    "slower": "slower",
    "inconclusive": "cannot say",
}


def add_arguments(name: str, parser: argparse.ArgumentParser) -> None:
    """Declare what a verb takes."""
    if name == "devices":
        parser.add_argument("name", nargs="?", help="show one profile in full (or a .toml file)")
        return
    if name == "check":
        parser.add_argument("bundle", type=Path, help="the bundle to measure")
        parser.add_argument(
            "--mode",
            choices=("rapid", "fast", "normal"),
            default="fast",
            help="how long: about 6, 10 or 60 seconds (default: fast)",
        )
        parser.add_argument(
            "--key",
            type=Path,
            help="public key, or a folder of them, one of which must have signed it "
            "(POCKETGAN_TRUSTED_KEYS)",
        )
    else:
        parser.add_argument("--baseline", type=Path, required=True, help="the accepted bundle")
        parser.add_argument("--candidate", type=Path, required=True, help="the new bundle")
        parser.add_argument(
            "--rounds",
            type=int,
            default=DEFAULT_ROUNDS,
            help=f"how often to measure each, at least 9 (default: {DEFAULT_ROUNDS})",
        )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write all that was measured"
    )


def run(name: str, args: argparse.Namespace) -> int:
    """Run a verb; return its exit status.

    Raises:
        ValueError, DeviceError: What a user can mend.
    """
    from rich.console import Console

    console = Console(highlight=False)
    if name == "check":
        return _check(console, args.bundle, args.mode, args.json, args.key)
    if name == "gate":
        return _gate(console, args.baseline, args.candidate, args.rounds, args.json)
    return _devices(console, args.name)


def _check(
    console: Console, bundle: Path, mode: ModeName, json: Path | None, key: Path | None
) -> int:
    from devices.check import measure_bundle, over_budget, ready
    from devices.latency import MODES
    from devices.sealed import read_sealed
    from devices.signature import configured

    _folder_of(json)
    # before anything of it is loaded
    read_sealed(bundle, configured(key, os.environ))
    sealed, machine = ready(bundle)
    profile = sealed.profile
    _facts(
        console,
        bundle=f"{bundle}: {sealed.backend} {sealed.precision}, {_size(profile)}, {profile.name}",
        machine=_machine(machine),
        mode=f"{mode}, at least {MODES[mode].min_seconds:g} s and {MODES[mode].min_samples} images",
    )
    report = measure_bundle(bundle, mode)
    if json is not None:
        json.write_text(report.model_dump_json() + "\n")
    _show_latency(console, report, profile)
    reasons = over_budget(report, profile.budget, profile.memory_mib)
    for reason in reasons:
        console.print(f"over budget: {reason}", style="bold red", markup=False)
    if not reasons:
        unjudged = [name for name in ("p50", "p90", "p99") if getattr(report, name) is None]
        but = (
            f"; {', '.join(unjudged)} not judged, --mode normal takes more images"
            if unjudged
            else ""
        )
        console.print(f"within the budget of {profile.name}{but}", style="bold green", markup=False)
    return 1 if reasons else 0


def _show_latency(console: Console, report: LatencyReport, profile: DeviceProfile) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD)
    table.add_column(f"{len(report.samples_ms)} images")
    for header in ("measured ms", "at most (99 %) ms", "budget ms"):
        table.add_column(header, justify="right")
    table.add_column("")
    for percent in (50, 90, 95, 99):
        got: Percentile | None = getattr(report, f"p{percent}")
        limit: float | None = getattr(profile.budget, f"p{percent}_ms", None)
        table.add_row(*_row(percent, got, limit, len(report.samples_ms)))
    console.print(table)
    _facts(
        console,
        load=f"{report.load_ms:.0f} ms, then {report.first_ms:.1f} ms for the first image",
        memory=f"{report.peak_rss_mib:.0f} MiB at most, of {profile.memory_mib}",
    )


def _row(percent: int, got: Percentile | None, limit: float | None, count: int) -> list[str]:
    from devices.percentiles import smallest_count

    budget = "" if limit is None else f"{limit:.1f}"
    if got is None:
        note = f"needs {smallest_count(percent)} images, has {count}"
        return [f"p{percent}", "-", "-", budget, f"[yellow]{note}[/]"]
    if limit is None:
        note = ""
    elif got.upper_ms <= limit:
        note = "[green]within[/]"
    else:
        note = "[red]over[/]" if got.value_ms > limit else "[red]not shown[/]"
    return [f"p{percent}", f"{got.value_ms:.2f}", f"{got.upper_ms:.2f}", budget, note]


def _gate(console: Console, baseline: Path, candidate: Path, rounds: int, json: Path | None) -> int:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    from devices.check import ready
    from devices.gate import EXIT_STATUS, compare
    from devices.measure_once import in_fresh_process

    _folder_of(json)
    _, machine = ready(baseline)
    ready(candidate)
    _facts(console, baseline=str(baseline), candidate=str(candidate), machine=_machine(machine))
    columns = ("rounds", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # redrawn between rounds only: a bar that moves by itself takes time from what is measured
    with Progress(
        *columns,
        console=console,
        auto_refresh=False,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task("", total=rounds)

        def on_round(done: int) -> None:
            progress.update(task, completed=done, refresh=True)

        report = compare(baseline, candidate, in_fresh_process, rounds=rounds, on_round=on_round)
    if json is not None:
        json.write_text(report.model_dump_json() + "\n")
    _show_gate(console, report)
    return EXIT_STATUS[report.judgement.verdict]


def _show_gate(console: Console, report: GateReport) -> None:
    import statistics

    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD)
    table.add_column(f"{len(report.baseline)} rounds")
    for header in ("median ms", "best round ms", "worst round ms", "images"):
        table.add_column(header, justify="right")
    for name, runs in (("baseline", report.baseline), ("candidate", report.candidate)):
        medians = [statistics.median(once.samples_ms) for once in runs]
        images = sum(len(once.samples_ms) for once in runs)
        numbers = (statistics.median(medians), min(medians), max(medians))
        table.add_row(name, *(f"{number:.2f}" for number in numbers), str(images))
    console.print(table)
    judgement = report.judgement
    console.print(
        f"{WORDS[judgement.verdict]}: {judgement.reason}",
        style=STYLES[judgement.verdict],
        markup=False,
    )


def _devices(console: Console, name: str | None) -> int:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from devices.machine import available, this_machine
    from devices.profile import load_profile, profile_names

    machine = this_machine()
    if name is not None:
        _show_profile(console, load_profile(name), machine)
        return 0
    profiles = [load_profile(name) for name in profile_names()]
    table = Table(box=SIMPLE_HEAD)
    table.add_column("profile", no_wrap=True)
    table.add_column("device", no_wrap=True)
    table.add_column("precisions", no_wrap=True)
    table.add_column("p50 ms", justify="right")
    table.add_column("here", no_wrap=True)
    for profile in profiles:
        here = "no" if available(profile, machine) else "[green]yes[/]"
        table.add_row(
            profile.name,
            profile.description,
            ", ".join(profile.precisions),
            "-" if profile.refused else f"{profile.budget.p50_ms:g}",
            "refused" if profile.refused else here,
            style="dim" if profile.refused else None,
        )
    console.print(table)
    for profile in profiles:
        if profile.refused:
            console.print(f"{profile.name}: {profile.refused}", style="dim", markup=False)
    _facts(console, machine=_machine(machine), runtimes=_runtimes(machine))
    console.print("pocketgan devices NAME shows one in full, and why it is not this machine.")
    return 0


def _show_profile(console: Console, profile: DeviceProfile, machine: Machine) -> None:
    import psutil
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from devices.catalogue import about_machine, facts_of, mode_row

    _facts(console, **facts_of(profile))
    if profile.power_modes:
        table = Table(box=SIMPLE_HEAD)
        table.add_column("power mode", no_wrap=True)
        for header in ("W", "GPU MHz", "CPU MHz"):
            table.add_column(header, justify="right")
        table.add_column("p50 / p90 / p99 ms", no_wrap=True)
        table.add_column("source", overflow="fold")
        for mode in profile.power_modes:
            table.add_row(*mode_row(mode))
        console.print(table)
    free_mib = psutil.virtual_memory().available / 2**20
    for fact in about_machine(profile, machine, free_mib):
        _facts(console, **{"this machine": fact})


def _facts(console: Console, **facts: str) -> None:
    """Aligned lines of name and value; a long value goes on under itself."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", min_width=12)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, Text(value))
    console.print(table)


def _machine(machine: Machine) -> str:
    parts = [
        machine.board,
        machine.cpu,
        f"{machine.cores} cores",
        f"{machine.memory_mib / 1024:.0f} GiB",
        machine.power_mode and f"power mode {machine.power_mode}",
        machine.governor and f"governor {machine.governor}",
        machine.system,
        f"fingerprint {machine.fingerprint()}",
    ]
    return ", ".join(part for part in parts if part)


def _runtimes(machine: Machine) -> str:
    return ", ".join(f"{name} {version}" for name, version in machine.runtimes.items()) or "none"


def _size(profile: DeviceProfile) -> str:
    return f"{profile.image_size} x {profile.image_size} pixels"


def _folder_of(json: Path | None) -> None:
    """Refuse before measuring, not after, a report that cannot be written."""
    if json is not None and not json.parent.is_dir():
        raise ValueError(f"--json {json}: there is no folder {json.parent}; make it first")
