"""INT8 by NNCF from a calibration set, with the ranges that hurt least.

Quality of a generator hangs on how the ranges of activations are taken from the calibration
images. NNCF's default averages each image's extremes, which clips rare bright spots; the true
extremes clip nothing and are coarser. Which is better depends on the student (dB to the float
student, symmetric means against asymmetric extremes: 31.0 and 45.1 on one with outliers, 52.1 and
50.9 on one without), so both are made and the one closer to the float student on calibration images
is kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from deploy.graph import input_name
from deploy.imaging import Pixels, to_model
from deploy.qdq import sink_pads, unsigned_activations
from deploy.verify import psnr
from devices.session import Images
from devices.unreported import unreported

FEWEST = 8
"""Calibration images; below this the extremes of activations are a matter of luck."""
FLATTEST = 1.0
"""Standard deviation of the 8-bit levels of an image under which it shows nothing."""
NARROWEST = 128
"""Levels between the darkest and the brightest value of the whole set."""
ENDS = 2
"""Layers at the beginning and at the end that may stay in float."""
JUDGES = 8
"""Calibration images that decide between two quantized graphs."""


@dataclass(frozen=True)
class Quantized:
    """A quantized graph, and how it came about.

    Attributes:
        model: ONNX in Q/DQ form.
        quantizer: What made it, for the manifest.
        psnr_db: To the float student on calibration images, in dB.
    """

    model: onnx.ModelProto
    quantizer: str
    psnr_db: float


def check_calibration(pixels: Pixels) -> None:
    """Refuse a calibration set that would quantize a student badly.

    Args:
        pixels: (N, H, W, 3) uint8.

    Raises:
        ValueError: Too few images, the same one twice, one that is flat, or a set without
            contrast; the message says which.
    """
    remedy = "choose other calibration images and run pocketgan compress again"
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3:
        raise ValueError(
            f"calibration is {pixels.dtype} {pixels.shape}, not uint8 (N, H, W, 3); {remedy}"
        )
    if len(pixels) < FEWEST:
        raise ValueError(f"calibration has {len(pixels)} images; it takes {FEWEST}; {remedy}")
    seen: dict[str, int] = {}
    for index, image in enumerate(pixels):
        if image.std() < FLATTEST:
            raise ValueError(
                f"calibration image {index} is flat (levels {image.min()} to {image.max()}) and "
                f"says nothing about activations; {remedy}"
            )
        first = seen.setdefault(hashlib.sha256(image.tobytes()).hexdigest(), index)
        if first != index:
            raise ValueError(f"calibration images {first} and {index} are the same; {remedy}")
    darkest, brightest = int(pixels.min()), int(pixels.max())
    if brightest - darkest < NARROWEST:
        raise ValueError(
            f"calibration covers levels {darkest} to {brightest} of 0 to 255, fewer than "
            f"{NARROWEST}; {remedy}"
        )


def quantize(model: onnx.ModelProto, calibration: Pixels, *, enough_db: float) -> Quantized:
    """Quantize a float student; the same inputs give the same bytes.

    The whole graph is tried first, with two ways to find ranges. Where neither is enough, the first
    and last layers stay in float: there an image passes through few channels, so that one rounding
    is seen at once, and their share of the work is small.

    Args:
        model: Float ONNX; not changed.
        calibration: Inputs as the student will see them, (N, H, W, 3); checked first.
        enough_db: PSNR to the float student that is good enough, in dB.

    Raises:
        ValueError: As `check_calibration`.
        ModuleNotFoundError: NNCF is not installed.
    """
    check_calibration(calibration)
    judges = to_model(calibration[:: max(1, len(calibration) // JUDGES)][:JUDGES])
    reference = _outputs(model, judges)
    convolutions = [n.name for n in model.graph.node if n.op_type in ("Conv", "ConvTranspose")]
    plans = [(list[str](), "")]
    if len(convolutions) > 2 * ENDS:
        ends = [*convolutions[:ENDS], *convolutions[-ENDS:]]
        plans.append((ends, f", {ENDS} layers at each end in float"))
    tries: list[Quantized] = []
    for kept, note in plans:
        if tries and max(one.psnr_db for one in tries) >= enough_db:
            break
        for name, extremes in (("nncf performance, mean", False), ("nncf mixed, extremes", True)):
            int8 = _by_nncf(model, calibration, extremes=extremes, kept=kept)
            # rewritten as ONNX Runtime fuses it: the same numbers as unchanged, but faster
            outputs = _outputs(sink_pads(unsigned_activations(int8)), judges)
            tries.append(Quantized(int8, name + note, psnr(outputs, reference, data_range=2.0)))
    return max(tries, key=lambda quantized: quantized.psnr_db)


def _by_nncf(
    model: onnx.ModelProto, calibration: Pixels, *, extremes: bool, kept: list[str]
) -> onnx.ModelProto:
    with _quiet():
        # here, because importing NNCF takes a second and brings torch along where there is one
        import nncf  # noqa: PLC0415
        from nncf.quantization import advanced_parameters, range_estimator  # noqa: PLC0415

        logging.getLogger("nncf").setLevel(logging.ERROR)
        name = input_name(model)

        def item(image: Pixels) -> dict[str, Images]:
            return {name: to_model(image)}

        options: Any = advanced_parameters.AdvancedQuantizationParameters()
        preset = nncf.QuantizationPreset.PERFORMANCE  # symmetric activations
        if extremes:
            preset = nncf.QuantizationPreset.MIXED  # asymmetric activations
            minmax = range_estimator.RangeEstimatorParametersSet.MINMAX
            options.activations_range_estimator_params = minmax
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        quantized: onnx.ModelProto = nncf.quantize(
            copy,
            nncf.Dataset(list(calibration), item),
            preset=preset,
            subset_size=len(calibration),
            advanced_parameters=options,
            ignored_scope=nncf.IgnoredScope(names=kept) if kept else None,
        )
    del quantized.metadata_props[:]
    return quantized


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep NNCF's progress bars, warnings and telemetry away from whoever runs us."""
    with unreported(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        # deprecations inside NNCF and what it imports, which nobody here can mend
        warnings.simplefilter("ignore")
        yield


def _outputs(model: onnx.ModelProto, images: Images) -> Images:
    """What ONNX Runtime makes of some images on the CPU, one at a time."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    name = input_name(model)
    return np.concatenate([session.run(None, {name: image[None]})[0] for image in images])
