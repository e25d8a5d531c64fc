"""What a board is, and whether a bundle can be measured on it; asked before anything is copied."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from devices.profile import Frozen
from devices.remote.parcels import Parcel
from devices.remote.words import BoardError, one_line
from devices.sealed import SealedEngine

OLDEST_PYTHON = (3, 11)
SPARE_MIB = 64


class Probe(Frozen):
    """What a board says it is.

    Attributes:
        folder: Made for us there.
        python: Version of the Python that answers.
        board: What it calls itself, or None.
        free_mib: Free where the folder is.
        pocketgan: Version of the one installed, or None.
    """

    folder: Annotated[str, Field(max_length=4096)]
    python: tuple[int, int, int]
    architecture: Annotated[str, Field(max_length=64)]
    board: Annotated[str, Field(max_length=400)] | None
    free_mib: int
    pocketgan: Annotated[str, Field(max_length=100)] | None


def require_suited(probe: Probe, sealed: SealedEngine) -> None:
    """Refuse a board that the bundle is not for, before anything is copied.

    Raises:
        BoardError: Its Python is too old, or it is another machine.
    """
    if probe.python[:2] < OLDEST_PYTHON:
        version = ".".join(str(part) for part in probe.python)
        raise BoardError(
            f"its Python is {version} and pocketgan wants 3.11 or newer: install one beside it and "
            "name it with python = in the inventory"
        )
    profile = sealed.profile
    if probe.architecture != profile.architecture:
        raise BoardError(
            f"it is {one_line(probe.architecture)}, {profile.name} is {profile.architecture}"
        )
    if profile.board is not None and profile.board not in (probe.board or ""):
        raise BoardError(
            f"it calls itself {one_line(probe.board or '') or 'nothing'}, {profile.name} is a "
            f"{profile.board}"
        )


def require_room(probe: Probe, parcels: list[Parcel]) -> None:
    """Refuse a board whose disk is too full for what is to be copied and what is made of it.

    Raises:
        BoardError: It is.
    """
    needed_mib = 2 * sum(parcel.mib for parcel in parcels) + SPARE_MIB
    if probe.free_mib < needed_mib:
        raise BoardError(
            f"it has {probe.free_mib} MiB free in {one_line(probe.folder.rpartition('/')[0])} and "
            f"{needed_mib:.0f} are needed: free some, or move it with env = "
            '{ TMPDIR = "/somewhere/else" } in the inventory'
        )
