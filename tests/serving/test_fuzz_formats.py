"""Whatever bytes a client sends, only an `ImageError` comes out, soon, and with little memory."""

import random
import struct
import subprocess
import sys
import time
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from deploy.imaging import ImageError, ImageTooLargeError
from serving.formats import read_picture
from tests.serving.pictures import (
    chunk,
    linear_grey_profile,
    noise,
    png16,
    png_header,
    saved,
    slope,
    swapped_profile,
    webp_canvas,
    with_chunk,
    with_segment,
)

ROOT = Path(__file__).parents[2]
LIMIT = 128 * 128


def seeds():
    photo = Image.fromarray(slope(40, 56))
    noisy = Image.fromarray(noise(24, 24))
    alpha = Image.fromarray(noise(24, 24, 4))
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a description"
    profile = swapped_profile()
    return [
        saved(photo, "JPEG", exif=exif, icc_profile=profile),
        saved(photo, "JPEG", progressive=True),
        saved(photo.convert("CMYK"), "JPEG"),
        saved(photo.convert("L"), "JPEG", icc_profile=linear_grey_profile()),
        saved(photo, "MPO", save_all=True, append_images=[photo]),
        saved(noisy, "PNG", exif=exif, icc_profile=profile),
        saved(alpha, "PNG"),
        saved(noisy.quantize(16), "PNG", transparency=3),
        saved(noisy, "PNG", save_all=True, append_images=[noisy.rotate(90)]),
        png16(np.arange(400, dtype=np.uint16).reshape(20, 20), transparent=7),
        saved(photo, "WEBP", exif=exif, icc_profile=profile),
        saved(alpha, "WEBP", lossless=True),
        saved(noisy, "WEBP", save_all=True, append_images=[noisy.rotate(90)]),
        webp_canvas(64, 64),
    ]


def mutated(data, rng):
    """One way to break a file."""
    data = bytearray(data)
    how = rng.randrange(6)
    if how == 0:  # truncated
        return bytes(data[: rng.randrange(len(data))])
    if how == 1:  # bits flipped anywhere
        for _ in range(rng.randrange(1, 20)):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif how == 2:  # bytes of the header replaced
        for _ in range(rng.randrange(1, 6)):
            data[rng.randrange(min(200, len(data)))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
    elif how == 3:  # a piece cut out
        start = rng.randrange(len(data))
        del data[start : start + rng.randrange(1, 64)]
    elif how == 4:  # a piece repeated
        start = rng.randrange(len(data))
        piece = data[start : start + rng.randrange(1, 200)]
        data[start:start] = piece * rng.randrange(1, 5)
    else:  # a number in it made large
        at = rng.randrange(max(1, len(data) - 4))
        data[at : at + 4] = struct.pack(rng.choice("<>") + "I", rng.getrandbits(32))
    return bytes(data)


def survive(data):
    """Read ``data``; True where it was an image after all."""
    try:
        picture = read_picture(data, max_pixels=LIMIT)
    except ImageError:
        return False
    height, width = picture.pixels.shape[:2]
    assert height * width <= LIMIT
    assert picture.pixels.dtype == np.uint8
    assert picture.alpha is None or picture.alpha.shape == (height, width)
    return True


def fuzz(count):
    rng = random.Random(count)
    whole = seeds()
    assert all(survive(data) for data in whole)
    outcomes = [survive(mutated(rng.choice(whole), rng)) for _ in range(count)]
    assert 0.1 * count < sum(outcomes) < 0.9 * count  # it broke some and not all


def test_broken_files():
    fuzz(700)


GROWTH = """
import psutil
from tests.serving.test_fuzz_formats import fuzz
fuzz(2000)  # what is kept for good is kept by now
before = psutil.Process().memory_info().rss
fuzz(10_000)
print(psutil.Process().memory_info().rss - before)
"""


@pytest.mark.slow
def test_ten_thousand_broken_files_leave_no_memory_behind():
    # in a process of its own: the heap of one that ran other tests shrinks and grows with those
    done = subprocess.run(
        [sys.executable, "-c", GROWTH], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 24 * 2**20


@pytest.mark.parametrize("start", [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\xff\xff\0\0WEBP"])
def test_noise_behind_a_signature(start):
    rng = random.Random(1)
    assert not any(survive(start + rng.randbytes(rng.randrange(300))) for _ in range(60))


def test_polyglots_are_the_image_they_begin_as():
    image = Image.fromarray(slope(40, 56))
    archive = b"PK\x03\x04" + bytes(40) + b"PK\x05\x06" + bytes(18)
    page = b"<html><script>alert(1)</script></html>"
    jpeg, png = saved(image, "JPEG"), saved(image, "PNG")
    assert survive(jpeg + archive)
    assert survive(with_segment(jpeg, 0xFE, archive))
    assert survive(png + page)
    assert survive(with_chunk(png, b"tEXt", b"Comment\0" + page))
    assert not survive(page + png)
    assert not survive(archive + jpeg)
    assert not survive(b"GIF89a" + jpeg)


def bombs():
    png = saved(Image.fromarray(noise(24, 24)), "PNG")
    zeros = zlib.compress(bytes(60_000_000))
    tags = b"".join(struct.pack("<HHII", 1000 + i, 7, 900_000, 8) for i in range(5000))
    exif = b"II*\0" + struct.pack("<IH", 8, 5000) + tags + bytes(4) + bytes(900_000)
    flood = with_segment(
        saved(Image.fromarray(slope(40, 56)), "JPEG"), 0xE1, b"Exif\0\0" + exif[:65_000]
    )
    text = zlib.compress(bytes(900_000))

    def many(kind, head):
        return png[:33] + chunk(kind, head + text) * 300 + png[33:]

    return {
        "a PNG of 50000 x 50000": png_header(50_000, 50_000),
        "a PNG of 2 ** 31 - 1 squared": png_header(2**31 - 1, 2**31 - 1),
        "a profile of 60 MB in 60 KB": with_chunk(png, b"iCCP", b"p\0\0" + zeros),
        "a text of 60 MB in 60 KB": with_chunk(png, b"zTXt", b"k\0\0" + zeros),
        "an international text of 60 MB": with_chunk(png, b"iTXt", b"k\0\1\0\0\0" + zeros),
        "300 texts of 900 KB": many(b"zTXt", b"k\0\0"),
        "300 international texts of 900 KB": many(b"iTXt", b"k\0\1\0\0\0"),
        "more pixels than rows": with_chunk(png, b"IDAT", zeros),
        "EXIF whose tags all hold the same 900 KB": with_chunk(png, b"eXIf", exif),
        "the same in a JPEG": flood,
        "a canvas of 16384 x 16384": webp_canvas(16_384, 16_384),
        "a canvas of 2 ** 24 x 200": webp_canvas(2**24, 200),
    }


BOMBS = bombs()


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_goes_off_in_nobodys_memory(name):
    resident = psutil.Process().memory_info().rss
    started = time.process_time()
    tracemalloc.start()
    try:
        survive(BOMBS[name])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * 2**20
    assert psutil.Process().memory_info().rss - resident < 16 * 2**20
    assert time.process_time() - started < 2.0


@pytest.mark.parametrize("side", [9_000, 20_000, 50_000])
def test_a_large_header_is_too_large_and_not_damaged(side):
    with pytest.raises(ImageTooLargeError, match=r"limit of|the limit is"):
        read_picture(png_header(side, side), max_pixels=LIMIT)
