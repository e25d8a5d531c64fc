"""Calibration images from a synthesizer, and what they cost beside real ones.

Invented images are made to be difficult, not to be likely: ranges taken from them may be wider than
real images need, or too narrow for some. So what they cost is measured wherever real images are at
hand, and said.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.data.dataset import Dataset
from compress.data.held_out import set_aside
from compress.data.sampling import to_tensor
from compress.export import calibration_crops
from compress.fake_quant import between
from compress.methods.data_free import noise_of
from compress.methods.statistics import before
from compress.models.modes import evaluating
from compress.models.synthesizer import STRIDE, Synthesizer
from deploy.calibration import check_calibration
from deploy.imaging import Pixels, from_model
from deploy.verify import psnr

log = logging.getLogger(__name__)

JUDGES = 8
"""Crops of held-back images that the cost is measured on; as many as order deploy's INT8 graphs."""

CACHE_MIB = 256.0
"""Memory for decoded held-back images, MiB."""

Ranges = Mapping[str, tuple[float, float]]
"""Smallest and largest value that enters a layer, by its name; 0 lies between them."""

Hook = Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...] | None]


@dataclass(frozen=True)
class CalibrationCost:
    """What calibrating on invented images costs, measured on real ones.

    PSNR is to the float student's images, in [-1, 1] and dB, with what enters each convolution
    rounded to 8 bits and weights in float: the difference of two is that of the ranges alone.

    Attributes:
        images: Invented ones, and as many real ones.
        invented_db: PSNR with ranges of the invented images.
        real_db: PSNR with ranges of the real ones.
        beyond: Share of the activations of real images that lie outside the invented ranges; they
            are cut off.
    """

    images: int
    invented_db: float
    real_db: float
    beyond: float

    @property
    def warning(self) -> str:
        """The same in words, with what to do."""
        return (
            f"INT8 is calibrated on {self.images} invented images: with activations in 8 bits the "
            f"student keeps {self.invented_db:.1f} dB to itself in float on held-back images, and "
            f"{self.real_db:.1f} dB when calibrated on as many of those; {self.beyond:.2%} of what "
            "real images make it compute lies beyond the invented ranges. Where real images may be "
            'looked at, calibrate on them: calibrate = "photos" in [method], or, where they lie, '
            "pocketgan deploy student.onnx --calibrate FOLDER"
        )


def calibration_images(
    networks: Mapping[str, nn.Module],
    student: nn.Module,
    held_back: Dataset,
    *,
    count: int,
    size: int,
    seed: int,
) -> Pixels:
    """Images to calibrate with from a finished data-free method; warns of what they cost.

    Args:
        networks: The method's, from `compress.methods.data_free.data_free`.
        student: As distilled; measures the cost.
        held_back: Real images; for the cost, which is logged, and for nothing else.
        count: Images.
        size: Their height and width, in pixels.
        seed: Of the noise, and of the crops of real images.

    Returns:
        (count, size, size, 3).

    Raises:
        ValueError: What is invented is unfit to calibrate with; the message says why, and what to
            do.
    """
    pixels = invent(networks, count=count, size=size, seed=seed)
    try:
        check_calibration(pixels)
    except ValueError as error:
        raise ValueError(
            f"the synthesizer's images are unfit ({error}): train longer, or set calibrate = "
            '"photos" in [method]'
        ) from error
    # who is calibrated on images is not judged by them, where there is more than one
    halves = set_aside(held_back, 0.5, cache_mib=CACHE_MIB) if len(held_back.names) > 1 else None
    for_ranges, for_judges = halves or (held_back, held_back)
    real = calibration_crops(for_ranges, count=count, size=size, seed=seed)
    judges = calibration_crops(for_judges, count=JUDGES, size=size, seed=seed + 1)
    log.warning("%s", calibration_cost(student, pixels, real, judges).warning)
    return pixels


def invent(networks: Mapping[str, nn.Module], *, count: int, size: int, seed: int) -> Pixels:
    """Images of a synthesizer and of its average, in turns, from noise that no step trained on.

    Args:
        networks: Those of a data-free method.
        count: Images.
        size: Their height and width, in pixels. What is made is a multiple of 16; the rest is cut.
        seed: Of the noise.

    Returns:
        (count, size, size, 3).
    """
    synthesizer = networks["synthesizer"]
    assert isinstance(synthesizer, Synthesizer)
    makers = [synthesizer, *(networks[name] for name in ("memory",) if name in networks)]
    cells = -(-size // STRIDE)
    noise = noise_of(0, (count, synthesizer.noise, cells, cells), seed=seed)
    noise = noise.to(next(synthesizer.parameters()).device)
    made = []
    for index in range(count):
        maker = makers[index % len(makers)]
        with evaluating(maker), torch.inference_mode():
            image = maker(noise[index : index + 1])[..., :size, :size]
        made.append(from_model(image.float().cpu().numpy()))
    return np.concatenate(made)


def calibration_cost(
    student: nn.Module, invented: Pixels, real: Pixels, judges: Pixels
) -> CalibrationCost:
    """Compare ranges from invented images with ranges from real ones.

    Args:
        student: Float generator.
        invented: (N, H, W, 3).
        real: As many real images.
        judges: Other real images, that are translated with each of the ranges.
    """
    found, wanted = activation_ranges(student, invented), activation_ranges(student, real)
    counts = {"beyond": 0, "all": 0}
    reference = _translated(student, judges, lambda name: _counter(found[name], counts))
    return CalibrationCost(
        images=len(invented),
        invented_db=psnr(_rounded(student, judges, found), reference, data_range=2.0),
        real_db=psnr(_rounded(student, judges, wanted), reference, data_range=2.0),
        beyond=counts["beyond"] / counts["all"],
    )


def activation_ranges(network: nn.Module, images: Pixels) -> Ranges:
    """The extremes of what enters every convolution and linear layer, over images (N, H, W, 3)."""
    ranges: dict[str, tuple[float, float]] = {}

    def watch(name: str) -> Hook:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            low, high = ranges.get(name, (0.0, 0.0))
            ranges[name] = min(low, float(inputs[0].min())), max(high, float(inputs[0].max()))

        return hook

    _translated(network, images, watch)
    return ranges


def _rounded(student: nn.Module, images: Pixels, ranges: Ranges) -> NDArray[np.float32]:
    return _translated(student, images, lambda name: _rounder(ranges[name]))


def _rounder(bounds: tuple[float, float]) -> Hook:
    """Rounds what enters a layer to 8 bits between two bounds, as asymmetric quantizers do."""
    low, high = torch.tensor(bounds)

    def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = inputs[0]
        return between(x, low.to(x.device), high.to(x.device)), *inputs[1:]

    return hook


def _counter(bounds: tuple[float, float], counts: dict[str, int]) -> Hook:
    """Counts values, and those that are outside of two bounds."""
    low, high = bounds

    def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        values = inputs[0]
        counts["beyond"] += int(((values < low) | (values > high)).sum())
        counts["all"] += values.numel()

    return hook


def _translated(
    network: nn.Module, images: Pixels, hook: Callable[[str], Hook]
) -> NDArray[np.float32]:
    """Translations, one image at a time, with a hook in front of every layer that has weights."""
    layers = [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)
    ]
    device = next(network.parameters()).device
    with evaluating(network), torch.inference_mode(), before(network, layers, hook):
        made = [network(to_tensor(image).to(device)).float().cpu().numpy() for image in images]
    return np.concatenate(made)
