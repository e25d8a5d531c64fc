"""Is an engine still the student? Its images beside the float student's, on the golden pairs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deploy.artifacts import GoldenPairs, Quality, QualityFloor
from deploy.imaging import Pixels, from_model, to_model
from devices.session import Images, Session

PSNR_CEILING_DB = 100.0
"""Images this close differ by float rounding only, and JSON has no infinity."""
FLOAT_TOLERANCE = 1e-3
"""How far a float engine may be from torch, on images in [-1, 1]; 1e-5 is usual."""
WINDOW = 11
"""Side of the Gaussian window of SSIM, in pixels."""


class EngineError(ValueError):
    """An engine whose images are not images, or not the float student's where they must be."""


@dataclass(frozen=True)
class Fidelity:
    """How close an engine is to the float student, as means over the golden pairs.

    Attributes:
        psnr_db: PSNR to the float student's images in [-1, 1], in dB; `PSNR_CEILING_DB` at most.
        ssim: SSIM to the same.
        largest_error: Largest difference of one value in [-1, 1].
        quality: After rounding to 8 bits, to the truth where there is one, else to the teacher.
        truth_psnr_db: PSNR to the truth after rounding to 8 bits, or None without a truth.
        truth_drop_db: By how much that is below the float student's, or None.
    """

    psnr_db: float
    ssim: float
    largest_error: float
    quality: Quality
    truth_psnr_db: float | None = None
    truth_drop_db: float | None = None

    def passes(self, floor: QualityFloor) -> bool:
        """Whether nothing is below the floor."""
        return not self.shortfall(floor)

    def shortfall(self, floor: QualityFloor) -> str:
        """What is below the floor, in a few words; empty where nothing is."""
        if self.psnr_db < floor.psnr_db:
            return f"{self.psnr_db:.1f} dB to the float student, floor {floor.psnr_db:g}"
        if self.truth_drop_db is not None and self.truth_drop_db > floor.truth_drop_db:
            return f"loses {self.truth_drop_db:.2f} dB to the truth, floor {floor.truth_drop_db:g}"
        return ""


def verify(session: Session, golden: GoldenPairs) -> Fidelity:
    """Run an engine on the golden pairs, one image at a time, and compare.

    Raises:
        EngineError: It gives images of another shape, or values that are not finite.
    """
    outputs = np.concatenate([_run(session, index, golden) for index in range(len(golden.source))])
    pixels = from_model(outputs)
    truth = golden.target
    ours = None if truth is None else pixel_quality(pixels, truth).psnr_db
    student = None if truth is None else pixel_quality(from_model(golden.student), truth).psnr_db
    return Fidelity(
        psnr_db=_mean(
            psnr(a, b, data_range=2.0) for a, b in zip(outputs, golden.student, strict=True)
        ),
        ssim=_mean(
            # from 0 up: the luminance term of SSIM means nothing where values change sign
            ssim(a + 1, b + 1, data_range=2.0)
            for a, b in zip(outputs, golden.student, strict=True)
        ),
        largest_error=float(np.abs(outputs - golden.student).max()),
        quality=pixel_quality(pixels, golden.teacher if truth is None else truth),
        truth_psnr_db=ours,
        truth_drop_db=None if ours is None or student is None else student - ours,
    )


def needed_db(golden: GoldenPairs, floor: QualityFloor) -> float:
    """PSNR to the float student that should keep an engine above the floor, in dB.

    To lose no more than the floor allows to the truth, an engine's own error must be as far below
    the student's as the sum of independent errors demands. An estimate, to choose what to try; what
    ships is decided by `Fidelity.shortfall`.
    """
    if golden.target is None:
        return floor.psnr_db
    student_db = pixel_quality(from_model(golden.student), golden.target).psnr_db
    allowed = 10 ** (max(floor.truth_drop_db, 0.01) / 10) - 1
    return max(floor.psnr_db, student_db - 10 * math.log10(allowed))


def check_float(fidelity: Fidelity, engine: str) -> None:
    """Refuse a float engine that is not the network torch ran: nothing made from it can be right.

    Raises:
        EngineError: It differs from torch by more than `FLOAT_TOLERANCE`.
    """
    if fidelity.largest_error > FLOAT_TOLERANCE:
        raise EngineError(
            f"the float engine ({engine}) differs from torch by {fidelity.largest_error:.2g}, "
            f"more than {FLOAT_TOLERANCE:g}: student.onnx is not the student that made golden.npz; "
            "make the export again with pocketgan compress"
        )


def pixel_quality(pixels: Pixels, reference: Pixels) -> Quality:
    """Mean PSNR and SSIM of 8-bit images, (N, H, W, 3)."""
    ours, theirs = (p.astype(np.float32).transpose(0, 3, 1, 2) for p in (pixels, reference))
    pairs = list(zip(ours, theirs, strict=True))
    return Quality(
        psnr_db=_mean(psnr(a, b, data_range=255.0) for a, b in pairs),
        ssim=_mean(ssim(a, b, data_range=255.0) for a, b in pairs),
    )


def psnr(
    images: NDArray[np.float32], reference: NDArray[np.float32], *, data_range: float
) -> float:
    """Peak signal-to-noise ratio in dB over all values, at most `PSNR_CEILING_DB`.

    Args:
        images: Any shape.
        reference: The same shape.
        data_range: Largest value less smallest: 2 for [-1, 1], 255 for 8 bits.
    """
    error = float(np.mean(np.square(images.astype(np.float64) - reference)))
    if error == 0.0:
        return PSNR_CEILING_DB
    return min(PSNR_CEILING_DB, 10 * math.log10(data_range**2 / error))


def ssim(
    images: NDArray[np.float32], reference: NDArray[np.float32], *, data_range: float
) -> float:
    """Structural similarity of one image, (C, H, W), as the mean over its channels.

    Gaussian window of 11 x 11 and standard deviation 1.5, k1 = 0.01, k2 = 0.03 (Wang et al., "Image
    quality assessment: from error visibility to structural similarity", 2004, section III-B). The
    image is mirrored at its border, as torchmetrics does, so that these numbers and those that
    ``compress`` writes may stand side by side.

    Args:
        images: Values from 0 up.
        reference: The same shape.
        data_range: Largest value possible.

    Raises:
        ValueError: The image is smaller than the window.
    """
    if min(images.shape[-2:]) < WINDOW:
        raise ValueError(
            f"SSIM takes images of at least {WINDOW} x {WINDOW} pixels, got {images.shape[-2:]}"
        )
    x, y = images.astype(np.float64), reference.astype(np.float64)
    mean_x, mean_y = _blur(x), _blur(y)
    variance_x = _blur(x * x) - mean_x**2
    variance_y = _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    return float(np.mean(luminance * structure))


def _blur(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gaussian window, rows then columns, over an image mirrored at its border: (C, H, W)."""
    offsets = np.arange(WINDOW) - WINDOW // 2
    weights = np.exp(-(offsets**2) / (2 * 1.5**2))
    weights /= weights.sum()
    height, width = image.shape[-2:]
    border = (WINDOW // 2, WINDOW // 2)
    mirrored = np.pad(image, ((0, 0), border, border), mode="reflect")
    rows = sum(w * mirrored[:, k : k + height] for k, w in enumerate(weights))
    return np.asarray(sum(w * rows[..., k : k + width] for k, w in enumerate(weights)))


def _run(session: Session, index: int, golden: GoldenPairs) -> Images:
    output = session.run(to_model(golden.source[index]))
    expected = golden.student[index : index + 1]
    if output.shape != expected.shape:
        raise EngineError(
            f"golden image {index} came out as {output.shape}, the student made {expected.shape}"
        )
    if not np.isfinite(output).all():
        raise EngineError(f"golden image {index} came out with values that are not finite")
    return output


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))
