"""``pocketgan check --on``: light at import, the work is in the package's other files."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from devices.remote.fleet import BoardResult
    from devices.remote.inventory import Inventory

INVENTORY = "POCKETGAN_INVENTORY"
DEFAULT_INVENTORY = Path("boards.toml")
STYLES = {0: "bold green", 1: "bold red", 2: "bold yellow"}

State = tuple[str, float | None]


def add_remote_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what measuring on other machines takes."""
    group = parser.add_argument_group("on other machines, over ssh")
    group.add_argument(
        "--on",
        metavar="HOST[,HOST...]",
        help="measure there: names of the inventory or destinations for ssh; all for every board "
        "of the inventory",
    )
    group.add_argument(
        "--inventory",
        type=Path,
        metavar="FILE",
        help=f"the boards that are known ({INVENTORY}, or ./{DEFAULT_INVENTORY} where it is)",
    )
    group.add_argument(
        "--export",
        type=Path,
        metavar="FOLDER",
        help="what a bundle that is not compiled was made of: each board finishes its own",
    )
    group.add_argument(
        "--fetch",
        type=Path,
        metavar="FOLDER",
        help="bring the finished bundles back, each into a folder with its board's name",
    )


def run_on(args: argparse.Namespace) -> int:
    """Measure ``args.bundle`` on the boards of ``args.on``; return the worst exit status.

    Raises:
        ValueError, OSError: What a user can mend before any board is spoken to.
    """
    from rich.console import Console

    from devices.budget import judged
    from devices.remote.fleet import FleetReport, check_on
    from devices.remote.inventory import choose
    from devices.reporting.files import write_reports
    from devices.sealed import read_sealed
    from devices.showing import require_folder_of
    from devices.signature import configured

    console = Console(highlight=False)
    for option in ("json", "markdown", "junit"):
        require_folder_of(getattr(args, option), f"--{option}")
    trusted = configured(args.key, os.environ)
    inventory = find_inventory(args.inventory, os.environ)
    hosts = [host.strip() for host in args.on.split(",") if host.strip()]
    profile = read_sealed(args.bundle, trusted).profile
    notes = {each.name: each.board.note for each in choose(hosts, inventory, profile.name)}

    def check(on_step: Callable[[str, str, float | None], None]) -> tuple[BoardResult, ...]:
        return check_on(
            hosts,
            args.bundle,
            mode=args.mode,
            inventory=inventory,
            export=args.export,
            fetch=args.fetch,
            trusted=trusted,
            on_step=on_step,
        )

    show = _live if console.is_terminal else _plain
    report = FleetReport(profile=profile.name, boards=show(console, notes, check))
    if args.json is not None:
        args.json.write_text(report.model_dump_json() + "\n")
    titles = {each.name: f"{args.bundle} on {each.name}" for each in report.boards}
    write_reports(
        [judged(titles[each.name], each.report, profile) for each in report.boards if each.report],
        {titles[each.name]: each.reason for each in report.boards if each.report is None},
        to_markdown=args.markdown,
        to_junit=args.junit,
    )
    _show(console, report.boards, notes)
    return report.exit_status


def find_inventory(given: Path | None, environ: Mapping[str, str]) -> Inventory | None:
    """The inventory: the one given, that of the environment, ``boards.toml`` here, or none.

    Raises:
        ValueError: The one given is not there, or no inventory.
    """
    from devices.remote.inventory import read_inventory

    if given is not None:
        return read_inventory(given)
    if environ.get(INVENTORY):
        return read_inventory(Path(environ[INVENTORY]))
    return read_inventory(DEFAULT_INVENTORY) if DEFAULT_INVENTORY.is_file() else None


Check = Callable[[Callable[[str, str, float | None], None]], "tuple[BoardResult, ...]"]


def _live(console: Console, notes: Mapping[str, str], check: Check) -> tuple[BoardResult, ...]:
    """Check, with a table that says what each board is at."""
    from rich.live import Live

    states: dict[str, State] = dict.fromkeys(notes, ("waiting", None))

    def on_step(name: str, doing: str, share: float | None) -> None:
        states[name] = (doing, share)  # one thread a board: no two write the same

    with Live(
        console=console,
        get_renderable=lambda: _progress(states),
        refresh_per_second=4,
        transient=True,
    ):
        return check(on_step)


def _progress(states: Mapping[str, State]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for name, (doing, share) in list(states.items()):
        done = "" if share is None else f"{share:.0%}"
        table.add_row(Text(name, style="bold"), Text(doing), done)
    return table


def _plain(console: Console, notes: Mapping[str, str], check: Check) -> tuple[BoardResult, ...]:
    """Check, with a line for each step of each board."""

    def on_step(name: str, doing: str, share: float | None) -> None:
        if share is None:
            _line(console, f"{name}: {doing}")

    return check(on_step)


def _show(console: Console, boards: tuple[BoardResult, ...], notes: Mapping[str, str]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from devices.budget import EXIT_STATUS, WORDS

    words = {EXIT_STATUS[verdict]: word for verdict, word in WORDS.items()}
    table = Table(box=SIMPLE_HEAD)
    table.add_column("board")
    for header in ("p50 ms", "p90 ms", "p99 ms"):
        table.add_column(header, justify="right")
    table.add_column("")
    for each in boards:
        got = [getattr(each.report, f"p{percent}", None) for percent in (50, 90, 99)]
        figures = ["-" if one is None else f"{one.value_ms:.2f}" for one in got]
        word = words[each.status] if each.report else "failed"
        table.add_row(Text(each.name), *figures, Text(word, style=STYLES[each.status]))
    console.print(table)
    for each in boards:
        if each.reason:
            _line(console, f"{each.name}: {each.reason}")
        if each.left:
            _line(console, f"{each.name}: {each.left}")
        if notes.get(each.name) and each.status:
            _line(console, f"{each.name} is: {notes[each.name]}")


def _line(console: Console, text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)
