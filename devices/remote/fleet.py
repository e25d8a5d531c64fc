"""Several boards at once: each in a thread of its own, and none of them stops the others."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Literal

from devices.budget import Status, judged
from devices.latency import LatencyReport, ModeName
from devices.profile import Frozen
from devices.remote.board import Errand, Outcome, folder_name, run_errand
from devices.remote.inventory import Chosen, Inventory, choose
from devices.remote.parcels import Wheels, pack_bundle, pack_export, wheel_version
from devices.sealed import BundleError, SealedEngine, read_sealed
from devices.signature import TrustedKeys

AT_ONCE = 8

OnStep = Callable[[str, str, float | None], None]
"""Told the board, what is being done there, and the share of it that is done where known (0 to 1);
called from several threads."""


class BoardResult(Frozen):
    """What came of one board.

    Attributes:
        name: As it was asked for.
        status: 0 within the budget, 1 over it, 2 it failed or its figures cannot say.
        report: What it measured, or None where it failed.
        reason: Why the status is not 0, in one line; empty where it is.
        left: What could not be removed there, in one line; mostly empty.
    """

    name: str
    status: Status
    report: LatencyReport | None
    reason: str
    left: str = ""


class FleetReport(Frozen):
    """What ``check --on --json`` writes: every board, in the order they were asked for."""

    schema_version: Literal[1] = 1
    profile: str
    boards: tuple[BoardResult, ...]

    @property
    def exit_status(self) -> int:
        """The worst of the boards."""
        return max((each.status for each in self.boards), default=2)


def check_on(
    hosts: Sequence[str],
    bundle: Path,
    *,
    mode: ModeName = "fast",
    inventory: Inventory | None = None,
    export: Path | None = None,
    fetch: Path | None = None,
    trusted: TrustedKeys | None = None,
    on_step: OnStep = lambda name, doing, share: None,
) -> tuple[BoardResult, ...]:
    """Measure a bundle on boards, up to eight at once.

    Args:
        hosts: Names of the inventory or destinations for ssh; ``("all",)`` for every board of the
            inventory that may be of the bundle's profile.
        bundle: The bundle.
        mode: How long, where the inventory names no mode for a board.
        inventory: The boards that are known, or None.
        export: What the bundle was made of, where it is not compiled: each board finishes its own.
        fetch: A folder for the finished bundles, one folder a board; None to leave them there.
        trusted: If given, one of these keys must have signed the bundle.
        on_step: Told what is being done.

    Returns:
        One result a board, in the order of ``hosts``, whatever happened to it.

    Raises:
        ValueError: What is wrong before any board is spoken to.
        KeyboardInterrupt: After every connection was ended and every board cleaned up.
    """
    sealed = read_sealed(bundle, trusted)
    require_finished_or_export(bundle, sealed, export, fetch)
    boards = choose(hosts, inventory, sealed.profile.name)
    for each in boards:
        if each.board.wheel is not None:
            wheel_version(each.board.wheel)
    make_room(fetch, boards)
    stop = threading.Event()
    with tempfile.TemporaryDirectory(prefix="pocketgan-") as work:
        folder = Path(work)
        errand = Errand(
            sealed=sealed,
            bundle=None if export else pack_bundle(bundle, sealed, folder),
            export=pack_export(export, bundle, sealed.profile, folder) if export else None,
            mode=mode,
            fetch=fetch,
            wheels=Wheels(folder),
            config=inventory.ssh_config if inventory else None,
        )

        def visit(each: Chosen) -> BoardResult:
            def tell(doing: str, share: float | None) -> None:
                on_step(each.name, doing, share)

            wrong = other_profile(each, sealed)
            outcome = Outcome(None, wrong) if wrong else run_errand(each, errand, tell, stop)
            return result(each.name, outcome, sealed)

        with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
            futures = [pool.submit(visit, each) for each in boards]
            try:
                wait(futures)
            except BaseException:
                stop.set()  # and the pool waits until every board is clean
                for future in futures:
                    future.cancel()
                raise
        return tuple(future.result() for future in futures)


def require_finished_or_export(
    bundle: Path, sealed: SealedEngine, export: Path | None, fetch: Path | None
) -> None:
    """Refuse what could end in no measurement, or in one of something else.

    Raises:
        BundleError: The bundle is not compiled and there is no export, or the other way round.
        ValueError: There will be no bundle to fetch.
    """
    if not sealed.compiled and export is None:
        raise BundleError(
            f"{bundle} is not compiled yet: give what it was made of with --export FOLDER, and "
            "each board finishes its own"
        )
    if sealed.compiled and export is not None:
        raise BundleError(
            f"{bundle} is compiled already, and that engine is the one to measure: leave --export "
            "out"
        )
    if fetch is not None and export is None:
        raise ValueError("--fetch brings back what boards finish, and without --export they do not")


def make_room(fetch: Path | None, boards: Sequence[Chosen]) -> None:
    """Make the folder for finished bundles; refuse to write over one.

    Raises:
        ValueError: A board's folder is there already.
    """
    if fetch is None:
        return
    fetch.mkdir(parents=True, exist_ok=True)
    for each in boards:
        folder = fetch / folder_name(each.name)
        if folder.exists():
            raise ValueError(f"{folder} exists already; move it elsewhere or name another --fetch")


def other_profile(each: Chosen, sealed: SealedEngine) -> str:
    """Why the inventory says that a bundle is not for a board; empty where it does not."""
    own, wanted = each.board.profile, sealed.profile.name
    if own is None or own == wanted:
        return ""
    return f"the inventory says that it is {own}, and the bundle is for {wanted}"


def result(name: str, outcome: Outcome, sealed: SealedEngine) -> BoardResult:
    """Hold what a board measured against the budget of its profile."""
    if outcome.report is None:
        return BoardResult(
            name=name, status=2, report=None, reason=outcome.failed, left=outcome.left
        )
    verdict = judged(name, outcome.report, sealed.profile).verdict
    return BoardResult(
        name=name,
        status=verdict.exit_status,
        report=outcome.report,
        reason="; ".join(verdict.reasons),
        left=outcome.left,
    )
