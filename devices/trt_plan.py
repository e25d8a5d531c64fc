"""What can be told of TensorRT and its plans where TensorRT is not installed."""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path

STRONG = (10, 12)
"""From here on precision is in the graph; TensorRT 11 knows no other way."""

TAG = b"ftrt"
HEADER_BYTES = 28


def numbers(version: str) -> tuple[int, ...]:
    """``(10, 13, 3, 9)`` from ``"10.13.3.9.post1"``."""
    return tuple(int(part) for part in takewhile(str.isdigit, version.split(".")))


def strongly_typed(version: str) -> bool:
    """Whether this TensorRT takes the precision of every tensor from the graph.

    Before, flags of the builder allow it to compute in less; such a network is weakly typed.

    Raises:
        ValueError: Not a version.
    """
    if len(numbers(version)) < 2:
        raise ValueError(f"{version!r} is not a TensorRT version such as '10.3'")
    return numbers(version) >= STRONG


def plan_version(plan: Path) -> tuple[int, ...] | None:
    """The TensorRT that built a plan, read from its header without deserialising it.

    The layout is the one that ``trtexec --getPlanVersionOnly`` reads (TensorRT 8.6 and later): a
    tag, the number 0 as the layout's own version, and four bytes of version at offset 24.

    Returns:
        Four numbers, or None where the header is of another kind.
    """
    with plan.open("rb") as file:
        header = file.read(HEADER_BYTES)
    if len(header) < HEADER_BYTES or header[:4] != TAG or any(header[4:8]):
        return None
    return tuple(header[24:28])
