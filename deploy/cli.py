"""``pocketgan deploy | inspect``: light at import, the work is in the room's other files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

SHEET = "sheet.png"
"""Drawn beside the bundle, not in it: pictures of somebody's photos should not travel unasked."""


def add_arguments(name: str, parser: argparse.ArgumentParser) -> None:
    """Declare what a verb takes."""
    if name == "inspect":
        parser.add_argument("bundle", type=Path, help="the bundle to look into")
        parser.add_argument("--json", action="store_true", help="print the manifest as it is")
        return
    parser.add_argument("export", type=Path, help="what pocketgan compress wrote")
    parser.add_argument(
        "--device", required=True, help="name of a device profile, or path of a .toml file"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the bundle")
    parser.add_argument(
        "--force", action="store_true", help="make it again even if it is up to date"
    )


def run(name: str, args: argparse.Namespace) -> int:
    """Run a verb; return its exit status.

    Raises:
        ValueError, OSError, RuntimeError: What a user can mend.
    """
    from rich.console import Console

    console = Console(highlight=False)
    if name == "inspect":
        from deploy.show import show_bundle

        return show_bundle(console, args.bundle, as_json=args.json)
    return _deploy(console, args.export, args.device, args.out, force=args.force)


def _deploy(console: Console, folder: Path, device: str, out: Path, *, force: bool) -> int:
    from rich.table import Table

    from deploy.artifacts import StudentExport
    from devices.machine import available
    from devices.profile import load_profile

    profile = load_profile(device)
    export = StudentExport.read(folder)
    from deploy.pipeline import STAGES, deploy
    from deploy.sheet import write_sheet
    from deploy.show import plain, summarise, unfinished

    def progress(stage: int, text: str) -> None:
        line = Table.grid(padding=(0, 2))
        line.add_column(style="dim", no_wrap=True)
        line.add_column(style="bold", width=max(len(name) for name in STAGES))
        line.add_column()
        line.add_row(f"{stage}/{len(STAGES)}", STAGES[stage - 1], plain(text))
        console.print(line)

    bundle = deploy(export, profile, out, progress=progress, force=force)
    sheet = bundle.path.with_name(SHEET)
    write_sheet(bundle, sheet)
    summarise(console, bundle)
    console.print(plain(f"{sheet} shows it"))
    if not bundle.manifest.compiled:
        console.print(
            unfinished(folder, device, out, available(profile)),
            style="yellow",
            markup=False,
            soft_wrap=True,  # so that the command can be copied
        )
    return 0
