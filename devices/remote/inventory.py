"""The boards there are: an inventory file, and what ``--on`` names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from devices.latency import ModeName
from devices.profile import Frozen, read_toml

ALL = "all"
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
DESTINATION = re.compile(
    r"(ssh://)?([A-Za-z0-9_][\w.+-]*@)?"
    r"(\[[0-9A-Fa-f:.]+(%[\w.-]+)?\](:\d{1,5})?|[A-Za-z0-9_][\w.:%-]*)",
    re.ASCII,
)
"""``pi``, ``user@host``, ``ssh://user@host:2222``, an address: nothing that begins with a dash, and
nothing that a shell would read as more than a word (a ``ProxyCommand`` with ``%h`` is read by one).
"""
MAX_DESTINATION = 255

EnvName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
EnvValue = Annotated[str, Field(pattern=r"^[^\x00]*$")]
Program = Annotated[str, Field(pattern=r"^[^-\x00-\x1f\x7f][^\x00-\x1f\x7f]*$", max_length=1024)]


class Board(Frozen):
    """One board: how it is reached and what it needs.

    Attributes:
        destination: As ``ssh`` takes it: a name of its configuration, ``user@host`` or an
            ``ssh://`` address.
        python: The board's Python, 3.11 or newer; a path, or a name on its PATH.
        profile: The device profile it is, or None; a bundle for another is refused.
        wheel: A wheel of pocketgan to send and use in place of what is installed, or None.
        env: Environment variables for what runs there; ``TMPDIR`` moves the folder it works in.
        mode: How long to measure there, or None for what ``--mode`` says.
        timeout_s: Most seconds that copying, building or measuring may take, each.
        note: For people: where it stands, how it is cooled.
    """

    destination: str
    python: Program = "python3"
    profile: str | None = None
    wheel: Path | None = None
    env: dict[EnvName, EnvValue] = Field(default={})
    mode: ModeName | None = None
    timeout_s: Annotated[float, Field(gt=0, le=86_400)] = 900.0
    note: str = ""

    @field_validator("destination")
    @classmethod
    def _is_a_destination(cls, text: str) -> str:
        return require_destination(text)


class Inventory(Frozen):
    """An inventory file.

    Attributes:
        ssh_config: A configuration for ``ssh`` in place of the user's own, or None.
        boards: Every board by its name.
    """

    ssh_config: Path | None = None
    boards: dict[str, Board]

    @field_validator("boards")
    @classmethod
    def _have_names(cls, boards: dict[str, Board]) -> dict[str, Board]:
        for name in boards:
            if not NAME.fullmatch(name) or name == ALL:
                raise ValueError(
                    f"{name!r} cannot be the name of a board: letters, digits, '_', '.' and '-', "
                    f"not beginning with a dash or a dot, and not {ALL!r}"
                )
        return boards


@dataclass(frozen=True)
class Chosen:
    """A board to measure on, under the name it was asked for by."""

    name: str
    board: Board


def require_destination(text: str) -> str:
    """Let through what ``ssh`` can only understand as a destination.

    Raises:
        ValueError: It could be an option, or more than one word to a shell.
    """
    if len(text) > MAX_DESTINATION or not DESTINATION.fullmatch(text):
        raise ValueError(
            f"{text[:MAX_DESTINATION]!r} is not a destination for ssh: give a host, user@host or "
            "ssh://user@host:port in plain letters; the rest belongs into ~/.ssh/config"
        )
    return text


def read_inventory(path: Path) -> Inventory:
    """Read an inventory; the paths in it begin at its own folder.

    Raises:
        ValueError: No such file, or not an inventory; the message names the file and the key.
    """
    if not path.is_file():
        raise ValueError(f"there is no inventory {path}; docs/boards.md shows how to write one")
    inventory = read_toml(Inventory, path)
    boards = {
        name: board.model_copy(update={"wheel": board.wheel and _beside(path, board.wheel)})
        for name, board in inventory.boards.items()
    }
    config = inventory.ssh_config and _beside(path, inventory.ssh_config)
    if config is not None and not config.is_file():
        raise ValueError(f"{path}: ssh_config = {str(config)!r}: there is no such file")
    return Inventory(ssh_config=config, boards=boards)


def choose(hosts: Sequence[str], inventory: Inventory | None, profile: str) -> tuple[Chosen, ...]:
    """The boards that ``--on`` names: names of the inventory, and destinations for ssh.

    Args:
        hosts: Names, destinations, or ``all`` alone: every board of the inventory that is of the
            profile, or does not say what it is.
        inventory: Where names are looked up first; None if there is none.
        profile: The profile of the bundle to measure.

    Raises:
        ValueError: No board, one twice, or none that suits.
    """
    boards: Mapping[str, Board] = {} if inventory is None else inventory.boards
    if list(hosts) == [ALL]:
        if inventory is None:
            raise ValueError(
                "--on all wants an inventory: --inventory FILE, POCKETGAN_INVENTORY or boards.toml"
            )
        chosen = [Chosen(*item) for item in boards.items() if item[1].profile in (None, profile)]
        if not chosen:
            raise ValueError(f"no board of the inventory is of the profile {profile}")
    else:
        chosen = [_named(host, boards) for host in hosts]
    if not chosen:
        raise ValueError("--on names no board: give destinations for ssh, or names, with commas")
    seen: dict[str, str] = {}
    for one in chosen:
        other = seen.setdefault(one.board.destination, one.name)
        if other is not one.name or [each.name for each in chosen].count(one.name) > 1:
            raise ValueError(
                f"{other} and {one.name} are both {one.board.destination}: two measurements at "
                "once on one board would disturb each other; name it once"
            )
    return tuple(chosen)


def _named(host: str, boards: Mapping[str, Board]) -> Chosen:
    if host in boards:
        return Chosen(host, boards[host])
    if host == ALL:
        raise ValueError(f"--on {ALL} stands alone")
    return Chosen(host, Board(destination=require_destination(host)))


def _beside(path: Path, named: Path) -> Path:
    return path.parent / named
