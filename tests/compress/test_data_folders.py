import logging

import numpy as np
import pytest
from PIL import Image

from compress.data.augment import Jitter
from compress.data.cache import PixelCache, kept_image
from compress.data.folders import File, open_folder
from compress.data.pairs import paired_folders, paired_halves
from deploy.imaging import ImageError, decode, inspect
from tests.compress.conftest import write_photos


def break_three(folder):
    """A truncated JPEG, an empty file, a text file named .png, beside two whole images."""
    write_photos(folder, 2)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "half.jpg")
    (folder / "half.jpg").write_bytes((folder / "half.jpg").read_bytes()[:2000])
    (folder / "empty.webp").touch()
    (folder / "notes.png").write_text("dear diary")


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"there is no photo folder .*nowhere; make it, or name"):
        open_folder(tmp_path / "nowhere", "refuse")


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"holds no images \(\.jpg, \.jpeg, \.png, \.webp\)"):
        open_folder(tmp_path, "refuse")


def test_all_broken_files_are_named_at_once(tmp_path):
    break_three(tmp_path / "a")
    with pytest.raises(ValueError, match="3 of 5 files are of no use") as error:
        open_folder(tmp_path / "a", "refuse")
    said = str(error.value)
    assert "empty.webp: not a JPEG, PNG, WEBP image (0 bytes)" in said
    assert "half.jpg: the JPEG image is damaged: image file is truncated" in said
    assert "notes.png: not a JPEG, PNG, WEBP image (10 bytes)" in said
    assert said.endswith('take them out, or set broken = "skip" in [data]')


def test_broken_files_are_skipped_by_choice_and_named(tmp_path, caplog):
    break_three(tmp_path / "a")
    with caplog.at_level(logging.WARNING):
        folder = open_folder(tmp_path / "a", "skip")
    assert folder.names == ("0", "1")
    assert folder.skipped == {"empty", "half", "notes"}
    (record,) = caplog.records
    for name in ("empty.webp", "half.jpg", "notes.png"):
        assert name in record.message


def test_ten_broken_files_are_listed_and_the_others_counted(tmp_path):
    write_photos(tmp_path / "a", 1)
    for index in range(13):
        (tmp_path / "a" / f"x{index:02}.jpg").touch()
    with pytest.raises(ValueError, match=r"x09\.jpg: [^;]*; and 3 more; take them out") as error:
        open_folder(tmp_path / "a", "refuse")
    assert "x10" not in str(error.value)


def test_a_folder_of_broken_files_is_refused_even_where_they_are_skipped(tmp_path):
    (tmp_path / "x.jpg").touch()
    with pytest.raises(ValueError, match=r"1 of 1 files are of no use: .*; name another folder"):
        open_folder(tmp_path, "skip")


def test_a_file_that_cannot_be_read_is_broken(tmp_path):
    write_photos(tmp_path / "a", 1)
    (tmp_path / "a" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(ValueError, match=r"gone\.png: .*No such file"):
        open_folder(tmp_path / "a", "refuse")


def test_hidden_files_and_other_files_are_left_alone(tmp_path):
    write_photos(tmp_path / "a", 1)
    (tmp_path / "a" / "._0.png").write_bytes(b"what macOS leaves behind")
    (tmp_path / "a" / "labels.txt").touch()
    assert open_folder(tmp_path / "a", "refuse").names == ("0",)


def test_a_halves_file_of_odd_width_is_broken(tmp_path):
    for index, width in enumerate((80, 81)):
        Image.new("RGB", (width, 40)).save(tmp_path / f"{index}.png")
    options = {"broken": "refuse", "cache": PixelCache()}
    with pytest.raises(ValueError, match=r"1\.png: 81 pixels wide, and two halves are even"):
        paired_halves(tmp_path, "left", Jitter(), **options)
    assert paired_halves(tmp_path, "left", Jitter(), **options | {"broken": "skip"}).names == ("0",)


def test_the_partner_of_a_skipped_file_is_left_out_too(tmp_path):
    write_photos(tmp_path / "a", 3)
    write_photos(tmp_path / "b", 3)
    (tmp_path / "a" / "0.png").write_bytes(b"")
    (tmp_path / "b" / "2.png").write_bytes(b"")
    data = paired_folders(
        tmp_path / "a", tmp_path / "b", Jitter(), broken="skip", cache=PixelCache()
    )
    assert data.names == ("1",)
    (tmp_path / "a" / "1.png").unlink()
    with pytest.raises(ValueError, match="without a partner: 1"):
        paired_folders(tmp_path / "a", tmp_path / "b", Jitter(), broken="skip", cache=PixelCache())


def encoded(tmp_path, name, **options):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / name, **options)
    return (tmp_path / name).read_bytes()


EXIF = Image.Exif()
EXIF[0x0112] = 6  # lies on its side


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.jpg", {}),
        ("a.jpg", {"progressive": True}),
        ("a.jpg", {"exif": EXIF}),
        ("a.png", {}),
        ("a.png", {"exif": EXIF}),
        ("a.webp", {}),
        ("a.webp", {"exif": EXIF}),
    ],
)
def test_inspection_says_what_decoding_gives(tmp_path, name, options):
    data = encoded(tmp_path, name, **options)
    assert inspect(data) == decode(data).shape[:2]
    assert inspect(data + b"what cameras append") == decode(data).shape[:2]
    for share in (0.02, 0.5, 0.9):
        cut = data[: int(len(data) * share)]
        with pytest.raises(ImageError):
            decode(cut)
        with pytest.raises(ImageError):
            inspect(cut)


def test_inspection_sees_a_wrong_bit_in_a_png(tmp_path):
    data = bytearray(encoded(tmp_path, "a.png"))
    data[len(data) // 2] ^= 1
    with pytest.raises(ImageError, match="the PNG image is damaged"):
        inspect(bytes(data))


def test_inspection_refuses_what_is_too_large(tmp_path):
    with pytest.raises(ImageError, match="image is 56 x 40 = 2240 pixels; the limit is 2000"):
        inspect(encoded(tmp_path, "a.jpg"), max_pixels=2000)


def test_a_file_that_breaks_later_is_named(tmp_path):
    write_photos(tmp_path / "a", 1)
    folder = open_folder(tmp_path / "a", "refuse")
    (tmp_path / "a" / "0.png").write_bytes(b"overwritten")
    with pytest.raises(ImageError, match=r"0\.png: not a .*; take it out of the folder and start"):
        folder.files[0].read()


# the cache


def count_reads(monkeypatch):
    reads = []
    read = File.read
    monkeypatch.setattr(File, "read", lambda file: (reads.append(file.path.name), read(file))[1])
    return reads


def test_nothing_is_decoded_before_it_is_used_and_then_once(tmp_path, monkeypatch):
    write_photos(tmp_path / "a", 3)
    reads = count_reads(monkeypatch)
    folder, cache = open_folder(tmp_path / "a", "refuse"), PixelCache()
    assert reads == []
    for _ in range(3):
        kept_image(cache, folder.files[1])
    assert reads == ["1.png"]
    kept_image(cache, folder.files[1], 64)  # another size is another image
    assert reads == ["1.png", "1.png"]
    assert cache.held_bytes == 112 * 128 * 3 + 64 * 73 * 3


def test_the_cache_keeps_to_its_budget_and_drops_what_was_used_longest_ago(tmp_path, monkeypatch):
    write_photos(tmp_path / "a", 4)
    reads = count_reads(monkeypatch)
    files = open_folder(tmp_path / "a", "refuse").files
    one = 112 * 128 * 3
    cache = PixelCache(2.5 * one / 2**20)
    for index in (0, 1, 0, 2, 0, 1):
        kept_image(cache, files[index])
        assert cache.held_bytes <= 2.5 * one
    assert reads == ["0.png", "1.png", "2.png", "1.png"]
    assert cache.held_bytes == 2 * one


def test_an_image_larger_than_the_budget_is_used_and_not_kept(tmp_path):
    write_photos(tmp_path / "a", 1)
    cache = PixelCache(0.001)
    file = open_folder(tmp_path / "a", "refuse").files[0]
    assert np.array_equal(kept_image(cache, file), file.read())
    assert cache.held_bytes == 0


def test_what_is_kept_cannot_be_changed(tmp_path):
    write_photos(tmp_path / "a", 1)
    pixels = kept_image(PixelCache(), open_folder(tmp_path / "a", "refuse").files[0])
    with pytest.raises(ValueError, match="read-only"):
        pixels[0, 0] = 0
