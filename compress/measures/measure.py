"""Measure images against references, from Python: one pass, each figure with its protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest

import numpy as np
import torch
from numpy.typing import NDArray

from compress.data.sampling import to_tensor
from compress.measures import pixels as of_pixels
from compress.measures.extractors import INCEPTION_2015, Extractor, inception
from compress.measures.lpips import Lpips, load_lpips
from compress.measures.report import OTHER_NAMES, Figure, Measure, Report
from compress.measures.statistics import Statistics, frechet_distance, kernel_distance
from deploy.imaging import Pixels

MEASURES: tuple[Measure, ...] = ("fid", "kid", "lpips", "psnr", "ssim")
"""What is measured if nothing is asked for; on another extractor the first two change names."""

OF_SETS: tuple[Measure, ...] = ("fid", "kid", "frechet", "kernel")
OF_LUMA: tuple[Measure, ...] = ("psnr_y", "ssim_y")

Distance = Callable[[Pixels, Pixels], float]


def measure(
    images: Iterable[Pixels],
    references: Iterable[Pixels],
    names: Sequence[Measure] | None = None,
    *,
    unpaired: str | None,
    extractor: Extractor | None = None,
    lpips: Lpips | None = None,
    border: int = 0,
    tick: Callable[[], None] = lambda: None,
) -> Report:
    """Measure images, (H, W, 3) each, against references.

    Both are gone through once and never held together, so they may be generators. Networks are
    loaded only for what is asked: FID on cached features takes no network.

    Args:
        images: What is judged.
        references: What it is compared with.
        names: Measures; each must be possible. None: all of `MEASURES` that are, the others are
            left out with the reason.
        unpaired: Why images and references are not pairs; None: they are, in order.
        extractor: For distances between sets; `inception()` if left out.
        lpips: `load_lpips()` if left out.
        border: Pixels cut from each side before luma is compared.
        tick: Called after each image and each reference.

    Raises:
        ValueError: A measure asked for by name cannot be taken, the counts of pairs differ, or
            there are no images.
        PretrainedError: A network's weights could not be fetched.
    """
    extractor = extractor or inception()
    on_inception = extractor.name == INCEPTION_2015
    if names is None:
        wanted = MEASURES if on_inception else tuple(OTHER_NAMES.get(m, m) for m in MEASURES)
    else:
        wanted = tuple(dict.fromkeys(names))
        _check_names(wanted, extractor.name)
    left_out: dict[str, str] = {}

    def leave_out(name: str, why: str) -> None:
        if names is not None:
            raise ValueError(f"{name} cannot be measured: {why}")
        left_out.setdefault(name, why)

    between_sets = [name for name in wanted if name in OF_SETS]
    distances: dict[Measure, Distance] = {}
    for name in wanted:
        if name not in OF_SETS and unpaired is not None:
            leave_out(name, f"for pairs only, and {unpaired}")
        elif name == "lpips":
            lpips = lpips or load_lpips()
            distances[name] = _lpips_distance(lpips)
        elif name not in OF_SETS:
            distances[name] = _pixel_distance(name, border)
    values: dict[Measure, list[float]] = {name: [] for name in distances}
    ours: list[NDArray[np.float32]] = []
    theirs: list[NDArray[np.float32]] = []
    counts = [0, 0]
    for image, reference in zip_longest(images, references):
        for side, (picture, features) in enumerate(((image, ours), (reference, theirs))):
            if picture is None:
                continue
            counts[side] += 1
            if between_sets:
                features.append(extractor.features(picture))
            tick()
        if unpaired is None and (image is None or reference is None):
            raise ValueError(
                "images and references are not pairs: there are more of the one than of the other"
            )
        for name in list(distances):
            try:
                values[name].append(distances[name](image, reference))
            except ValueError as error:
                leave_out(name, f"pair {counts[0]}: {error}")
                del distances[name], values[name]
    if not all(counts):
        raise ValueError(f"nothing to measure: {counts[0]} images, {counts[1]} references")

    figures = []
    for name in between_sets:
        if min(counts) < 2:
            leave_out(name, f"it takes 2 images a side, got {counts[0]} and {counts[1]}")
            continue
        a, b = np.stack(ours), np.stack(theirs)  # (N, D), (M, D)
        if name in ("fid", "frechet"):
            value = frechet_distance(Statistics.of(a), Statistics.of(b))
        else:
            value = kernel_distance(a, b)
        figures.append(_figure(name, value, counts, extractor.protocol, extractor.name))
    for name in distances:
        value = float(np.mean(values[name]))
        if name == "lpips":
            assert lpips is not None
            protocol = "8-bit RGB in [-1, 1], mean over pairs"
            figures.append(_figure(name, value, counts, protocol, lpips.name))
        else:
            figures.append(_figure(name, value, counts, _pixel_protocol(name, border), None))
    order = list(wanted)
    figures.sort(key=lambda figure: order.index(figure.measure))
    return Report(figures=tuple(figures), left_out=left_out)


def _check_names(names: Sequence[Measure], extractor: str) -> None:
    called = OTHER_NAMES
    if extractor == INCEPTION_2015:
        called = {other: own for own, other in OTHER_NAMES.items()}
    for name in names:
        if name in called:
            raise ValueError(
                f"{name} is not the name of a distance on features of {extractor}: "
                f"ask for {called[name]}"
            )


def _lpips_distance(lpips: Lpips) -> Distance:
    def distance(image: Pixels, reference: Pixels) -> float:
        with torch.inference_mode():
            return float(lpips(to_tensor(image), to_tensor(reference)))

    return distance


def _pixel_distance(name: Measure, border: int) -> Distance:
    if name == "psnr":
        return of_pixels.psnr
    if name == "ssim":
        return of_pixels.ssim
    on_luma = of_pixels.psnr_y if name == "psnr_y" else of_pixels.ssim_y
    return lambda image, reference: on_luma(image, reference, border=border)


def _pixel_protocol(name: Measure, border: int) -> str:
    if name in OF_LUMA:
        return f"luma of BT.601 in 16..235, border of {border} px cut, mean over pairs"
    return "8-bit RGB, mean over pairs"


def _figure(
    name: Measure, value: float, counts: Sequence[int], protocol: str, extractor: str | None
) -> Figure:
    return Figure(
        measure=name,
        value=value,
        unit="dB" if name in ("psnr", "psnr_y") else None,
        images=counts[0],
        references=counts[1],
        extractor=extractor,
        protocol=protocol,
    )
