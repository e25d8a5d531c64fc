"""What can be evaluated: images that are there, or something that makes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from compress.checkpoints import load_network
from compress.features import as_generator
from compress.macs import cost
from compress.measures.report import SubjectCost, SubjectKind
from deploy import imaging
from deploy.artifacts import EXPORT, Bundle, StudentExport
from deploy.imaging import RGB, Pixels, PixelSpec
from deploy.manifests import ModelSpec
from devices.sealed import MANIFEST, digest
from devices.session import open_session

OUTPUT_SIZE = 256
"""MACs of a network are counted for an output of this many pixels a side, as papers do."""

TORCH = "torch float32"
"""What runs networks and exports."""


@dataclass(frozen=True)
class Translator:
    """Something that makes images from images.

    Attributes:
        kind: Where it came from.
        sha256: Of the network's file, or of the face of the export or bundle.
        runs_on: Runtime and precision.
        scale: Output height over input height.
        cost: Of one image.
        translate: (H, W, 3) of any size -> (scale * H, scale * W, 3).
    """

    kind: SubjectKind
    sha256: str
    runs_on: str
    scale: int
    cost: SubjectCost
    translate: Callable[[Pixels], Pixels]


def open_translator(path: Path) -> Translator | None:
    """Open a network file, an export or a bundle; None for a folder that is none of them.

    Raises:
        ValueError: The file or folder is damaged, or there is nothing.
        DeviceError: A bundle whose runtime is not here.
    """
    if path.is_file():
        return _network(path)
    if (path / MANIFEST).is_file():
        return _bundle(path)
    if (path / EXPORT).is_file():
        return _export(path)
    if path.is_dir():
        return None
    raise ValueError(
        f"there is no {path}: give a folder of images, a network's .safetensors file, an export "
        "or a bundle"
    )


def torch_translator(
    generator: nn.Module, *, multiple: int, scale: int
) -> Callable[[Pixels], Pixels]:
    """Translate with a network in evaluation mode, in float32 on the CPU.

    Not on a GPU, whose convolutions round otherwise: a figure is the same wherever it is measured.
    """
    generator.eval()

    def run(images: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(generator(torch.from_numpy(images)).numpy())

    return padded(run, multiple=multiple, scale=scale)


def padded(
    run: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    *,
    multiple: int,
    scale: int,
    seen_as: PixelSpec = RGB,
) -> Callable[[Pixels], Pixels]:
    """Translate images of any size: mirrored up to a multiple, and cut back, as the server does."""

    def translate(pixels: Pixels) -> Pixels:
        images = imaging.pad_to_multiple(imaging.to_model(pixels, seen_as), multiple)
        height, width = (side * scale for side in pixels.shape[:2])
        translated: Pixels = imaging.from_model(run(images)[:, :, :height, :width], seen_as)[0]
        return translated

    return translate


def _network(path: Path) -> Translator:
    generator = load_network(path).eval()
    try:
        known = as_generator(generator)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    multiple, scale = known.multiple, known.scale
    size = -(-OUTPUT_SIZE // (scale * multiple)) * multiple
    counted = cost(generator, size)
    return Translator(
        kind="network",
        sha256=digest(path),
        runs_on=TORCH,
        scale=scale,
        cost=SubjectCost(
            image_size=size,
            params=counted.params,
            macs=counted.macs,
            macs_published=counted.macs_published,
        ),
        translate=torch_translator(generator, multiple=multiple, scale=scale),
    )


def _export(path: Path) -> Translator:
    spec = StudentExport.read(path).manifest.model
    weights = path / "student.safetensors"
    if not weights.is_file():
        raise ValueError(f"{path} was not made by pocketgan compress; give a bundle made of it")
    student = load_network(weights)
    return Translator(
        kind="export",
        sha256=digest(path / EXPORT),
        runs_on=TORCH,
        scale=spec.scale,
        cost=_cost(spec),
        translate=torch_translator(student, multiple=spec.size_multiple, scale=spec.scale),
    )


def _bundle(path: Path) -> Translator:
    bundle = Bundle.read(path)
    face = bundle.manifest
    session = open_session(
        bundle.engine, face.profile, backend=face.backend, precision=face.precision
    )
    spec = face.model
    return Translator(
        kind="bundle",
        sha256=bundle.digest,
        runs_on=f"{face.backend} {face.precision}",
        scale=spec.scale,
        cost=_cost(spec),
        translate=padded(
            session.run, multiple=spec.size_multiple, scale=spec.scale, seen_as=spec.pixels
        ),
    )


def _cost(spec: ModelSpec) -> SubjectCost:
    return SubjectCost(
        image_size=spec.image_size,
        params=spec.params,
        macs=spec.macs,
        macs_published=spec.macs_published,
    )
