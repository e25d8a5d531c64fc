"""``pocketgan gate``: light at import, the work is in the room's other files."""

from __future__ import annotations

import argparse
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from deploy.gate_sides import Sides


def add_arguments(name: str, parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument(
        "--baseline",
        required=True,
        metavar="WHAT",
        help="a bundle, a folder of them, an .onnx file, store:NAME or rev:REVISION",
    )
    parser.add_argument("--candidate", metavar="WHAT", help="what may be slower; of the same kind")
    parser.add_argument(
        "--rounds", type=int, metavar="N", help="measure each so often at most (default: 27)"
    )
    parser.add_argument("--bundle", type=Path, help="with rev: what both revisions measure")
    parser.add_argument("--device", metavar="PROFILE", help="with .onnx files: what they run as")
    parser.add_argument(
        "--store", type=Path, metavar="DIR", help="with store: where accepted bundles are kept"
    )
    parser.add_argument(
        "--accept", action="store_true", help="with store: a candidate that passes is accepted"
    )
    parser.add_argument(
        "--history",
        type=Path,
        metavar="FILE",
        help="what this machine has shown before (default: a file per machine)",
    )
    parser.add_argument(
        "--self-test",
        action="store_true",
        help="compare the baseline with itself and with a slower self, and count the answers",
    )
    parser.add_argument(
        "--gates", type=int, metavar="N", help="with --self-test: gates of each kind (default: 20)"
    )
    parser.add_argument(
        "--key",
        type=Path,
        help="public key, or a folder of them, one of which must have signed every bundle "
        "(POCKETGAN_TRUSTED_KEYS)",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write all that was measured"
    )
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="also write a summary for a pull request"
    )
    parser.add_argument(
        "--junit", type=Path, metavar="FILE", help="also write the answers as JUnit XML"
    )


def run(name: str, args: argparse.Namespace) -> int:
    """Run the verb; return its exit status.

    Raises:
        ValueError, OSError, DeviceError: What a user can mend.
    """
    from rich.console import Console

    console = Console(highlight=False)
    _check_options(args)
    if args.self_test:
        from deploy.gate_self_test_cli import self_test

        return self_test(console, args)
    with tempfile.TemporaryDirectory(prefix="pocketgan-gate-") as folder:
        if _is_stored(args.baseline):
            return _gate_stored(console, args, Path(folder))
        return _compare(console, args, _sides(args, Path(args.baseline), Path(folder)))


def _check_options(args: argparse.Namespace) -> None:
    """Refuse what would be ignored, or could not be written, before anything is measured."""
    from devices.showing import require_folder_of

    for option in ("json", "markdown", "junit"):
        require_folder_of(getattr(args, option), f"--{option}")
    stored, revision = _is_stored(args.baseline), _is_revision(args.baseline)
    wrong = (
        (args.candidate is None and not args.self_test, "--candidate is missing: compare what?"),
        (args.self_test and args.candidate is not None, "--self-test takes no --candidate"),
        (args.self_test and (stored or revision), "--self-test takes a bundle as --baseline"),
        (args.self_test and bool(args.markdown or args.junit), "--self-test writes only --json"),
        (args.gates is not None and not args.self_test, "--gates goes with --self-test"),
        (stored and args.store is None, f"{args.baseline} is looked for in --store DIR"),
        (args.store is not None and not stored, "--store goes with --baseline store:NAME"),
        (args.accept and not stored, "--accept goes with --baseline store:NAME"),
        (
            args.candidate is not None and revision != _is_revision(args.candidate),
            "give two revisions (rev:main and rev:HEAD) or none",
        ),
        (
            revision != (args.bundle is not None),
            "--bundle goes with two revisions, and they need it",
        ),
        (args.device is not None and (stored or revision), "--device goes with two .onnx files"),
    )
    for is_wrong, message in wrong:
        if is_wrong:
            raise ValueError(message)


def _is_revision(given: str) -> bool:
    from deploy.revisions import PREFIX

    return given.startswith(PREFIX)


def _is_stored(given: str) -> bool:
    from deploy.baselines import PREFIX

    return given.startswith(PREFIX)


def _sides(args: argparse.Namespace, baseline: Path, working: Path) -> Sides:
    from deploy.gate_sides import of_paths, of_revisions
    from devices.measure_once import in_fresh_process
    from devices.profile import load_profile
    from devices.signature import configured

    trusted = configured(args.key, os.environ)
    if args.bundle is not None:
        return of_revisions(
            args.baseline, args.candidate, args.bundle, working=working, trusted=trusted
        )
    return of_paths(
        baseline,
        Path(args.candidate),
        in_fresh_process,
        working=working,
        trusted=trusted,
        device=None if args.device is None else load_profile(args.device),
    )


def _gate_stored(console: Console, args: argparse.Namespace, working: Path) -> int:
    """Compare with the accepted bundle, if there is one, and accept a candidate that passes."""
    from deploy.baselines import PREFIX, Store
    from deploy.gate_alone_cli import alone
    from devices.sealed import read_sealed

    store, job = Store(args.store), args.baseline.removeprefix(PREFIX)
    candidate = Path(args.candidate)
    device = read_sealed(candidate).profile.name
    baseline = store.baseline(job, device)
    if baseline is None:
        why = f"no baseline for {job} on {device} in {store.root}"
        status = alone(console, args, job, why)
    else:
        status = _compare(console, args, _sides(args, baseline, working))
    if args.accept and status == 0:
        accepted = store.accept(job, candidate)
        words = f"accepted as the baseline of {job} on {device}: {accepted.sha256[:12]}"
        console.print(words, markup=False)
    return status


def _compare(console: Console, args: argparse.Namespace, sides: Sides) -> int:
    """Measure, print, write and remember; return the exit status."""
    from deploy.gate_history import entries_of, kept, spread_of
    from deploy.gate_show import progress_of, show_gate
    from deploy.gate_sides import require_ready
    from deploy.gating import gate
    from devices.gate.judge import LOOKS
    from devices.gate.junit import junit
    from devices.gate.markdown import markdown
    from devices.machine import this_machine
    from devices.showing import machine_line, show_facts
    from devices.telemetry.readers import readers_of_this_machine
    from devices.telemetry.watch import Watch

    machine = this_machine()
    require_ready(sides.pairs, machine)
    show_facts(
        console,
        baseline=args.baseline,
        candidate=args.candidate,
        machine=machine_line(machine),
    )
    began = datetime.now(UTC)
    with progress_of(console, "rounds") as on_round:
        report = gate(
            sides.pairs,
            sides.measure,
            rounds=LOOKS[-1] if args.rounds is None else args.rounds,
            known_spread=spread_of(args.history, machine),
            watching=lambda: Watch(readers_of_this_machine()),
            on_round=on_round,
        )
    notes = [*sides.notes, *kept(args.history, machine, entries_of(sides, report, began))]
    show_gate(console, report, notes)
    for path, text in (
        (args.json, report.model_dump_json() + "\n"),
        (args.markdown, markdown(report, notes)),
        (args.junit, junit(report)),
    ):
        if path is not None:
            path.write_text(text)
    return report.exit_status
