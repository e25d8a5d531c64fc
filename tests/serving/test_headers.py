import io

import pytest
from PIL import Image

from serving.headers import MAX_SEGMENTS, said_size


def saved(form, size=(301, 200), mode="RGB", **options):
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, format=form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        saved("PNG"),
        saved("PNG", mode="P"),
        saved("JPEG"),
        saved("JPEG", progressive=True),
        saved("JPEG", mode="CMYK"),
        saved("JPEG", exif=Image.Exif(), icc_profile=b"x" * 70_000, comment=b"y" * 1000),
        saved("WEBP"),
        saved("WEBP", lossless=True),
        saved("WEBP", mode="RGBA"),
        saved("WEBP", exif=b"Exif\0\0" + b"z" * 50),
    ],
)
def test_the_size_is_read_as_pillow_reads_it(data):
    assert said_size(data) == (200, 301)


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"not an image", b"%PDF-1.4"])
def test_what_is_no_image_weighs_nothing(data):
    assert said_size(data) == (0, 0)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_a_header_that_is_cut_off_never_fails(form):
    whole = saved(form)
    sizes = {said_size(whole[:end]) for end in range(len(whole) + 1)}
    assert sizes <= {None, (0, 0), (200, 301)}
    assert (200, 301) in sizes


def test_a_jpeg_of_endless_segments_is_given_up():
    data = b"\xff\xd8" + b"\xff\xfe\x00\x02" * (MAX_SEGMENTS + 10) + saved("JPEG")[2:]
    assert said_size(data) is None


def test_fill_bytes_before_a_marker_are_passed_over():
    data = saved("JPEG")
    assert said_size(data[:2] + b"\xff" * 5 + data[2:]) == (200, 301)


def test_riff_that_is_no_webp():
    assert said_size(b"RIFF\x24\0\0\0WAVEfmt " + bytes(40)) is None
