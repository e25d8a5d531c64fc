"""One board from the first word to the last: probe, copy, finish, measure, bring back, clean up."""

from __future__ import annotations

import os
import re
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from devices.latency import LatencyReport, ModeName
from devices.profile import Frozen, explain
from devices.remote.believe import MAX_REPORT_BYTES, believe
from devices.remote.far_side import PREFIX
from devices.remote.inventory import Chosen
from devices.remote.parcels import (
    MAX_FETCH_BYTES,
    Parcel,
    Wheels,
    own_version,
    pack,
    unpack_bundle,
    wheel_version,
)
from devices.remote.probe import Probe, require_room, require_suited
from devices.remote.ssh import Left, Link
from devices.remote.words import BoardError, one_line
from devices.sealed import MANIFEST, MAX_FACE_BYTES, SEAL, SealedEngine, read_sealed, seal_text

PROBE_S = 90.0
CLEAN_S = 30.0
LATE_S = 15.0
"""For the far side to say itself that a time is up, before the link is cut."""
FOLDER = re.compile(rf"/[\x20-\x7e]*/{PREFIX}[A-Za-z0-9_]{{4,32}}")

Tell = Callable[[str, float | None], None]
"""Told in words what is being done, and how much of it is done where that is known (0 to 1)."""


class Done(Frozen):
    """It was done."""

    done: Literal[True]


class Ran(Frozen):
    """A program ended.

    Attributes:
        said: The end of what it printed.
    """

    status: int
    said: str


@dataclass(frozen=True)
class Errand:
    """What is to be done on every board.

    Attributes:
        sealed: The bundle's manifest.
        bundle: The bundle, where it is compiled.
        export: What it is made of, where each board is to finish its own.
        mode: How long to measure where a board has no mode of its own.
        fetch: A folder for finished bundles, one folder a board, or None.
        wheels: Where a board without this pocketgan gets it from.
        config: A configuration for ssh in place of the user's.
    """

    sealed: SealedEngine
    bundle: Parcel | None
    export: Parcel | None
    mode: ModeName
    fetch: Path | None
    wheels: Wheels
    config: Path | None


@dataclass(frozen=True)
class Outcome:
    """What came of one board.

    Attributes:
        report: What it measured, or None.
        failed: Why there is none, in one line; empty where there is one.
        left: What had to be left behind there, in one line; mostly empty.
    """

    report: LatencyReport | None
    failed: str = ""
    left: str = ""


def run_errand(chosen: Chosen, errand: Errand, tell: Tell, stop: threading.Event) -> Outcome:
    """Measure on one board; whatever happens there comes back as an outcome.

    Args:
        chosen: The board.
        errand: What to do.
        tell: Told what is being done.
        stop: Ends it; what was begun is cleaned up.
    """
    visit = Visit(chosen, errand, tell)
    try:
        with Link(chosen.board, stop, errand.config) as link:
            try:
                outcome = Outcome(visit.work(link))
            finally:
                visit.say_goodbye(link)
    except (BoardError, OSError, ValueError) as error:
        outcome = Outcome(None, failed=one_line(str(error).replace("\n", " ")))
    if not visit.folder or visit.left is None:
        return outcome
    tell("cleaning up", None)
    visit.clean_up_again()
    if visit.left is not None:
        line = f"{visit.folder} is still there ({visit.left}): remove it by hand"
        return replace(outcome, left=line)
    return outcome


class Visit:
    """The steps on one board, in order; remembers what must be removed.

    Attributes:
        folder: The folder made there; empty before there is one.
        left: Why it is still there, or None after the board has said that it is gone.
    """

    def __init__(self, chosen: Chosen, errand: Errand, tell: Tell) -> None:
        self._name = chosen.name
        self._board = chosen.board
        self._errand = errand
        self._tell = tell
        self._mode: ModeName = chosen.board.mode or errand.mode
        self.folder = ""
        self.left: str | None = "the connection was lost before it could be removed"

    def work(self, link: Link) -> LatencyReport:
        """Everything but the cleaning up."""
        probe = self._probe(link)
        sealed = self._errand.sealed
        require_suited(probe, sealed)
        wheel = self._wheel(probe)
        parcels = [each for each in (self._errand.bundle, self._errand.export) if each is not None]
        with tempfile.TemporaryDirectory(prefix=PREFIX) as made:
            if wheel is not None:
                parcels.append(pack("wheel", [wheel], Path(made)))
            require_room(probe, parcels)
            for parcel in parcels:
                self._put(link, parcel)
            if wheel is not None:
                name = f"wheel/{wheel.name}"
                link.ask({"do": "unpack", "name": name}, Done, "unpacking the wheel", PROBE_S)
            bundle = "bundle"
            if self._errand.export is not None:
                bundle = "built"
                sealed = self._finish(link, Path(made))
            report = self._measure(link, bundle, sealed, probe.architecture)
            if self._errand.fetch is not None:
                self._fetch(link, Path(made), sealed)
        return report

    def say_goodbye(self, link: Link) -> None:
        """Have the folder removed over this link, if it still works."""
        try:
            self.left = link.ask({"do": "end"}, Left, "cleaning up", CLEAN_S).left or None
        except BoardError:
            return

    def clean_up_again(self) -> None:
        """Have the folder removed over a new connection."""
        never = threading.Event()
        try:
            with Link(self._board, never, self._errand.config) as link:
                request = {"do": "remove", "folder": self.folder}
                said = link.ask(request, Left, "cleaning up", CLEAN_S).left
                self.left = one_line(said) or None
        except BoardError as error:
            self.left = str(error)

    def _probe(self, link: Link) -> Probe:
        self._tell("looking at the board", None)
        request = {"do": "probe", "env": self._board.env}
        probe = link.ask(request, Probe, "looking at the board", PROBE_S)
        if not FOLDER.fullmatch(probe.folder):
            raise BoardError(f"it works in {one_line(probe.folder)!r}, which is no folder of ours")
        self.folder = probe.folder
        return probe

    def _wheel(self, probe: Probe) -> Path | None:
        """What to send, or None where the installed one will do."""
        if self._board.wheel is not None:
            wheel_version(self._board.wheel)
            return self._board.wheel
        if probe.pocketgan == own_version():
            return None
        return self._errand.wheels.own()

    def _put(self, link: Link, parcel: Parcel) -> None:
        doing = f"copying the {parcel.name}"
        self._tell(doing, None)
        request = {"do": "put", "name": parcel.name, "sha256": parcel.sha256}
        link.put(
            request,
            parcel.archive,
            Done,
            doing,
            self._board.timeout_s,
            lambda share: self._tell(doing, share),
        )

    def _finish(self, link: Link, made: Path) -> SealedEngine:
        """Have the bundle built there; what its manifest says."""
        words = ("deploy", "export", "--device", "export/profile.toml", "--out", "built")
        self._run(link, words, "building the engine")
        folder = made / "built"
        folder.mkdir()
        with (folder / MANIFEST).open("wb") as file:
            link.get(f"built/{MANIFEST}", MAX_FACE_BYTES, file, "reading the manifest", PROBE_S)
        text = (folder / MANIFEST).read_bytes()
        try:
            sealed = SealedEngine.model_validate_json(text)
        except ValidationError as error:
            said = one_line(explain(error, SealedEngine))
            raise BoardError(f"it built no bundle: its manifest has {said}") from None
        if sealed.profile != self._errand.sealed.profile:
            raise BoardError(
                f"it built a bundle for {one_line(sealed.profile.name)}, as no one asked"
            )
        if not sealed.compiled:
            raise BoardError(
                f"it is no {sealed.profile.name} and could not finish the bundle; "
                f"`pocketgan devices {sealed.profile.name}` on the board says why"
            )
        if sealed.engine_file not in sealed.sha256:
            raise BoardError("it built a bundle without the digest of its engine")
        return sealed

    def _measure(
        self, link: Link, bundle: str, sealed: SealedEngine, architecture: str
    ) -> LatencyReport:
        doing = f"measuring, mode {self._mode}"
        words = ("check", bundle, "--mode", self._mode, "--json", "report.json")
        started = time.monotonic()
        ran = self._run(link, words, doing, accept=(0, 1, 2))
        wall_s = time.monotonic() - started
        with tempfile.TemporaryFile() as file:
            try:
                link.get("report.json", MAX_REPORT_BYTES, file, "reading the report", PROBE_S)
            except BoardError as error:
                if ran.status == 0 or "No such file" not in str(error):
                    raise
                raise BoardError(f"pocketgan check there: {said_by('check', ran)}") from None
            file.seek(0)
            text = file.read()
        return believe(text, sealed, self._mode, architecture=architecture, wall_s=wall_s)

    def _fetch(self, link: Link, made: Path, sealed: SealedEngine) -> None:
        """Bring the finished bundle back, or fail without leaving half of one."""
        assert self._errand.fetch is not None
        doing = "bringing the bundle back"
        self._tell(doing, None)
        limit = self._board.timeout_s
        link.ask({"do": "pack", "name": "built"}, Done, doing, limit)
        archive = made / "built.tar"
        with archive.open("wb") as file:
            link.get("built.tar", MAX_FETCH_BYTES, file, doing, limit)
        face = (made / "built" / MANIFEST).read_bytes()
        seen = pack("face", [made / "built" / MANIFEST], made).sha256[MANIFEST]
        seal = f"{MANIFEST}{SEAL}"
        allowed = {*sealed.sha256, MANIFEST, seal}
        with tempfile.TemporaryDirectory(prefix=f".{PREFIX}", dir=self._errand.fetch) as beside:
            folder = Path(beside) / "bundle"
            unpack_bundle(archive, folder, allowed, MAX_FETCH_BYTES)
            same = (folder / MANIFEST).is_file() and (folder / MANIFEST).read_bytes() == face
            if not same or (folder / seal).read_text() != seal_text(seen, MANIFEST):
                raise BoardError("it sent another manifest than the one it showed before")
            read_sealed(folder)
            os.rename(folder, self._errand.fetch / folder_name(self._name))

    def _run(
        self, link: Link, words: tuple[str, ...], doing: str, accept: tuple[int, ...] = (0,)
    ) -> Ran:
        self._tell(doing, None)
        limit = self._board.timeout_s
        request = {"do": "run", "arguments": words, "seconds": limit}
        ran = link.ask(request, Ran, doing, limit + LATE_S)
        if ran.status not in accept:
            said = said_by(words[0], ran)
            raise BoardError(f"pocketgan {words[0]} there ended with status {ran.status}: {said}")
        return ran


def said_by(verb: str, ran: Ran) -> str:
    """The last line that a verb of the board's pocketgan printed."""
    return one_line(ran.said).removeprefix(f"pocketgan {verb}: ").strip() or "without a word"


def folder_name(name: str) -> str:
    """What the folder of a board's bundle is called: its name, as far as a file name can be it."""
    return re.sub(r"[^A-Za-z0-9_.@-]+", "_", name)
