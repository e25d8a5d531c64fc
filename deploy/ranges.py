"""Ranges of the tensors inside a float student, taken from calibration images."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from deploy.graph import input_name
from deploy.imaging import RGB, Pixels, PixelSpec, to_model
from deploy.rewiring import copied
from devices.session import Images

Range = tuple[float, float]
"""Lowest and highest real value that an integer stands for; 0 is always between them."""

IMAGES = 32
"""Images looked at, evenly over the set: the network runs once for each with all tensors kept."""
VALUES = 65536
"""Values of a tensor that are looked at in each image where extremes are cut off."""

_Tails = tuple[Images, Images, int]
"""Smallest values, largest values, and which of them in order is the end of the range."""


def tensor_ranges(
    model: onnx.ModelProto,
    names: Collection[str],
    calibration: Pixels,
    *,
    percentile: float,
    spec: PixelSpec = RGB,
) -> dict[str, Range]:
    """Ranges of tensors over calibration images.

    Args:
        model: Float ONNX.
        names: Float tensors of it; names it does not have are left out.
        calibration: Inputs as the student will see them, (N, H, W, 3).
        percentile: 100 for the extremes of all values, or less: of `VALUES` values from each image,
            (100 - percentile) % are cut off at either end.
        spec: How the student sees pixels.
    """
    made = {name for node in model.graph.node for name in node.output}
    image_name = input_name(model)
    wanted = [name for name in dict.fromkeys(names) if name in made]
    tapped = copied(model)
    present = {output.name for output in tapped.graph.output}
    tapped.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        for name in wanted
        if name not in present
    )
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors; that shapes are left open is on purpose
    session = ort.InferenceSession(
        tapped.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    step = max(1, len(calibration) // IMAGES)
    images = [to_model(image, spec) for image in calibration[::step][:IMAGES]]
    tails: dict[str, list[_Tails]] = {name: [] for name in wanted}
    for image in images:
        values = session.run(wanted, {image_name: image}) if wanted else []
        for name, value in zip(wanted, values, strict=True):
            tails[name].append(_tails(value, percentile, len(images)))
    if image_name in names:
        tails[image_name] = [_tails(image, percentile, len(images)) for image in images]
    return {name: _range(found) for name, found in tails.items()}


def quantization(of: Range) -> tuple[np.float32, np.uint8]:
    """Scale and zero point of uint8 for a range: real = (stored - zero point) * scale."""
    low, high = of
    scale = np.float32(max(high - low, 1e-6) / 255)
    return scale, np.uint8(np.clip(round(-low / float(scale)), 0, 255))


def _tails(values: Images, percentile: float, images: int) -> _Tails:
    """The smallest and the largest values of one image, as many as may count in all of them."""
    if percentile >= 100:
        return np.array([values.min()]), np.array([values.max()]), 1
    # an odd step visits all columns of an image whose width is a power of two
    sample = values.reshape(-1)[:: max(1, values.size // VALUES) | 1]
    rank = 1 + int(images * sample.size * (100 - percentile) / 100)
    kept = min(rank, sample.size)
    split = np.partition(sample, (kept - 1, sample.size - kept))
    return split[:kept].copy(), split[-kept:].copy(), rank


def _range(tails: list[_Tails]) -> Range:
    lowest = np.concatenate([low for low, _, _ in tails])
    highest = np.concatenate([high for _, high, _ in tails])
    rank = tails[0][2]
    low = np.partition(lowest, rank - 1)[rank - 1]
    high = np.partition(highest, len(highest) - rank)[len(highest) - rank]
    return min(float(low), 0.0), max(float(high), 0.0)
