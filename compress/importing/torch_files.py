"""Read torch's own files: tensors and plain containers, and never code.

A pickle is a program. torch's restricted reader (``weights_only``) runs none of it but what makes
tensors and containers; here its refusals become sentences. GCC's files also hold a score that
numpy computed, so numpy's numbers are read by stand-ins that can do nothing else.
"""

from __future__ import annotations

import pickle
import re
import struct
import tarfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

MAGICS = (b"PK\x03\x04", b"\x80")
"""How a zip archive begins (torch 1.6 and later), and a pickle (before)."""

NUMBERS = {"f8": "<d", "f4": "<f", "i8": "<q", "i4": "<i", "b1": "<?"}
"""numpy's name of a kind of number, and how `struct` reads it."""

HOW_TO = (
    "Where you trust it, open it yourself, save `torch.save(network.state_dict(), 'weights.pth')`, "
    "and import that"
)


class NumberKind:
    """Stands for ``numpy.dtype`` in a pickle: remembers a kind's name, and does nothing."""

    def __init__(self, name: str, *_: object) -> None:
        self.name = name

    def __setstate__(self, state: object) -> None:
        """The byte order, which is little on every machine that torch runs on."""


def read_number(kind: NumberKind, data: bytes) -> float | int:
    """Stands for numpy's function that makes a number from its bytes.

    Raises:
        pickle.UnpicklingError: No number.
    """
    if not isinstance(kind, NumberKind) or not isinstance(data, bytes):
        raise pickle.UnpicklingError("a numpy value that is no number")
    try:
        value: float | int = struct.unpack(NUMBERS[kind.name], data)[0]
    except (KeyError, struct.error) as error:
        raise pickle.UnpicklingError(f"a numpy value of kind {kind.name!r}") from error
    return value


STAND_INS: list[Any] = [
    (read_number, "numpy.core.multiarray.scalar"),
    (read_number, "numpy._core.multiarray.scalar"),
    (NumberKind, "numpy.dtype"),
]


def is_torch_file(path: Path) -> bool:
    """Whether torch might have saved it, now or long ago."""
    with path.open("rb") as file:
        return file.read(8).startswith(MAGICS) or tarfile.is_tarfile(path)


def read(path: Path) -> Any:
    """Read a torch file: tensors on the CPU, in plain containers.

    Raises:
        ValueError: It is TorchScript, would run code, holds objects of classes, is older than
            torch 0.4, or is damaged.
    """
    if zipfile.is_zipfile(path):
        _check_archive(path)
    elif tarfile.is_tarfile(path):
        raise ValueError(
            f"{path} was saved by torch 0.1 or older, in a form that is no longer read; open it "
            "with a torch of before 2.0 and save its state_dict again"
        )
    try:
        with torch.serialization.safe_globals(STAND_INS), warnings.catch_warnings():
            # that a pickle is of another kind than torch's; if that matters, it is refused below
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(_refusal(path, str(error))) from error
    except Exception as error:  # torch's reader raises many kinds on damaged files
        first = str(error).strip().partition("\n")[0]
        raise ValueError(f"{path} is damaged, or no torch file: {first}") from error


def _check_archive(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.partition("/")[2] or name for name in archive.namelist()]
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is a damaged zip archive: {error}") from error
    if "constants.pkl" in names:
        raise ValueError(
            f"{path} is TorchScript: a program with its weights inside, which pocketgan does not "
            "run. Where you trust it, save its weights alone: "
            "`torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth')`, and import that"
        )
    if "data.pkl" not in names:
        raise ValueError(
            f"{path} is a zip archive, but no torch file: it holds {', '.join(names[:3])}; unpack "
            "it and import the .pth, .safetensors, .param or .h5 inside"
        )


def _refusal(path: Path, said: str) -> str:
    """A sentence for what torch's reader refused."""
    found = re.search(r"GLOBAL ([\w.]+) was not an allowed global|Unsupported class (\S+)", said)
    forbidden = re.search(r"Trying to load unsupported GLOBAL ([\w.]+) whose module", said)
    if match := found or forbidden:
        name = next(group for group in match.groups() if group)
        return (
            f"{path} is more than weights: opening it would call `{name}`, and a file that calls "
            f"things can run any code. It was not opened. {HOW_TO}"
        )
    detail = re.search(r"Unsupported operand \d+|WeightsUnpickler error: [^\n]+", said)
    what = detail[0] if detail else said.partition("\n")[0]
    return f"{path} is damaged, or a pickle that torch did not write ({what}). {HOW_TO}"
