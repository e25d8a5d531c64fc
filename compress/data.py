"""Training pairs: crops of real images, the same for a step whenever it is asked for."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from compress.loop import Batch, BatchAt
from deploy import imaging
from deploy.imaging import Pixels

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")

Pair = tuple[Pixels, Pixels]
"""Source and truth of one image, (H, W, 3) each."""


@dataclass(frozen=True)
class Damage:
    """What happens to a photo before it is restored; each range is drawn from uniformly.

    Attributes:
        blur_px: Standard deviation of a Gaussian blur, in pixels.
        noise: Standard deviation of Gaussian noise, in 8-bit levels.
        jpeg_quality: Quality it is saved with at last.
    """

    blur_px: tuple[float, float]
    noise: tuple[float, float]
    jpeg_quality: tuple[int, int]

    def apply(self, pixels: Pixels, rng: np.random.Generator) -> Pixels:
        """Blur, add noise, save as JPEG: (H, W, 3) -> (H, W, 3)."""
        blur = ImageFilter.GaussianBlur(rng.uniform(*self.blur_px))
        blurred = np.asarray(Image.fromarray(pixels).filter(blur), dtype=np.float32)
        scale = np.float32(rng.uniform(*self.noise))
        noisy = blurred + scale * rng.standard_normal(pixels.shape, dtype=np.float32)
        buffer = io.BytesIO()
        image = Image.fromarray(np.clip(np.rint(noisy), 0, 255).astype(np.uint8))
        image.save(
            buffer, format="JPEG", quality=int(rng.integers(*self.jpeg_quality, endpoint=True))
        )
        return imaging.decode(buffer.getvalue())


@dataclass(frozen=True)
class Pairs:
    """Images in memory, with the way from an image to a training pair.

    Attributes:
        names: File names without suffix.
        sources: (H, W, 3) each.
        targets: The truth, as large as its source; the sources themselves where ``damage`` makes
            the pair.
        damage: Applied to sources after cropping, or None where the pairs come from files.
    """

    names: tuple[str, ...]
    sources: tuple[Pixels, ...]
    targets: tuple[Pixels, ...]
    damage: Damage | None = None

    def whole(self, index: int, *, multiple: int) -> Pair:
        """One image at full size, cropped at the right and bottom to multiples of ``multiple``.

        Its damage depends on its index alone, so held-back images are the same in every run.
        """
        height, width = (n - n % multiple for n in self.sources[index].shape[:2])
        source = self.sources[index][:height, :width]
        target = self.targets[index][:height, :width]
        return self._damaged(source, np.random.default_rng(index)), target

    def crop(self, rng: np.random.Generator, size: int) -> Pair:
        """A random square of a random image, shrunk up to twofold, mirrored and turned."""
        index = int(rng.integers(len(self.sources)))
        source, target = self.sources[index], self.targets[index]
        height, width = source.shape[:2]
        side = min(height, width, int(size * rng.uniform(1.0, 2.0)) if rng.random() < 0.5 else size)
        top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
        turns, mirror = int(rng.integers(4)), bool(rng.integers(2))
        channels = rng.permutation(3)

        def cut(pixels: Pixels) -> Pixels:
            square = pixels[top : top + side, left : left + side]
            if side != size:
                resized = Image.fromarray(square).resize((size, size), Image.Resampling.LANCZOS)
                square = np.asarray(resized, dtype=np.uint8)
            square = np.rot90(square, turns)
            if self.damage is not None:
                # restoration must keep every colour, not the few that a dozen photos hold
                square = square[..., channels]
            return np.ascontiguousarray(square[:, ::-1] if mirror else square)

        clean = cut(target)
        if self.damage is None:
            return cut(source), clean
        return self._damaged(clean, rng), clean

    def _damaged(self, pixels: Pixels, rng: np.random.Generator) -> Pixels:
        return pixels if self.damage is None else self.damage.apply(pixels, rng)


def photo_restoration(folder: Path, damage: Damage) -> Pairs:
    """Clean photos of a folder, to be damaged and restored.

    Raises:
        ValueError: No such folder, no images in it, or a file that is not an image.
    """
    names, photos = _read_folder(folder)
    return Pairs(names, photos, photos, damage)


def paired_folders(sources: Path, targets: Path) -> Pairs:
    """Pairs of files with the same name in two folders.

    Raises:
        ValueError: As `photo_restoration`; names without a partner; sizes that differ.
    """
    names, source_images = _read_folder(sources)
    target_names, target_images = _read_folder(targets)
    alone = sorted(set(names) ^ set(target_names))
    if alone:
        raise ValueError(
            f"{sources} and {targets} must hold the same names; without a partner: "
            f"{', '.join(alone[:5])}"
        )
    for name, source, target in zip(names, source_images, target_images, strict=True):
        if source.shape != target.shape:
            raise ValueError(
                f"{name}: source is {source.shape[1]} x {source.shape[0]}, truth is "
                f"{target.shape[1]} x {target.shape[0]}; resize one of them"
            )
    return Pairs(names, source_images, target_images)


def batches(pairs: Pairs, *, size: int, batch_size: int, seed: int) -> BatchAt:
    """Batches of random crops, (batch_size, 3, size, size), drawn from ``(seed, step)`` alone."""

    def batch_at(step: int) -> Batch:
        rng = np.random.default_rng([seed, step])
        crops = [pairs.crop(rng, size) for _ in range(batch_size)]
        source, target = zip(*crops, strict=True)
        return Batch(to_tensor(np.stack(source)), to_tensor(np.stack(target)))

    return batch_at


def to_tensor(pixels: Pixels) -> Tensor:
    """``(N, H, W, 3)`` or ``(H, W, 3)`` uint8 -> (N, 3, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(imaging.to_model(pixels))


def _read_folder(folder: Path) -> tuple[tuple[str, ...], tuple[Pixels, ...]]:
    if not folder.is_dir():
        raise ValueError(f"there is no photo folder {folder}; make it, or name another in [data]")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise ValueError(f"{folder} holds no images ({', '.join(SUFFIXES)})")
    return tuple(p.stem for p in paths), tuple(map(imaging.read_image, paths))
