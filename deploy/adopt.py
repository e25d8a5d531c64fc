"""A student export out of any ONNX generator and a folder of images, without a teacher."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from deploy.artifacts import EXPORT, StudentExport
from deploy.foreign import Foreign, count, read_foreign
from deploy.golden import GoldenPairs
from deploy.imaging import Pixels, PixelSpec, canonical, read_image, to_model
from deploy.manifests import ExportManifest, ModelSpec, QualityFloor
from deploy.provenance import versions
from deploy.sealing import seal
from devices.sealed import digest
from devices.session import Images

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
MAX_PIXELS = 100_000_000
"""A user's own files may be larger than what strangers upload."""
LEAST_CALIBRATION = 8
LEAST_GOLDEN = 2
MOST_CALIBRATION = 300
"""What quantizers gain nothing beyond, and what fits in memory."""
MOST_GOLDEN = 8
FLOOR = QualityFloor(psnr_db=30.0, truth_drop_db=0.5)
"""As in most recipes; there is no truth here to lose anything to."""
FAR_OUT = 32 / 127.5
"""Further beyond black or white than a generator overshoots, in canonical values."""
MOST_FAR_OUT = 0.05
"""Share of values that may be so far beyond."""

Item = TypeVar("Item")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Crops:
    """Squares out of the middle of images: (N, S, S, 3)."""

    calibration: Pixels
    golden: Pixels


def adopt(
    model: Path,
    images: Path,
    out: Path,
    *,
    name: str,
    pixels: PixelSpec,
    image_size: int,
    floor: QualityFloor = FLOOR,
) -> StudentExport:
    """Make a student export of a generator that ``compress`` did not make.

    The same file and images give the same export, byte for byte, on the same machine.

    Args:
        model: One ONNX file: an image in, (N, 3, H, W) float32, and one out.
        images: Folder of images that it translates. Some become golden pairs, the others calibrate;
            they stay in the export and do not travel in a bundle, but for the golden ones.
        out: The export's folder; an export that is there is replaced.
        name: What to call it.
        pixels: How the generator sees pixels.
        image_size: Side of the squares cut out of the images, px; costs are counted at it.
        floor: What an engine may cost beside the float model.

    Raises:
        ValueError: The model cannot be deployed, the images are too few or too small, or
            ``pixels`` is not how it sees them; the message says what to do.
        OSError: A file could not be read or written; ``out`` is as it was.
    """
    foreign = read_foreign(model)
    if image_size % foreign.size_multiple:
        raise ValueError(
            f"{model} takes sizes that are multiples of {foreign.size_multiple}, and {image_size} "
            "is none; choose another size"
        )
    cost = count(foreign.model, image_size)
    if not cost.params or not cost.macs:
        raise ValueError(f"{model} has no convolution with stored weights: it is no generator")
    crops = _crops(images, image_size)
    golden = GoldenPairs(crops.golden, _outputs(model, foreign, crops.golden, pixels), None, None)

    def fill(folder: Path) -> Callable[[dict[str, str]], ExportManifest]:
        student = folder / "student.onnx"
        student.write_bytes(foreign.model.SerializeToString(deterministic=True))
        np.savez_compressed(folder / "calibration.npz", source=crops.calibration)
        golden.write(folder / "golden.npz")
        return lambda sha256: ExportManifest(
            model=ModelSpec(
                name=name,
                task="unknown",
                family="adopted",
                image_size=image_size,
                scale=foreign.scale,
                size_multiple=foreign.size_multiple,
                params=cost.params,
                macs=cost.macs,
                macs_published=cost.macs_published,
                pixels=pixels,
            ),
            teacher=None,
            student=None,
            student_to_teacher=None,
            channel_multiple=1,
            floor=floor,
            lineage={
                "model": f"sha256:{digest(model)}",
                "images": f"sha256:{_digest_of(crops)}",
                "student": f"sha256:{sha256[student.name]}",
            },
            versions=versions(),
            sha256=sha256,
        )

    seal(out, EXPORT, fill)
    return StudentExport.read(out)


def _crops(folder: Path, size: int) -> _Crops:
    """Squares of a folder's images; the golden ones evenly spaced, and none that calibrates too."""
    if not folder.is_dir():
        raise ValueError(f"there is no folder of images {folder}")
    files = [
        path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    ]
    most = MOST_CALIBRATION + MOST_GOLDEN
    chosen = _evenly(files, most) if len(files) > most else files
    squares: dict[bytes, Pixels] = {}
    small = 0
    for path in chosen:
        image = read_image(path, max_pixels=MAX_PIXELS)
        height, width = image.shape[:2]
        if min(height, width) < size:
            small += 1
            continue
        top, left = (height - size) // 2, (width - size) // 2
        square = np.ascontiguousarray(image[top : top + size, left : left + size])
        # the same picture under two names must not be judge and judged
        squares.setdefault(hashlib.sha256(square.tobytes()).digest(), square)
    left_out = f"{small} smaller than {size} x {size}, {len(chosen) - small - len(squares)} twice"
    needed = LEAST_CALIBRATION + LEAST_GOLDEN
    if len(squares) < needed:
        raise ValueError(
            f"{folder} has {len(squares)} usable images of {len(chosen)} ({left_out}); at least "
            f"{needed} are needed, {LEAST_CALIBRATION} to calibrate with and {LEAST_GOLDEN} to "
            "judge by: add images, or choose a smaller size"
        )
    if len(squares) < len(chosen):
        log.warning("%s: left out %s", folder, left_out)
    usable = list(squares.values())
    golden = _evenly(range(len(usable)), min(MOST_GOLDEN, len(usable) - LEAST_CALIBRATION))
    return _Crops(
        calibration=np.stack([one for at, one in enumerate(usable) if at not in golden]),
        golden=np.stack([usable[at] for at in golden]),
    )


def _outputs(model: Path, foreign: Foreign, source: Pixels, pixels: PixelSpec) -> Images:
    """What the float model makes of images, after checking that it is images."""
    outputs = np.concatenate([foreign.run(to_model(one, pixels)) for one in source])
    values = canonical(outputs, pixels)
    if not np.isfinite(values).all():
        raise ValueError(f"{model} gives values that are not finite; it cannot be judged")
    far = float(np.mean(np.abs(values) > 1 + FAR_OUT))
    low, high = float(outputs.min()), float(outputs.max())
    if far > MOST_FAR_OUT:
        levels = np.array([[[0, 0, 0], [255, 255, 255]]], dtype=np.uint8)
        black, white = to_model(levels, pixels)[0, 0, 0]
        raise ValueError(
            f"{model} gives values from {low:.3g} to {high:.3g} where black is {black:.3g} and "
            f"white {white:.3g}: it sees pixels otherwise; say how with --range"
        )
    if float(values.min()) >= 0:
        log.warning(
            "%s gives no value below middle grey (%.3g to %.3g): does --range say how it sees "
            "pixels?",
            model,
            low,
            high,
        )
    return outputs


def _evenly(items: Sequence[Item], wanted: int) -> list[Item]:
    return [items[(2 * at + 1) * len(items) // (2 * wanted)] for at in range(wanted)]


def _digest_of(crops: _Crops) -> str:
    pixels = hashlib.sha256()
    for part in (crops.calibration, crops.golden):
        pixels.update(repr(part.shape).encode())
        pixels.update(part.tobytes())
    return pixels.hexdigest()
