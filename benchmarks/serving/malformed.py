"""Requests that no server may be hurt by: damaged images, bombs, lies about lengths, bad forms."""

from __future__ import annotations

import io
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from corpus import images

TRANSLATE, BATCH = "/v1/translate", "/v1/translate/batch"
PNG = b"\x89PNG\r\n\x1a\n"
MAGIC = (b"\xff\xd8\xff\xe0", b"\xff\xd8\xff\xdb", PNG, b"RIFF\x24\0\0\0WEBPVP8 ", b"GIF89a", b"BM")
WORDS = ("../../etc/passwd", "%00", "-1", "1e309", "nan", "", "9" * 400, "\u00fc", "'; --", "{}")


@dataclass(frozen=True)
class Attack:
    """One request as raw bytes.

    Attributes:
        kind: What is wrong with it.
        message: What is sent.
        body: The image it carries, where that may turn out to be one after all; None where any
            success is a mistake.
        hang_up: The client closes its half at the end: more was promised than comes.
    """

    kind: str
    message: bytes
    body: bytes | None = None
    hang_up: bool = False


def attacks(count: int, seed: int) -> Iterator[Attack]:
    """So many attacks of all kinds, in a random order; always the same for one seed."""
    rng = random.Random(seed)
    good = images(33, seed)
    bombs = tuple(make_bombs(good))
    for _ in range(count):
        yield rng.choices(KINDS, WEIGHTS)[0](rng, good, bombs)


def request(
    body: bytes, *, path: str = TRANSLATE, headers: tuple[tuple[str, str], ...] = ()
) -> bytes:
    """A POST whose length is true."""
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join([*lines, "", ""]).encode("utf-8") + body


def truncated(rng: random.Random, good: list[bytes], _: tuple[bytes, ...]) -> Attack:
    """An image that ends too early."""
    data = rng.choice(good)
    body = data[: rng.randrange(len(data))]
    return Attack("truncated", request(body), body)


def flipped(rng: random.Random, good: list[bytes], _: tuple[bytes, ...]) -> Attack:
    """An image with wrong bits; half of them in its head."""
    data = bytearray(rng.choice(good))
    end = min(len(data), 64) if rng.random() < 0.5 else len(data)
    for _bit in range(rng.choice((1, 2, 8, 64))):
        data[rng.randrange(end)] ^= 1 << rng.randrange(8)
    return Attack("bit-flipped", request(bytes(data)), bytes(data))


def spliced(rng: random.Random, good: list[bytes], _: tuple[bytes, ...]) -> Attack:
    """The head of one image and the tail of another, or a piece twice."""
    one, other = rng.choice(good), rng.choice(good)
    body = one[: rng.randrange(len(one))] + other[rng.randrange(len(other)) :]
    return Attack("spliced", request(body), body)


def nonsense(rng: random.Random, good: list[bytes], _: tuple[bytes, ...]) -> Attack:
    """Random bytes after the first bytes of a format."""
    body = rng.choice(MAGIC) + rng.randbytes(rng.randrange(4000))
    return Attack("nonsense", request(body), body)


def polyglot(rng: random.Random, good: list[bytes], _: tuple[bytes, ...]) -> Attack:
    """A file that is two things: an image before or behind a page, an archive, a script."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as members:
        members.writestr("../../evil", "x" * 100)
    other = rng.choice(
        (archive.getvalue(), b"<html><script>alert(1)</script>", b"GIF89a;", b"%PDF-1.7\n",
         b"#!/bin/sh\n", b"<?xml version='1.0'?><svg onload='x'/>", b"\0" * 64)
    )  # fmt: skip
    image = rng.choice(good)
    body = rng.choice((image + other, other + image, image[:200] + other + image[200:]))
    return Attack("polyglot", request(body), body)


def bomb(rng: random.Random, good: list[bytes], bombs: tuple[bytes, ...]) -> Attack:
    """A few bytes that promise to be very many."""
    body = rng.choice(bombs)
    return Attack("bomb", request(body), body)


def headers(rng: random.Random, good: list[bytes], _: tuple[bytes, ...]) -> Attack:
    """Headers that are huge, many, or no headers."""
    image = rng.choice(good)
    extra = rng.choice(
        (
            (("X-Long", "a" * rng.choice((70_000, 300_000))),),
            tuple((f"X-{n}", "b" * 40) for n in range(rng.choice((2_000, 9_000)))),
            (("Cookie", "c=" + "d" * 120_000),),
            (("Bad Name", "x"),),
            (("X-Nul", "a\0b"),),
            (("", "nameless"),),
        )
    )
    # some servers take any header that is whole: then what is right is the image
    return Attack("headers", request(image, headers=extra), image)


def lengths(rng: random.Random, good: list[bytes], _: tuple[bytes, ...]) -> Attack:
    """Lengths that are not true, or not lengths."""
    image = rng.choice(good)
    said = rng.choice(
        ("Content-Length: 99999999999", "Content-Length: -5", "Content-Length: 0x10",
         f"Content-Length: {len(image) + 7}", "Content-Length: 1\r\nContent-Length: 2",
         "Transfer-Encoding: chunked", "Transfer-Encoding: gzip, chunked",
         f"Transfer-Encoding: chunked\r\nContent-Length: {len(image)}", "Expect: 100-never")
    )  # fmt: skip
    message = f"POST {TRANSLATE} HTTP/1.1\r\nHost: x\r\n{said}\r\n\r\n".encode() + image
    return Attack("lengths", message, hang_up=True)


def wishes(rng: random.Random, good: list[bytes], _: tuple[bytes, ...]) -> Attack:
    """A good image and a wish that is none."""
    key = rng.choice(("format", "quality", "size", "callback", "file"))
    word = rng.choice(WORDS).encode("utf-8").hex(" ").replace(" ", "%")
    path = f"{TRANSLATE}?{key}={'%' + word if word else ''}"
    extra = (("X-Timeout-Ms", rng.choice(("-1", "soon", "1e99", "0"))),)
    return Attack("wishes", request(rng.choice(good), path=path, headers=extra))


def forms(rng: random.Random, good: list[bytes], _: tuple[bytes, ...]) -> Attack:
    """Forms with a broken boundary, parts without end, names that are paths."""
    image, boundary = rng.choice(good), "limit"
    names = ("image", "../../x", "a" * 5000, "image\0", "")
    disposition = (
        f'Content-Disposition: form-data; name="{rng.choice(names)}"; '
        f'filename="{rng.choice(("../../../tmp/x", "x" * 5000, "con", ""))}"'
    ).encode()
    part = b"--limit\r\n" + disposition + b"\r\nContent-Type: text/html\r\n\r\n"
    body = rng.choice(
        (
            part + image,
            (part + image[:50] + b"\r\n") * 300 + b"--limit--",
            b"--limit--",
            b"--limit\r\n" * 500,
            part[:-2] + b"X: " + b"y" * 100_000 + b"\r\n\r\n--limit--",
            image,
        )
    )
    given = rng.choice((boundary, "other", "", "b" * 500, '"'))
    extra = (("Content-Type", f"multipart/form-data; boundary={given}"),)
    return Attack("forms", request(body, path=rng.choice((TRANSLATE, BATCH)), headers=extra))


def encodings(rng: random.Random, good: list[bytes], bombs: tuple[bytes, ...]) -> Attack:
    """Bodies that say to be compressed, and types that are no images."""
    extra = rng.choice(
        (
            (("Content-Encoding", "gzip"),),
            (("Content-Type", "application/json"),),
            (("Content-Type", "image/svg+xml"),),
            (("Accept", "image/gif"),),
        )
    )
    body = zlib.compress(bytes(10_000_000)) if rng.random() < 0.2 else b"{}"
    return Attack("encodings", request(body, headers=extra))


Kind = Callable[[random.Random, list[bytes], tuple[bytes, ...]], Attack]
KINDS: tuple[Kind, ...] = (
    truncated, flipped, spliced, nonsense, polyglot, bomb,
    headers, lengths, wishes, forms, encodings,
)  # fmt: skip
WEIGHTS = (20, 20, 10, 8, 10, 8, 4, 6, 6, 6, 2)


def make_bombs(good: list[bytes]) -> Iterator[bytes]:
    """Images of few bytes and many pixels, chunks, scans or frames."""
    for side in (2_000, 60_000, 2**31 - 1):
        yield PNG + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)) + _idat(1000)
    # a true size, and pixels without end
    yield PNG + chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 0)) + _idat(30_000_000)
    png = next(data for data in good if data.startswith(PNG))
    text = b"k\0\0" + zlib.compress(bytes(30_000_000), 9)
    yield png[:33] + chunk(b"zTXt", text) + png[33:]
    yield png[:33] + chunk(b"iCCP", text) + png[33:]
    yield png[:33] + chunk(b"tEXt", b"k\0v") * 20_000 + png[33:]
    yield png[:33] + chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0)) + png[33:]
    jpeg = next(data for data in good if data.startswith(b"\xff\xd8"))
    at = jpeg.find(b"\xff\xc0")
    yield jpeg[: at + 5] + b"\xff\xff\xff\xff" + jpeg[at + 9 :]
    scan = jpeg.find(b"\xff\xda")
    yield jpeg[:-2] + jpeg[scan:-2] * 300 + b"\xff\xd9"
    yield jpeg[:2] + (b"\xff\xfe\xff\xff" + b"c" * 65_533) * 12 + jpeg[2:]
    canvas = struct.pack("<I", 16_383)[:3] * 2
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + canvas
    yield b"RIFF" + struct.pack("<I", len(body)) + body


def chunk(kind: bytes, data: bytes) -> bytes:
    """A PNG chunk with a right checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _idat(size: int) -> bytes:
    return chunk(b"IDAT", zlib.compress(bytes(size), 9)) + chunk(b"IEND", b"")
