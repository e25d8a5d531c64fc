"""Images as clients send them: mixed sizes and formats, from one photo; and broken bundles."""

from __future__ import annotations

import io
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageOps
from servers import PHOTO, reseal

from devices.sealed import MANIFEST, digest, seal_text

SIDES = (24, 37, 48, 64, 96, 111, 128, 160, 200, 256, 320)


def images(count: int, seed: int = 0) -> list[bytes]:
    """Encoded images of every kind in turn and of many sizes; always the same for one seed."""
    rng = random.Random(seed)
    with Image.open(PHOTO) as photo:
        whole = photo.convert("RGB")
    kinds = [jpeg, progressive, grey_jpeg, turned, cmyk, png, alpha, palette, grey_png, webp, exact]
    made = []
    for at in range(count):
        size = rng.choice(SIDES), rng.choice(SIDES)
        made.append(kinds[at % len(kinds)](ImageOps.fit(whole, size, centering=(rng.random(), 0))))
    return made


def jpeg(image: Image.Image) -> bytes:
    """Baseline JPEG."""
    return _saved(image, "JPEG", quality=88)


def progressive(image: Image.Image) -> bytes:
    """Progressive JPEG."""
    return _saved(image, "JPEG", quality=75, progressive=True)


def grey_jpeg(image: Image.Image) -> bytes:
    """JPEG of one channel."""
    return _saved(image.convert("L"), "JPEG")


def turned(image: Image.Image) -> bytes:
    """JPEG that EXIF says to turn by a quarter."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return _saved(image, "JPEG", exif=exif)


def cmyk(image: Image.Image) -> bytes:
    """JPEG for a printing press."""
    return _saved(image.convert("CMYK"), "JPEG")


def png(image: Image.Image) -> bytes:
    """PNG."""
    return _saved(image, "PNG", compress_level=1)


def alpha(image: Image.Image) -> bytes:
    """PNG, more transparent to the right."""
    image.putalpha(Image.linear_gradient("L").rotate(90).resize(image.size))
    return _saved(image, "PNG", compress_level=1)


def palette(image: Image.Image) -> bytes:
    """PNG of 64 colours."""
    return _saved(image.quantize(64), "PNG", compress_level=1)


def grey_png(image: Image.Image) -> bytes:
    """PNG of one channel."""
    return _saved(image.convert("L"), "PNG", compress_level=1)


def webp(image: Image.Image) -> bytes:
    """Lossy WebP."""
    return _saved(image, "WEBP", quality=80, method=0)


def exact(image: Image.Image) -> bytes:
    """Lossless WebP."""
    return _saved(image, "WEBP", lossless=True, method=0)


def broken_bundles(bundle: Path, folder: Path, count: int) -> list[str]:
    """Make folders that no server may take, and return their names."""
    names = []
    for at in range(count):
        name, spoil = f"broken{at}", BROKEN[at % len(BROKEN)]
        spoil(reseal(bundle, folder / name, name=name))
        names.append(name)
    return names


def _flip(folder: Path) -> None:
    engine = folder / _face(folder)["engine_file"]
    data = bytearray(engine.read_bytes())
    data[len(data) // 2] ^= 1
    engine.write_bytes(bytes(data))


def _lose(folder: Path) -> None:
    (folder / _face(folder)["engine_file"]).unlink()


def _cut_the_face(folder: Path) -> None:
    face = folder / MANIFEST
    face.write_bytes(face.read_bytes()[:200])


def _empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def _seal_nonsense(folder: Path) -> None:
    """Every digest is right, and the engine is none."""
    face = _face(folder)
    engine = folder / face["engine_file"]
    engine.write_bytes(b"\x08\x07" + bytes(1000))
    face["sha256"][face["engine_file"]] = digest(engine)
    (folder / MANIFEST).write_text(json.dumps(face))
    (folder / f"{MANIFEST}.sha256").write_text(seal_text(digest(folder / MANIFEST), MANIFEST))


BROKEN: tuple[Callable[[Path], None], ...] = (_flip, _lose, _cut_the_face, _empty, _seal_nonsense)


def _face(folder: Path) -> dict:
    face: dict = json.loads((folder / MANIFEST).read_text())
    return face


def _saved(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()
