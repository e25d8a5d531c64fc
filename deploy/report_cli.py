"""``pocketgan report``: light at import, the work is in ``deploy.report``."""

from __future__ import annotations

import argparse
from pathlib import Path

REPORT = "report.html"
"""Written beside the bundle, not in it, as pictures should not travel unasked."""


def add_arguments(name: str, parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE", help="what to show")
    parser.add_argument(
        "--out", type=Path, help=f"the .html file; {REPORT} beside the first bundle if left out"
    )
    parser.add_argument(
        "--private", action="store_true", help="leave out the images, for photos not to be shown"
    )


def run(name: str, args: argparse.Namespace) -> int:
    """Write the report; return the exit status.

    Raises:
        ValueError, OSError, RuntimeError: What a user can mend.
    """
    from rich.console import Console

    from deploy.artifacts import Bundle
    from deploy.report.write import write_report

    bundles = [Bundle.read(folder) for folder in args.bundles]
    out: Path = args.out or bundles[0].path.resolve().with_name(REPORT)
    left_out = write_report(bundles, out, private=args.private)
    console = Console(highlight=False)
    for line in left_out:
        console.print(f"left out: {line}", style="yellow", markup=False, soft_wrap=True)
    shown = "holds no images" if args.private else "holds parts of golden images"
    console.print(f"{out} ({out.stat().st_size / 1024:.0f} KiB, {shown})", markup=False)
    return 0
