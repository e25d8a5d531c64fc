import io
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from deploy.imaging import ImageError, ImageFormatError, ImageTooLargeError
from serving.formats import MAX_SCANS, Picture, encode_picture, read_picture
from serving.negotiate import Output
from tests.serving.pictures import (
    chunk,
    linear_grey_profile,
    noise,
    png16,
    saved,
    slope,
    swapped_profile,
    webp_canvas,
    with_chunk,
    with_segment,
)

PIXELS = noise(20, 30)
LIMIT = 10_000


def read(data, **options):
    return read_picture(data, **{"max_pixels": LIMIT} | options)


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("PNG", {"exif": exif(1)}),
        ("PNG", {"dpi": (300, 300)}),
    ],
)
def test_what_loses_nothing_is_read_as_it_was(form, options):
    picture = read(saved(Image.fromarray(PIXELS), form, **options))

    np.testing.assert_array_equal(picture.pixels, PIXELS)
    assert (picture.alpha, picture.source) == (None, form)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": "4:4:4"}])
def test_a_jpeg_is_read_baseline_or_progressive(options):
    pixels = slope(40, 60)
    picture = read(saved(Image.fromarray(pixels), "JPEG", quality=95, **options))
    assert np.abs(picture.pixels.astype(int) - pixels).max() <= 8
    assert picture.source == "JPEG"


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_one_pixel_is_an_image(form):
    picture = read(saved(Image.new("RGB", (1, 1), (200, 10, 30)), form, quality=95))
    assert np.abs(picture.pixels.astype(int) - [[[200, 10, 30]]]).max() <= 8


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_upright(form, orientation):
    upright = Image.fromarray(slope(24, 40))
    undo = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = upright if undo is None else upright.transpose(undo)

    picture = read(saved(stored, form, exif=exif(orientation), quality=95))

    assert np.abs(picture.pixels.astype(int) - np.asarray(upright)).max() <= 12


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (b"tEXt", b"Comment\0plain"),
        (b"zTXt", b"Comment\0\0" + zlib.compress(b"packed")),
        (b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(b"packed")),
        (b"iTXt", b"Comment\0\0\0\0\0plain"),
    ],
)
def test_a_png_with_texts_is_read_like_one_without(kind, data):
    pixels = read(with_chunk(saved_png(), kind, data) + b"and more behind it").pixels
    np.testing.assert_array_equal(pixels, PIXELS)


def test_an_orientation_in_xmp_counts_too():
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="3"/></x:xmpmeta>'
    data = with_chunk(saved_png(), b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)
    np.testing.assert_array_equal(read(data).pixels, PIXELS[::-1, ::-1])


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_is_none_leaves_the_image_alone(orientation):
    data = saved(Image.fromarray(PIXELS), "PNG", exif=exif(orientation))
    np.testing.assert_array_equal(read(data).pixels, PIXELS)


@pytest.mark.parametrize("junk", [b"", b"II*\0", b"MM\0*\0\0\xff\xff", b"\xff" * 500])
def test_damaged_exif_is_no_business_of_ours(junk):
    png = with_chunk(saved(Image.fromarray(PIXELS), "PNG"), b"eXIf", junk)
    np.testing.assert_array_equal(read(png).pixels, PIXELS)
    jpeg = saved(Image.fromarray(PIXELS), "JPEG")
    damaged = with_segment(jpeg, 0xE1, b"Exif\0\0" + junk)
    np.testing.assert_array_equal(read(damaged).pixels, read(jpeg).pixels)


def test_of_exif_no_more_is_read_than_there_is():
    """Tags that all point to the same bytes do not multiply them."""
    count, size = 2000, 40_000
    tags = b"".join(struct.pack("<HHII", 1000 + i, 7, size, 8) for i in range(count))
    lies = b"II*\0" + struct.pack("<IH", 8, count) + tags + bytes(4 + size - 24_000)
    jpeg = with_segment(saved(Image.fromarray(PIXELS), "JPEG"), 0xE1, b"Exif\0\0" + lies)
    assert read(jpeg).pixels.shape == (20, 30, 3)


def test_a_profile_is_converted_to_srgb():
    pixels = slope(20, 30)
    picture = read(saved(Image.fromarray(pixels), "PNG", icc_profile=swapped_profile()))
    want = pixels[..., [1, 0, 2]]
    # the profile's curve is 2.2, that of sRGB is straight near black
    bright = want.min(axis=2) > 60
    assert np.abs(picture.pixels.astype(int) - want)[bright].max() <= 6
    assert np.abs(picture.pixels.astype(int) - pixels)[bright].max() > 40


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_every_format_carries_a_profile(form):
    flat = Image.new("RGB", (30, 20), (200, 90, 60))
    picture = read(saved(flat, form, icc_profile=swapped_profile(), quality=95))
    assert np.abs(picture.pixels[10, 15].astype(int) - [90, 200, 60]).max() <= 4


def test_a_grey_profile_is_converted_too():
    flat = Image.new("L", (30, 20), 128)
    plain = read(saved(flat, "PNG"))
    picture = read(saved(flat, "PNG", icc_profile=linear_grey_profile()))
    assert (plain.pixels == 128).all()
    assert np.abs(picture.pixels.astype(int) - 188).max() <= 1


def test_a_palette_with_a_profile_is_converted_after_its_colours_are_looked_up():
    flat = Image.new("RGB", (30, 20), (200, 90, 60)).quantize(4)
    picture = read(saved(flat, "PNG", icc_profile=swapped_profile()))
    assert np.abs(picture.pixels[0, 0].astype(int) - [90, 200, 60]).max() <= 4


@pytest.mark.parametrize(
    ("mode", "profile"),
    [
        ("RGB", b"no profile"),
        ("RGB", swapped_profile()[:200]),
        ("RGB", b"\xff" * 3000),
        ("RGB", linear_grey_profile()),
        ("CMYK", swapped_profile()),
    ],
)
def test_a_profile_that_is_broken_or_of_other_colours_is_ignored(mode, profile):
    flat = Image.new("RGB", (30, 20), (200, 90, 60)).convert(mode)
    form = "JPEG" if mode == "CMYK" else "PNG"
    np.testing.assert_array_equal(
        read(saved(flat, form, icc_profile=profile)).pixels, read(saved(flat, form)).pixels
    )


@pytest.mark.parametrize("ink", [(0, 0, 0, 0), (255, 0, 0, 0), (0, 200, 100, 50)])
def test_a_cmyk_jpeg_is_read_as_adobe_writes_it(ink):
    """Pillow writes CMYK inverted and with Adobe's marker, as Photoshop does."""
    data = saved(Image.new("CMYK", (16, 16), ink), "JPEG", quality=95)
    assert b"Adobe" in data
    black = 255 - ink[3]
    want = [(255 - level) * black // 255 for level in ink[:3]]
    assert np.abs(read(data).pixels.astype(int) - want).max() <= 4


def test_of_sixteen_bits_the_upper_eight_are_kept():
    levels = np.arange(600, dtype=np.uint16).reshape(20, 30) * 109
    picture = read(png16(levels))
    np.testing.assert_array_equal(picture.pixels, np.dstack([levels >> 8] * 3))
    assert picture.alpha is None


def test_the_one_transparent_level_of_sixteen_bits():
    levels = np.full((4, 4), 0x8000, dtype=np.uint16)
    levels[0] = 0x8001
    picture = read(png16(levels, transparent=0x8001))
    np.testing.assert_array_equal(picture.alpha, [[0] * 4] + [[255] * 4] * 3)
    assert (picture.pixels[0] == 255).all()
    assert (picture.pixels[1:] == 0x80).all()


def test_sixteen_bit_colours():
    rows = (PIXELS.astype(">u2") * 257).reshape(20, -1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", 30, 20, 16, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    data += chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    np.testing.assert_array_equal(read(data).pixels, PIXELS)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_grey_is_spread_over_three_channels(form):
    picture = read(saved(Image.new("L", (12, 10), 77), form, quality=95))
    assert picture.pixels.shape == (10, 12, 3)
    assert np.abs(picture.pixels.astype(int) - 77).max() <= 2


def test_one_bit_is_black_and_white():
    picture = read(saved(Image.new("1", (12, 10), 1), "PNG"))
    assert (picture.pixels == 255).all()


def test_a_palette_without_transparency():
    image = Image.fromarray(PIXELS).quantize(16)
    picture = read(saved(image, "PNG"))
    np.testing.assert_array_equal(picture.pixels, np.asarray(image.convert("RGB")))
    assert picture.alpha is None


def test_a_palette_with_one_transparent_colour():
    image = Image.new("P", (4, 2), 1)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((0, 0), 0)
    picture = read(saved(image, "PNG", transparency=0))
    np.testing.assert_array_equal(picture.alpha, [[0, 255, 255, 255], [255] * 4])
    assert (picture.pixels[1] == [40, 50, 60]).all()


@pytest.mark.parametrize(
    ("mode", "form"), [("RGBA", "PNG"), ("RGBA", "WEBP"), ("LA", "PNG"), ("PA", "PNG")]
)
def test_alpha_is_kept_beside_the_colours(mode, form):
    alpha = np.tile(np.arange(16, dtype=np.uint8) * 17, (8, 1))
    image = Image.new("RGB", (16, 8), (70, 70, 70)).convert("L").convert("RGBA")
    image.putalpha(Image.fromarray(alpha))
    if mode == "LA":
        image = image.convert("LA")
    if mode == "PA":
        image = image.quantize(64)
    data = saved(image, form, **({"lossless": True, "exact": True} if form == "WEBP" else {}))

    picture = read(data)

    assert np.abs(picture.alpha.astype(int) - alpha).max() <= (9 if mode == "PA" else 0)
    assert (picture.pixels[:, 2:] == 70).all()
    assert (picture.pixels[picture.alpha == 0] == 255).all()


def test_what_is_hidden_is_white_to_the_model():
    hidden = np.dstack([PIXELS, np.zeros((20, 30), np.uint8)])
    picture = read(saved(Image.fromarray(hidden), "PNG"))
    assert (picture.pixels == 255).all()
    assert (picture.alpha == 0).all()


def test_an_alpha_that_hides_nothing_is_none():
    opaque = Image.fromarray(np.dstack([PIXELS, np.full((20, 30), 255, np.uint8)]))
    picture = read(saved(opaque, "PNG"))
    assert picture.alpha is None
    np.testing.assert_array_equal(picture.pixels, PIXELS)


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_of_an_animation_the_first_frame_counts(form):
    frames = [Image.new("RGB", (16, 12), colour) for colour in ("red", "lime", "blue")]
    data = saved(frames[0], form, save_all=True, append_images=frames[1:], duration=40)
    with Image.open(io.BytesIO(data)) as image:
        assert image.n_frames == 3
    assert np.abs(read(data).pixels.astype(int) - [255, 0, 0]).max() <= 8


def test_a_jpeg_with_a_second_picture_behind_it():
    first, second = (Image.new("RGB", (16, 12), colour) for colour in ("red", "blue"))
    data = saved(first, "MPO", save_all=True, append_images=[second])
    picture = read(data)
    assert picture.source == "JPEG"
    assert np.abs(picture.pixels.astype(int) - [255, 0, 0]).max() <= 8


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_what_follows_the_image_does_not_count(form):
    data = saved(Image.fromarray(PIXELS), form)
    np.testing.assert_array_equal(
        read(data + b"PK\x03\x04 and <html>" * 50).pixels, read(data).pixels
    )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not an image",
        saved(Image.new("RGB", (8, 8)), "GIF"),
        saved(Image.new("RGB", (8, 8)), "TIFF"),
        saved(Image.new("RGB", (8, 8)), "BMP"),
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"RIFF\x04\0\0\0WAVE",
    ],
)
def test_other_formats_are_refused(data):
    said = re.escape(f"not a JPEG, PNG, WEBP image ({len(data)} bytes)")
    with pytest.raises(ImageFormatError, match=said):
        read(data)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_half_an_image_is_damaged(form):
    data = saved(Image.fromarray(noise(80, 80)), form)
    with pytest.raises(ImageError, match=f"the ({form} )?image is damaged"):
        read(data[: len(data) // 2])


def test_too_many_pixels_are_not_decoded(monkeypatch):
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("it was decoded"))
    with pytest.raises(ImageTooLargeError, match="30 x 20 = 600 pixels; the limit is 599"):
        read(saved_png(), max_pixels=599)


def saved_png():
    return encode_picture(Picture(PIXELS, None, "PNG"), Output("png"))


def test_a_canvas_that_no_frame_fills():
    with pytest.raises(ImageTooLargeError, match="9000 x 9000 = 81000000 pixels"):
        read(webp_canvas(9000, 9000))


def test_a_jpeg_of_many_scans_is_refused_before_it_is_decoded():
    """57 KB of them took eight seconds."""
    data = saved(Image.new("RGB", (512, 512), (90, 120, 200)), "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    many = data[:-2] + scan * MAX_SCANS + data[-2:]
    with pytest.raises(ImageError, match=rf"has more than {MAX_SCANS} scans; save it again"):
        read(many, max_pixels=512 * 512)


def test_scans_of_a_thumbnail_or_behind_the_end_do_not_count():
    thumbnail = b"\xff\xda\0\2" * (MAX_SCANS + 1)
    data = with_segment(saved(Image.fromarray(PIXELS), "JPEG"), 0xED, thumbnail)
    assert read(data + thumbnail).pixels.shape == (20, 30, 3)


def test_a_plan_shrinks_and_turns():
    tall = saved(Image.fromarray(slope(400, 200)), "PNG", exif=exif(6))
    picture = read(tall, max_pixels=80_000, plan=lambda height, width: (height // 4, width // 4))
    assert picture.pixels.shape == (50, 100, 3)


def test_a_shrunk_jpeg_is_close_to_the_whole_one_shrunk():
    pixels = slope(800, 1200)
    data = saved(Image.fromarray(pixels), "JPEG", quality=95)
    picture = read(data, max_pixels=10**6, plan=lambda *_: (80, 120))
    whole = Image.fromarray(pixels).resize((120, 80), Image.Resampling.LANCZOS)
    assert picture.pixels.shape == (80, 120, 3)
    assert np.abs(picture.pixels.astype(int) - np.asarray(whole)).max() <= 6


def test_what_is_hidden_does_not_bleed_when_shrunk():
    image = np.zeros((64, 64, 4), np.uint8)
    image[:, :32] = (0, 255, 0, 0)
    image[:, 32:] = (200, 0, 0, 255)
    picture = read(saved(Image.fromarray(image), "PNG"), max_pixels=4096, plan=lambda *_: (16, 16))
    seen = picture.alpha > 0
    assert picture.pixels[seen][:, 1].max() <= 2


def test_a_plan_may_refuse_before_anything_is_decoded(monkeypatch):
    def refuse(height, width):
        raise ImageTooLargeError(f"{height} by {width}")

    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("it was decoded"))
    with pytest.raises(ImageTooLargeError, match="20 by 30"):
        read(saved_png(), plan=refuse)


def opened(data):
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


ALPHA = np.tile(np.linspace(0, 255, 30, dtype=np.uint8), (20, 1))


@pytest.mark.parametrize("form", ["png", "webp"])
def test_alpha_comes_back(form):
    picture = Picture(PIXELS, ALPHA, "PNG").answered(255 - PIXELS)
    image = opened(encode_picture(picture, Output(form)))
    assert (image.mode, image.format) == ("RGBA", form.upper())
    np.testing.assert_array_equal(np.asarray(image)[..., 3], ALPHA)


def test_alpha_is_laid_on_white_for_a_jpeg():
    black = np.zeros((20, 30, 3), np.uint8)
    image = opened(encode_picture(Picture(black, ALPHA, "PNG"), Output("jpeg", 100)))
    assert image.mode == "RGB"
    want = np.dstack([255 - ALPHA] * 3)
    assert np.abs(np.asarray(image).astype(int) - want).max() <= 2


def test_alpha_grows_with_the_scale_of_the_model():
    answer = Picture(PIXELS, ALPHA, "PNG").answered(np.zeros((80, 120, 3), np.uint8))
    assert answer.alpha.shape == (80, 120)
    assert np.abs(answer.alpha[2::4, 2::4].astype(int) - ALPHA).max() <= 12


def test_an_opaque_answer_has_no_alpha():
    answer = Picture(PIXELS, None, "JPEG").answered(255 - PIXELS)
    image = opened(encode_picture(answer, Output("png")))
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), 255 - PIXELS)


@pytest.mark.parametrize("form", ["jpeg", "webp"])
def test_quality_is_settable(form):
    picture = Picture(noise(64, 64), None, "PNG")
    sizes = [len(encode_picture(picture, Output(form, quality))) for quality in (5, 50, 95)]
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
def test_the_answer_holds_no_metadata_of_the_input(form):
    source = saved(
        Image.fromarray(PIXELS), "JPEG", exif=exif(3), icc_profile=swapped_profile(), comment=b"hi"
    )
    image = opened(encode_picture(read(source), Output(form)))
    assert not image.getexif()
    assert not {"icc_profile", "exif", "xmp", "comment"} & set(image.info)


def test_a_format_that_holds_no_image_of_the_size():
    picture = Picture(np.zeros((1, 16_384, 3), np.uint8), None, "PNG")
    said = "has 16384 x 1 pixels and webp holds at most 16383 a side; ask for format=png"
    with pytest.raises(ImageTooLargeError, match=said):
        encode_picture(picture, Output("webp"))
    assert encode_picture(picture, Output("jpeg"))
