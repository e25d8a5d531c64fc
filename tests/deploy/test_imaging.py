from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from deploy.imaging import (
    RGB,
    ImageError,
    ImageTooLargeError,
    PixelSpec,
    canonical,
    decode,
    from_model,
    pad_to_multiple,
    range_spec,
    read_image,
    to_model,
)
from tests.pictures import encode_png

RED, WHITE = (255, 0, 0), (255, 255, 255)


def encoded(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def noise(height=24, width=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png_header(width, height):
    """A PNG that says how large it is and holds nothing."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    empty = chunk(b"IDAT", zlib.compress(b""))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + empty + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("format", "options"), [("PNG", {}), ("WEBP", {"lossless": True})], ids=["png", "webp"]
)
def test_lossless_formats_come_back_exactly(format, options):
    pixels = noise()
    got = decode(encoded(Image.fromarray(pixels), format, **options))
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, pixels)


def test_our_png_comes_back_exactly():
    np.testing.assert_array_equal(decode(encode_png(noise())), noise())


def test_jpeg_comes_back_nearly():
    smooth = np.linspace(0, 255, 24 * 32 * 3).reshape(24, 32, 3).astype(np.uint8)
    got = decode(encoded(Image.fromarray(smooth), "JPEG", quality=95))
    assert np.abs(got.astype(int) - smooth).max() < 12


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_turned_upright(orientation):
    """What EXIF says was done to the camera is undone; checked against Pillow's own transposes."""
    pixels = noise()
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }.get(orientation)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(pixels)
    wanted = image if turn is None else image.transpose(turn)
    np.testing.assert_array_equal(decode(encoded(image, exif=exif)), np.asarray(wanted))


def test_an_orientation_that_makes_no_sense_is_ignored():
    exif = Image.Exif()
    exif[0x0112] = 77
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(noise()), exif=exif)), noise())


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "PA"])
def test_transparency_lies_on_white(mode):
    image = Image.new("RGBA", (4, 2), (*RED, 255))
    image.paste((*RED, 0), (0, 0, 2, 2))
    if mode == "LA":
        data = encoded(image.convert("LA"))
        opaque = (76, 76, 76)
    elif mode == "P":
        paletted = Image.new("P", (4, 2), 1)
        paletted.putpalette([0, 255, 0, *RED])
        paletted.paste(0, (0, 0, 2, 2))
        data = encoded(paletted, transparency=0)
        opaque = RED
    else:
        data = encoded(image, "WEBP" if mode == "PA" else "PNG", lossless=True)
        opaque = RED
    got = decode(data)
    assert tuple(got[0, 0]) == WHITE
    assert tuple(got[0, 3]) == opaque


def test_half_transparent_is_halfway_to_white():
    got = decode(encoded(Image.new("RGBA", (2, 2), (0, 0, 0, 128))))
    assert tuple(got[0, 0]) == (127, 127, 127)


def test_a_transparent_colour_of_an_rgb_png():
    pixels = np.full((2, 2, 3), 10, np.uint8)
    pixels[0, 0] = 200
    got = decode(encoded(Image.fromarray(pixels), transparency=(10, 10, 10)))
    assert tuple(got[1, 1]) == WHITE
    assert tuple(got[0, 0]) == (200, 200, 200)


def test_sixteen_bits_become_eight():
    levels = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    got = decode(encoded(Image.fromarray(levels)))
    assert got[0, :, 0].tolist() == [0, 0, 1, 128, 255]
    assert got.shape == (1, 5, 3)


def test_gray_black_and_white_and_palette_become_rgb():
    gray = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    assert decode(encoded(Image.fromarray(gray)))[..., 1].tolist() == gray.tolist()
    bilevel = decode(encoded(Image.fromarray(gray).convert("1", dither=0)))
    assert set(bilevel.ravel().tolist()) == {0, 255}
    palette = Image.fromarray(noise()).quantize(8)
    np.testing.assert_array_equal(decode(encoded(palette)), np.asarray(palette.convert("RGB")))


def test_cmyk():
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    got = decode(encoded(image, "JPEG", quality=95))
    assert np.abs(got[0, 0].astype(int) - RED).max() < 6


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_of_an_animation_the_first_frame_counts(format):
    frames = [Image.fromarray(noise(seed=seed)) for seed in (1, 2)]
    options = {"save_all": True, "append_images": frames[1:], "lossless": True}
    np.testing.assert_array_equal(decode(encoded(frames[0], format, **options)), noise(seed=1))


def test_the_jpeg_of_a_phone_with_a_second_picture_in_it():
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "blue")]
    got = decode(encoded(frames[0], "MPO", save_all=True, append_images=frames[1:]))
    assert np.abs(got[8, 8].astype(int) - RED).max() < 6


@pytest.mark.parametrize("data", [b"", b"not an image\n", b"%PDF-1.7", b"GIF89a" + bytes(40)])
def test_what_is_no_image(data):
    with pytest.raises(ImageError, match=rf"not a JPEG, PNG, WEBP image \({len(data)} bytes\)"):
        decode(data)


def test_other_formats_are_not_even_tried():
    for format in ("GIF", "BMP", "TIFF", "PPM"):
        with pytest.raises(ImageError, match="not a JPEG, PNG, WEBP image"):
            decode(encoded(Image.fromarray(noise()), format))


def test_a_text_file_named_jpg(tmp_path):
    path = tmp_path / "holiday.jpg"
    path.write_text("I am no picture")
    with pytest.raises(ImageError, match=r"holiday\.jpg: not a JPEG, PNG, WEBP image \(15 bytes\)"):
        read_image(path)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("part", [0.3, 0.6, 0.95])
def test_a_truncated_image(format, part, tmp_path):
    data = encoded(Image.fromarray(noise(64, 64)), format)
    path = tmp_path / "cut.jpg"
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(ImageError, match=r"cut\.jpg: the (\w+ )?image is damaged"):
        read_image(path)


def test_a_header_that_promises_too_much_is_refused_before_decoding():
    with pytest.raises(ImageTooLargeError, match="far larger than the limit of 24000000 pixels"):
        decode(png_header(50_000, 50_000))
    with pytest.raises(
        ImageTooLargeError, match="10000 x 10000 = 100000000 pixels; the limit is 24"
    ):
        decode(png_header(10_000, 10_000))


def test_the_limit_is_inclusive():
    data = encoded(Image.fromarray(noise(10, 10)))
    assert decode(data, max_pixels=100).shape == (10, 10, 3)
    with pytest.raises(ImageTooLargeError, match="10 x 10 = 100 pixels; the limit is 99"):
        decode(data, max_pixels=99)


def test_a_damaged_exif_block_does_not_cost_the_photo():
    """A camera's or an editor's broken metadata; the pixels are fine."""
    image = Image.new("RGB", (16, 16), RED)
    data = encoded(image, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12" + b"\xff" * 9)
    assert np.abs(decode(data)[8, 8].astype(int) - RED).max() < 6


def test_every_level_survives_the_way_to_the_model_and_back():
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 256, 3)
    images = to_model(levels)
    assert images.shape == (1, 3, 1, 256)
    assert images.dtype == np.float32
    assert (images.min(), images.max()) == (-1.0, 1.0)
    np.testing.assert_array_equal(from_model(images)[0], levels)


def test_a_batch_keeps_its_order():
    batch = np.stack([noise(seed=seed) for seed in range(3)])
    np.testing.assert_array_equal(from_model(to_model(batch)), batch)


def test_what_is_outside_is_clipped():
    images = np.array([-2.0, -1.0, 0.0, 1.0, 3.0], np.float32).repeat(3).reshape(1, 5, 3)
    got = from_model(images.transpose(0, 2, 1)[..., None])
    assert got[0, :, 0, 0].tolist() == [0, 0, 128, 255, 255]


IMAGENET = PixelSpec(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
SPECS = (RGB, range_spec(0, 1), range_spec(0, 255, "bgr"), range_spec(-1, 1, "bgr"), IMAGENET)


def test_the_default_pixels_are_what_they_have_always_been():
    """Bit for bit: engines and golden pairs made before there was a choice must stay equal."""
    pixels = noise()
    images = pixels.astype(np.float32) / np.float32(127.5) - np.float32(1.0)
    assert to_model(pixels).tobytes() == images.transpose(2, 0, 1).tobytes()
    values = np.random.default_rng(0).normal(0, 0.7, (2, 3, 40, 50)).astype(np.float32)
    levels = np.clip(np.rint((values.transpose(0, 2, 3, 1) + 1.0) * 127.5), 0, 255)
    assert from_model(values).tobytes() == levels.astype(np.uint8).tobytes()


@pytest.mark.parametrize("spec", SPECS)
def test_every_level_survives_whatever_the_generator_sees(spec):
    levels = np.random.default_rng(0).permuted(
        np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 256, 3), axis=1
    )
    images = to_model(levels, spec)
    assert (images.dtype, images.flags.c_contiguous) == (np.float32, True)
    np.testing.assert_array_equal(from_model(images, spec)[0], levels)
    np.testing.assert_allclose(canonical(images, spec), to_model(levels), atol=1e-6)


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        (range_spec(0, 1), (1.0, 0.2, 0.0)),
        (range_spec(0, 255, "bgr"), (0.0, 51.0, 255.0)),
        (range_spec(-1, 1, "bgr"), (-1.0, -0.6, 1.0)),
        (IMAGENET, (131.325 / 58.395, -65.28 / 57.12, -103.53 / 57.375)),
    ],
)
def test_what_a_generator_sees_of_a_colour(spec, wanted):
    seen = to_model(np.array([[[255, 51, 0]]], dtype=np.uint8), spec)
    np.testing.assert_allclose(seen[0, :, 0, 0], wanted, atol=1e-6)


def test_canonical_images_are_not_copied():
    images = np.zeros((1, 3, 8, 8), np.float32)
    assert canonical(images, RGB) is images


def test_ranges():
    assert range_spec(-1, 1) == RGB
    assert [round(spec.width, 3) for spec in SPECS] == [2, 1, 255, 2, 4.464]
    for low, high in ((1, 0), (1, 1), (0, np.inf), (np.nan, 1)):
        with pytest.raises(ValueError, match="a range is LOW:HIGH, such as -1:1 or 0:1, not"):
            range_spec(low, high)


@pytest.mark.parametrize("wrong", [{"std": (0.0, 1.0, 1.0)}, {"order": "gbr"}, {"padding": "zero"}])
def test_pixels_that_nobody_understands_are_refused(wrong):
    """A newer version's way of seeing must stop an older one, not come out in wrong colours."""
    with pytest.raises(ValidationError):
        PixelSpec.model_validate(RGB.model_dump() | wrong)


def test_padding_mirrors_the_border():
    images = np.arange(1 * 1 * 3 * 5, dtype=np.float32).reshape(1, 1, 3, 5)
    padded = pad_to_multiple(images, 4)
    assert padded.shape == (1, 1, 4, 8)
    np.testing.assert_array_equal(padded[..., :3, :5], images)
    assert padded[0, 0, 0].tolist() == [0, 1, 2, 3, 4, 3, 2, 1]
    assert padded[0, 0, 3, 0] == images[0, 0, 1, 0]


def test_padding_of_an_image_too_small_to_mirror_repeats_its_edge():
    images = np.array([[[[1.0, 2.0]]]], np.float32)
    assert pad_to_multiple(images, 4)[0, 0].tolist() == [[1.0, 2.0, 2.0, 2.0]] * 4


def test_what_fits_is_not_copied():
    images = np.zeros((1, 3, 8, 8), np.float32)
    assert pad_to_multiple(images, 4) is images
