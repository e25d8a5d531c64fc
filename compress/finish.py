"""The last stages of a run: what the student is worth, and its export."""

from __future__ import annotations

import math
from pathlib import Path

import onnx
from torch import nn

from compress.evaluate import held_back, quality, translate
from compress.export import (
    Contents,
    golden_pairs,
    write_export,
)
from compress.features import as_generator
from compress.inputs import Inputs
from compress.lineage import versions
from compress.macs import cost
from compress.precision_plan import Precisions
from deploy.artifacts import StudentExport
from deploy.imaging import Pixels
from deploy.manifests import ExportManifest, ModelSpec, Teacher
from devices.profile import DeviceProfile


def finished(
    inputs: Inputs,
    student: nn.Module,
    profile: DeviceProfile,
    out: Path,
    calibration: Pixels,
    lpips: onnx.ModelProto | None,
    precisions: Precisions | None = None,
) -> StudentExport:
    """Measure a student beside its teacher on held-back images, and seal its export.

    Args:
        inputs: What it was made from.
        student: As distilled.
        profile: The device it is for.
        out: The export's directory.
        calibration: Images to quantize with, (N, H, W, 3).
        lpips: From `compress.export.lpips_for`.
        precisions: Of its layers, where the recipe has a `[ghost]`.

    Raises:
        OSError: A file could not be written; no half export is left.
    """
    recipe, teacher = inputs.recipe, inputs.teacher.generator
    generator = as_generator(student)
    multiple = math.lcm(generator.multiple, as_generator(teacher).multiple)
    images = held_back(inputs.test, multiple=multiple)
    by_student = translate(student, images.source)
    by_teacher = translate(teacher, images.source)
    ours, theirs = cost(student, recipe.image_size), cost(teacher, recipe.image_size)
    truth = images.target
    ours_to_truth = None if truth is None else quality(by_student, truth)
    theirs_to_truth = None if truth is None else quality(by_teacher, truth)

    def face(sha256: dict[str, str]) -> ExportManifest:
        return ExportManifest(
            model=ModelSpec(
                name=recipe.name,
                task=recipe.data.task,
                family=str(generator.spec["family"]),
                image_size=recipe.image_size,
                scale=generator.scale,
                size_multiple=generator.multiple,
                params=ours.params,
                macs=ours.macs,
                macs_published=ours.macs_published,
            ),
            teacher=Teacher(
                params=theirs.params,
                macs=theirs.macs,
                macs_published=theirs.macs_published,
                psnr_db=None if theirs_to_truth is None else theirs_to_truth.psnr_db,
                ssim=None if theirs_to_truth is None else theirs_to_truth.ssim,
            ),
            student=ours_to_truth,
            student_to_teacher=quality(by_student, by_teacher),
            channel_multiple=profile.channel_multiple,
            floor=recipe.floor,
            lineage=inputs.lineage
            | {
                "run": f"sha256:{inputs.run}",
                "student": f"sha256:{sha256['student.safetensors']}",
            },
            versions=versions(),
            sha256=sha256,
        )

    contents = Contents(
        student=student,
        teacher=teacher,
        calibration=calibration,
        golden=golden_pairs(inputs.test, student, teacher, size=recipe.image_size),
        lpips=lpips,
        precisions=precisions,
    )
    return write_export(out, contents, face)
