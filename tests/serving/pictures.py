"""Encoded images made in memory: of every kind a client may send, and what they should become."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image


def saved(image, form, **options):
    buffer = io.BytesIO()
    image.save(buffer, format=form, **options)
    return buffer.getvalue()


def noise(height, width, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def slope(height, width):
    """A smooth image, which JPEG and WebP keep well."""
    y, x = np.mgrid[:height, :width]
    planes = (x * 200 // width, y * 200 // height, (x + y) * 100 // (height + width))
    return np.dstack(planes).astype(np.uint8)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunk(png, kind, data):
    """A PNG with one more chunk behind its header."""
    return png[:33] + chunk(kind, data) + png[33:]


def png_header(width, height):
    """A PNG that promises a size and holds nothing of it."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"")


def png16(levels, transparent=None):
    """A grey PNG of 16 bits, optionally with one transparent level."""
    height, width = levels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    clear = b"" if transparent is None else chunk(b"tRNS", struct.pack(">H", transparent))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0))
        + clear
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def with_segment(jpeg, marker, data):
    """A JPEG with one more segment at its start."""
    return jpeg[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data + jpeg[2:]


def webp_canvas(width, height):
    """An animated WebP of one small frame on a canvas that says to be of this size."""
    still = saved(Image.new("RGB", (16, 16), "red"), "WEBP")[12:]
    size = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    side = struct.pack("<I", 15)[:3]
    body = b"VP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + size
    body += b"ANIM" + struct.pack("<I", 6) + bytes(6)
    body += b"ANMF" + struct.pack("<I", 16 + len(still)) + bytes(6) + side + side + bytes(4) + still
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def icc_profile(space, tags, *, kind=b"mntr"):
    """An ICC profile (version 2) of some tags."""
    table, data = b"", b""
    at = 128 + 4 + 12 * len(tags)
    for name, value in tags.items():
        value += bytes(-len(value) % 4)
        table += name + struct.pack(">II", at + len(data), len(value))
        data += value
    body = struct.pack(">I", len(tags)) + table + data
    header = bytearray(128)
    header[0:4] = struct.pack(">I", 128 + len(body))
    header[8:12] = b"\x02\x10\0\0"
    header[12:24] = kind + space + b"XYZ "
    header[36:40] = b"acsp"
    header[68:80] = _fixed(0.9642, 1.0, 0.8249)
    return bytes(header) + body


def swapped_profile():
    """A profile whose red is sRGB's green and the other way round, with sRGB's curve as 2.2."""
    red, green, blue = (0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141)
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(2.2 * 256))
    return icc_profile(
        b"RGB ",
        {
            b"desc": b"desc" + bytes(4) + struct.pack(">I", 8) + b"swapped\0" + bytes(79),
            b"wtpt": b"XYZ " + bytes(4) + _fixed(0.9642, 1.0, 0.8249),
            b"rXYZ": b"XYZ " + bytes(4) + _fixed(*green),
            b"gXYZ": b"XYZ " + bytes(4) + _fixed(*red),
            b"bXYZ": b"XYZ " + bytes(4) + _fixed(*blue),
            b"rTRC": curve,
            b"gTRC": curve,
            b"bTRC": curve,
        },
    )


def linear_grey_profile():
    """A grey profile in which half the level is half the light."""
    return icc_profile(
        b"GRAY",
        {
            b"desc": b"desc" + bytes(4) + struct.pack(">I", 7) + b"linear\0" + bytes(79),
            b"wtpt": b"XYZ " + bytes(4) + _fixed(0.9642, 1.0, 0.8249),
            b"kTRC": b"curv" + bytes(4) + struct.pack(">I", 0),
        },
    )


def _fixed(*values):
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)
