"""The student leaves torch: ONNX, calibration images and golden pairs in one sealed directory."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from compress import pretrained
from compress.checkpoints import save_network
from compress.data.dataset import Dataset
from compress.data.sampling import to_tensor
from compress.evaluate import translate
from compress.models.families import Generator
from compress.precision_plan import Precisions, write_plan
from deploy.artifacts import EXPORT, LPIPS, StudentExport
from deploy.golden import GoldenPairs
from deploy.imaging import Pixels
from deploy.lpips_graph import SMALLEST, build_lpips
from deploy.manifests import ExportManifest, QualityFloor
from deploy.sealing import seal

GOLDEN_IMAGES = 8
"""Held-back images that golden crops are taken from, at most."""

OPSET = 18
"""The oldest opset in which torch's exporter writes reflection padding."""


@dataclass(frozen=True)
class Contents:
    """What an export is made of.

    Attributes:
        student: The float student.
        teacher: Travels along, so that deploy can time it beside the engines.
        calibration: Inputs to quantize with, (N, H, W, 3).
        golden: Pairs that every engine must reproduce.
        lpips: LPIPS as a graph, where the recipe's floor asks for it: deploy has no torch.
        precisions: What the student's layers run in, where that was chosen.
    """

    student: nn.Module
    teacher: nn.Module
    calibration: Pixels
    golden: GoldenPairs
    lpips: onnx.ModelProto | None = None
    precisions: Precisions | None = None


def write_export(
    out: Path, contents: Contents, face: Callable[[dict[str, str]], ExportManifest]
) -> StudentExport:
    """Write an export, whole or not at all.

    Args:
        out: Its directory.
        contents: What goes in.
        face: Makes ``export.json`` from the digests of the files.

    Raises:
        OSError: A write failed; nothing is left behind.
    """

    def fill(folder: Path) -> Callable[[dict[str, str]], ExportManifest]:
        to_onnx(contents.student, folder / "student.onnx")
        if contents.precisions is not None:
            write_plan(contents.precisions, folder / "student.onnx")
        np.savez_compressed(folder / "calibration.npz", source=contents.calibration)
        contents.golden.write(folder / "golden.npz")
        save_network(folder / "student.safetensors", contents.student)
        save_network(folder / "teacher.safetensors", contents.teacher, half=True)
        if contents.lpips is not None:
            (folder / LPIPS).write_bytes(contents.lpips.SerializeToString(deterministic=True))
        return face

    seal(out, EXPORT, fill)
    return StudentExport.read(out)


def to_onnx(generator: nn.Module, path: Path) -> None:
    """Export (1, 3, H, W) -> (1, 3, H', W'), dynamic in height and width, norms folded.

    The same network gives the same bytes: what the exporter notes of the source code (stack traces
    with paths of this machine) is taken out again.
    """
    training = generator.training
    generator.eval()
    multiple = generator.multiple if isinstance(generator, Generator) else 1
    # two sizes, lest the exporter take height and width for one
    height = multiple * math.ceil(64 / multiple)
    width = max(multiple * math.ceil(96 / multiple), height + multiple)
    dynamic = torch.export.Dim.DYNAMIC
    with warnings.catch_warnings():
        # torch's own exporter warns about torch's own deprecations
        warnings.simplefilter("ignore")
        quiet = logging.getLogger("torch.onnx")
        level = quiet.level
        quiet.setLevel(logging.ERROR)
        try:
            torch.onnx.export(
                generator,
                (torch.zeros(1, 3, height, width),),
                path,
                dynamo=True,
                input_names=["image"],
                output_names=["translation"],
                dynamic_shapes=({2: dynamic, 3: dynamic},),
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
        finally:
            quiet.setLevel(level)
            generator.train(training)
    model = onnx.load(path)
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    for function_or_node in (*model.graph.node, *model.graph.value_info, *model.graph.initializer):
        del function_or_node.metadata_props[:]
    onnx.checker.check_model(model)
    onnx.save(model, path)


def calibration_crops(data: Dataset, *, count: int, size: int, seed: int) -> Pixels:
    """Sources of random training crops: (count, size, size, 3)."""
    rng = np.random.default_rng(seed)
    return np.stack([data.crop(rng, size)[0] for _ in range(count)])


def golden_pairs(
    data: Dataset, student: nn.Module, teacher: nn.Module, *, size: int, per_image: int = 3
) -> GoldenPairs:
    """Crops along the diagonal of held-back images, and what the networks make of them.

    Of a large set, `GOLDEN_IMAGES` are taken, evenly spaced: every engine runs them all. The
    target is None where there is no truth; for super-resolution it is cut as much larger.

    Raises:
        ValueError: An image is smaller than ``size``.
    """
    sources, targets = [], []
    for index in np.unique(np.linspace(0, len(data) - 1, GOLDEN_IMAGES).round().astype(int)):
        name = data.names[index]
        source, target = data.whole(index, multiple=1)
        height, width = source.shape[:2]
        if min(height, width) < size:
            raise ValueError(
                f"held-back image {name} is {width} x {height}; it must be at least {size} x {size}"
            )
        corners = [
            (int(share * (height - size)), int(share * (width - size)))
            for share in np.linspace(0.1, 0.9, per_image)
        ]
        for top, left in dict.fromkeys(corners):  # an image of that very size has one crop
            sources.append(source[top : top + size, left : left + size])
            if target is not None:
                scale = target.shape[0] // height
                corner = target[top * scale :, left * scale :]
                targets.append(corner[: size * scale, : size * scale])
    source = np.stack(sources)
    student.eval()
    with torch.inference_mode():
        images = [student(to_tensor(pixels)).numpy() for pixels in source]
    return GoldenPairs(
        source=source,
        student=np.concatenate(images),
        target=np.stack(targets) if targets else None,
        teacher=np.stack(translate(teacher, tuple(source))),
    )


def lpips_for(floor: QualityFloor, *, size: int) -> onnx.ModelProto | None:
    """LPIPS for an export, if and only if its floor asks for it; weights are fetched on first use.

    Whether they happen to be in this machine's cache plays no part: the same recipe makes the same
    export everywhere.

    Args:
        floor: The recipe's.
        size: Height and width of what the student makes, in pixels.

    Raises:
        ValueError: Images that are too small for LPIPS.
        PretrainedError: The weights could not be fetched; the message says how to go on.
    """
    if floor.lpips is None:
        return None
    wanted = f"floor.lpips = {floor.lpips:g} asks for LPIPS"
    if size < SMALLEST:
        raise ValueError(
            f"{wanted}, which takes images of at least {SMALLEST} x {SMALLEST} pixels, not "
            f"{size} x {size}: take a larger image_size, or leave floor.lpips out of the recipe"
        )
    try:
        named = pretrained.tensors(pretrained.ALEXNET)
    except pretrained.PretrainedError as error:
        raise pretrained.PretrainedError(
            f"{wanted}: {error}; or leave floor.lpips out of the recipe"
        ) from error
    return build_lpips({name: tensor.numpy() for name, tensor in named.items()})
