"""How large an encoded image says it is: from its first bytes, in microseconds, nothing decoded.

A guess for the queue, which must weigh an image before anybody has time to open it. What an image
really is, the decoder finds and checks again.
"""

from __future__ import annotations

from collections.abc import Callable

MAX_SEGMENTS = 256
"""Parts of a JPEG that are looked at: cameras write about ten before the size."""

NO_FRAMES = (0xC4, 0xC8, 0xCC)
"""JPEG markers among those of frames (C0 to CF) that start none."""


def said_size(data: bytes) -> tuple[int, int] | None:
    """Height and width that a JPEG, PNG or WebP says it has, before EXIF turns it.

    Returns:
        ``(0, 0)`` for what begins like none of them, which will not decode; None for one that
        does not say it where it should.
    """
    for signature, read in _READERS.items():
        if data.startswith(signature):
            return read(data)
    return 0, 0


def _png(data: bytes) -> tuple[int, int] | None:
    if len(data) < 24:
        return None
    return int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big")


def _jpeg(data: bytes) -> tuple[int, int] | None:
    at = 2
    for _ in range(MAX_SEGMENTS):
        if at + 9 > len(data) or data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in NO_FRAMES:
            height, width = data[at + 5 : at + 7], data[at + 7 : at + 9]
            return int.from_bytes(height, "big"), int.from_bytes(width, "big")
        # a marker may be led by any number of 0xff
        at += 1 if marker == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _webp(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if data[8:12] != b"WEBP" or len(data) < 30:
        return None
    if kind == b"VP8X":
        width, height = data[24:27], data[27:30]
        return int.from_bytes(height, "little") + 1, int.from_bytes(width, "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if kind == b"VP8 ":
        width, height = data[26:28], data[28:30]
        return int.from_bytes(height, "little") & 0x3FFF, int.from_bytes(width, "little") & 0x3FFF
    return None


_READERS: dict[bytes, Callable[[bytes], tuple[int, int] | None]] = {
    b"\xff\xd8\xff": _jpeg,
    b"\x89PNG\r\n\x1a\n": _png,
    b"RIFF": _webp,
}
