"""Is an engine still the student? Its images beside the float student's, on the golden pairs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deploy.golden import GoldenPairs
from deploy.imaging import RGB, Pixels, PixelSpec, canonical, from_model, to_model
from deploy.manifests import Quality, QualityFloor
from devices.session import Images, Session

PSNR_CEILING_DB = 100.0
"""Images this close differ by float rounding only, and JSON has no infinity."""
FLOAT_TOLERANCE = 1e-3
"""How far a float engine may be from torch, on images in [-1, 1]; 1e-5 is usual."""
WINDOW = 11
"""Side of the Gaussian window of SSIM, in pixels."""

Distance = Callable[[Images, Images], NDArray[np.float32]]
"""How different the images of pairs look: (N, 3, H, W) in [-1, 1] twice -> (N,); 0 is the same."""


class EngineError(ValueError):
    """An engine whose images are not images, or not the float student's where they must be."""


@dataclass(frozen=True)
class Closeness:
    """How close images are to the float student's, as means over them.

    Attributes:
        psnr_db: PSNR in [-1, 1], in dB; `PSNR_CEILING_DB` at most.
        ssim: SSIM.
        lpips: LPIPS, or None where there was no LPIPS to ask.
    """

    psnr_db: float
    ssim: float
    lpips: float | None

    def shortfall(self, floor: QualityFloor) -> str:
        """What is below the floor, in a few words; empty where nothing is."""
        return _far(self.psnr_db, self.lpips, floor)


@dataclass(frozen=True)
class Fidelity:
    """How close an engine is to the float student, as means over the golden pairs.

    Attributes:
        psnr_db: PSNR to the float student's images in [-1, 1], in dB; `PSNR_CEILING_DB` at most.
        ssim: SSIM to the same.
        largest_error: Largest difference of one value in [-1, 1].
        quality: After rounding to 8 bits, beside what `GoldenPairs.reference` gives.
        truth_psnr_db: PSNR to the truth after rounding to 8 bits, or None without a truth.
        truth_drop_db: By how much that is below the float student's, or None.
        lpips: LPIPS to the float student's images, or None where there was no LPIPS to ask.
    """

    psnr_db: float
    ssim: float
    largest_error: float
    quality: Quality
    truth_psnr_db: float | None = None
    truth_drop_db: float | None = None
    lpips: float | None = None

    def passes(self, floor: QualityFloor) -> bool:
        """Whether nothing is below the floor."""
        return not self.shortfall(floor)

    def shortfall(self, floor: QualityFloor) -> str:
        """What is below the floor, in a few words; empty where nothing is."""
        far = _far(self.psnr_db, self.lpips, floor)
        if far:
            return far
        if self.truth_drop_db is not None and self.truth_drop_db > floor.truth_drop_db:
            return f"loses {self.truth_drop_db:.2f} dB to the truth, floor {floor.truth_drop_db:g}"
        return ""


def verify(
    session: Session,
    golden: GoldenPairs,
    lpips: Distance | None = None,
    *,
    spec: PixelSpec = RGB,
) -> Fidelity:
    """Run an engine on the golden pairs, one image at a time, and compare.

    Args:
        session: The engine.
        golden: What it must reproduce.
        lpips: A `deploy.lpips.Lpips`, or None to leave LPIPS out: a floor that asks for it then
            refuses the engine.
        spec: How the student sees pixels. Whatever it is, figures are of images in [-1, 1].

    Raises:
        EngineError: It gives images of another shape, or values that are not finite.
    """
    outputs = np.concatenate(
        [_run(session, index, golden, spec) for index in range(len(golden.source))]
    )
    pixels = from_model(outputs, spec)
    truth = golden.target
    ours = student = None
    if truth is not None:
        ours = pixel_quality(pixels, truth).psnr_db
        student = pixel_quality(from_model(golden.student, spec), truth).psnr_db
    images, references = canonical(outputs, spec), canonical(golden.student, spec)
    close = closeness(images, references, lpips)
    return Fidelity(
        psnr_db=close.psnr_db,
        ssim=close.ssim,
        largest_error=float(np.abs(images - references).max()),
        quality=pixel_quality(pixels, golden.reference(spec)[1]),
        truth_psnr_db=ours,
        truth_drop_db=None if ours is None or student is None else student - ours,
        lpips=close.lpips,
    )


def closeness(images: Images, references: Images, lpips: Distance | None) -> Closeness:
    """Compare images with the float student's, (N, 3, H, W) in [-1, 1] each.

    Raises:
        EngineError: Values that are not finite: no figure would mean anything.
    """
    if not np.isfinite(images).all():
        raise EngineError("images came out with values that are not finite; they have no quality")
    pairs = list(zip(images, references, strict=True))
    return Closeness(
        psnr_db=_mean(psnr(a, b, data_range=2.0) for a, b in pairs),
        # from 0 up: the luminance term of SSIM means nothing where values change sign
        ssim=_mean(ssim(a + 1, b + 1, data_range=2.0) for a, b in pairs),
        # a student without a tanh leaves [-1, 1], which no image does
        lpips=None if lpips is None else _mean(lpips(images.clip(-1, 1), references.clip(-1, 1))),
    )


def needed_db(golden: GoldenPairs, floor: QualityFloor, *, spec: PixelSpec = RGB) -> float:
    """PSNR to the float student that should keep an engine above the floor, in dB.

    To lose no more than the floor allows to the truth, an engine's own error must be as far below
    the student's as the sum of independent errors demands. An estimate, to choose what to try; what
    ships is decided by `Fidelity.shortfall`.
    """
    if golden.target is None:
        return floor.psnr_db
    student_db = pixel_quality(from_model(golden.student, spec), golden.target).psnr_db
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


def _far(psnr_db: float, lpips: float | None, floor: QualityFloor) -> str:
    """In what an engine is too far from the float student; empty where in nothing."""
    if psnr_db < floor.psnr_db:
        return f"{psnr_db:.1f} dB to the float student, floor {floor.psnr_db:g}"
    if floor.lpips is None:
        return ""
    if lpips is None:
        return (
            f"LPIPS to the float student is not known, floor {floor.lpips:g}: the export has no "
            "lpips.onnx and the cache no weights; pocketgan evaluate fetches them"
        )
    # written so that a figure that is no number fails, too
    if not lpips <= floor.lpips:
        return f"LPIPS {lpips:.4f} to the float student, floor {floor.lpips:g}"
    return ""


def _run(session: Session, index: int, golden: GoldenPairs, spec: PixelSpec) -> Images:
    output = session.run(to_model(golden.source[index], spec))
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
