"""What the numbers of a manifest were computed from, kept beside it in the bundle."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt, ValidationError

from deploy.artifacts import Bundle
from devices.machine import Machine
from devices.profile import Frozen, explain
from devices.sealed import BundleError


class LayerSensitivity(Frozen):
    """What an image loses when one layer alone is quantized, as means over the judges.

    Attributes:
        layer: Name of its node in the float student.
        operator: ``Conv`` or ``ConvTranspose``.
        psnr_db: PSNR to the float student's images, in dB.
        ssim: SSIM to the same.
        lpips: LPIPS to the same, or None where there was no LPIPS to ask.
        reverted: Whether it ended in float.
    """

    layer: str
    operator: str
    psnr_db: float
    ssim: float
    lpips: float | None
    reverted: bool = False


class Calibration(Frozen):
    """The images an INT8 engine was calibrated with; the images themselves stay at home.

    Attributes:
        images: How many.
        sha256: Over their pixels, in order.
        warnings: What is doubtful about them, in words; empty where nothing is.
    """

    images: PositiveInt
    sha256: str
    warnings: tuple[str, ...] = ()


class Evidence(Frozen):
    """``evidence.json``: raw measurements, so that anyone can judge the judgement.

    Attributes:
        samples_ms: For each engine measured, by its name, every latency in milliseconds at batch 1,
            in order; all of one interleaved run. Empty where this machine was not the device.
        rounds: Rounds of that run; each engine has equally many samples in each, one after another.
        sensitivity: The layers of the float student, worst first; empty without INT8.
        machine: Where all this was measured.
    """

    schema_version: Literal[1] = 1
    samples_ms: dict[str, tuple[float, ...]]
    rounds: int
    sensitivity: tuple[LayerSensitivity, ...]
    calibration: Calibration | None
    machine: Machine


def read_evidence(bundle: Bundle) -> Evidence | None:
    """The evidence of a bundle, whose digest `Bundle.read` has checked; None in old ones.

    Raises:
        BundleError: It is not evidence as this version knows it.
    """
    path = bundle.evidence
    if path is None:
        return None
    try:
        return Evidence.model_validate_json(path.read_text())
    except ValidationError as error:
        raise BundleError(f"{path}: {explain(error, Evidence)}") from error
