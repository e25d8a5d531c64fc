"""From a recipe and a device profile to a student export.

The stages of `run`:

1. read      recipe, teacher, photos; refuse what does not fit before anything is computed
2. reuse     an export of the same recipe for another device that asks the same of the student
3. prune     a copy of the teacher, channels rounded to the profile's multiple; or a fresh network
4. distill   the recipe's method; resumes where it was killed. 3 and 4 alternate in several rounds
5. evaluate  PSNR and SSIM on whole held-back images, MACs, parameters
6. export    ONNX, calibration images, golden pairs, LPIPS if the floor asks for it; sealed
"""

from __future__ import annotations

import logging
import math
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
import torch
from torch import nn

from compress.assemble import student_method
from compress.data.dataset import Dataset
from compress.data.sampling import batches
from compress.device import batch_threads
from compress.distributed import first_alone, is_first
from compress.evaluate import held_back, quality, translate
from compress.export import (
    Contents,
    calibration_crops,
    golden_pairs,
    lpips_for,
    write_export,
)
from compress.features import as_generator
from compress.lineage import recipe_digest, text_digest, versions, write_run
from compress.loop import BatchAt, Method
from compress.macs import cost
from compress.methods.cyclegan import BestSoFar
from compress.models.families import specification
from compress.networks import (
    TeacherSide,
    learns_statistics,
    make_generator,
    teacher_digests,
    teacher_side,
)
from compress.pruning.recipe import narrowed, ranking_of, widths_of
from compress.recipe import CompressRecipe
from compress.samples import choose_samples
from compress.schema.methods import Taught
from compress.score import domain_score
from compress.stage import Progress, run_stage
from deploy.artifacts import EXPORT, ExportManifest, ModelSpec, StudentExport, Teacher
from deploy.sealing import write_whole
from devices.profile import DeviceProfile
from devices.sealed import BundleError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inputs:
    """What a run starts from, read and checked."""

    recipe: CompressRecipe
    teacher: TeacherSide
    train: Dataset
    test: Dataset
    lineage: dict[str, str]

    @classmethod
    def read(cls, recipe: CompressRecipe, profile: DeviceProfile) -> Inputs:
        """Read teacher and photos.

        Raises:
            ValueError: A file is missing or is not what the recipe needs it to be.
        """
        torch.manual_seed(recipe.seed)  # shapes in [teacher] are drawn here
        teacher = teacher_side(recipe.teacher, recipe.data.task)
        generator = as_generator(teacher.generator)
        for name, size in (("image_size", recipe.image_size), ("crop", recipe.training.crop)):
            if size % generator.multiple:
                raise ValueError(
                    f"{name} = {size} does not suit the teacher: a multiple of "
                    f"{generator.multiple} does"
                )
        train, test = recipe.data.read("train"), recipe.data.read("test")
        lineage = teacher_digests(recipe.teacher) | {
            "recipe": f"sha256:{recipe_digest(recipe)}",
            "data": f"sha256:{text_digest(train.digest(), test.digest())}",
            "channel_multiple": str(profile.channel_multiple),
        }
        if recipe.pruning is not None and recipe.pruning.latency_ms is not None:
            # the widths follow from a measurement under this profile
            lineage["profile"] = f"sha256:{text_digest(profile.model_dump_json())}"
        return cls(recipe, teacher, train, test, lineage)

    @property
    def run(self) -> str:
        """Digest of everything the student depends on."""
        return text_digest(*self.lineage.values(), *versions().values())


def run(
    recipe: CompressRecipe, profile: DeviceProfile, out: Path, progress: Progress
) -> tuple[StudentExport, bool]:
    """Make a student export; all stages are in the module's docstring.

    Args:
        recipe: What to do.
        profile: The device it is for.
        out: The export's directory; the run's checkpoints and log go to ``train`` beside it.
        progress: Told of every training step.

    Returns:
        The export, and whether it was made now (False: it was there, or another device's serves).

    Raises:
        ValueError: Something in the recipe does not fit; the message says what.
        PretrainedError: The floor asks for LPIPS, and its weights could not be fetched.
        FloatingPointError: A loss is not finite.
        OSError: A file could not be written; no half export is left.
    """
    inputs = Inputs.read(recipe, profile)
    with first_alone():
        found = _existing(out, inputs.run)
    if found is not None:
        return found, False
    size = recipe.image_size * as_generator(inputs.teacher.generator).scale
    with first_alone():  # before hours of training, not after
        lpips = lpips_for(recipe.floor, size=size)
    torch.manual_seed(recipe.seed)
    student = _student(inputs, profile, out.with_name("train"), progress)
    with first_alone():
        made = (
            _export(inputs, student, profile, out, lpips) if is_first() else StudentExport.read(out)
        )
    return made, True


def _existing(out: Path, run: str) -> StudentExport | None:
    """An export of the same run, here or beside another device's bundle (copied then)."""
    siblings = sorted(out.parent.parent.glob(f"*/{out.name}"))
    for folder in [out, *siblings]:
        try:
            export = StudentExport.read(folder)
        except BundleError:
            continue
        if export.manifest.lineage.get("run") != f"sha256:{run}":
            continue
        if folder != out:
            log.info("%s serves this device too: copied", folder)
            _copy(folder, out)
            return StudentExport.read(out)
        return export
    return None


def _copy(source: Path, out: Path) -> None:
    def fill(folder: Path) -> None:
        shutil.copytree(source, folder, dirs_exist_ok=True)

    write_whole(out, EXPORT, fill)


def _student(inputs: Inputs, profile: DeviceProfile, folder: Path, progress: Progress) -> nn.Module:
    """The distilled student: a fresh network, or the teacher pruned, in one round or several."""
    recipe, options = inputs.recipe, inputs.recipe.pruning
    if recipe.student is not None:
        student = make_generator(recipe.student).train(learns_statistics(recipe.student))
        _distill(inputs, student, folder, progress)
        return student
    assert options is not None
    side, student = inputs.teacher, inputs.teacher.generator
    ranking = ranking_of(
        options,
        _batches(inputs),
        side.discriminator,
        fresh_discriminator=side.fresh_discriminator,
        seed=recipe.seed,
    )
    with first_alone():  # what it measured, the others read
        rounds = widths_of(
            options,
            student,
            profile,
            image_size=recipe.image_size,
            kept=folder / "widths.json",
            run=inputs.run,
        )
    for number, widths in enumerate(rounds, start=1):
        if number > 1:
            # a run that goes on here has drawn nothing in the rounds before
            torch.manual_seed(recipe.seed)
        student = narrowed(options, student, widths, ranking)
        student.train(recipe.teacher.batch_statistics == "batch")
        last = number == len(rounds)
        place = folder if last else folder / f"round-{number}"
        _distill(inputs, student, place, progress, rounds=len(rounds))
    return student


def _distill(
    inputs: Inputs, student: nn.Module, folder: Path, progress: Progress, *, rounds: int = 1
) -> None:
    """One stage of training, in its own folder; several share the recipe's steps."""
    recipe, training, side = inputs.recipe, inputs.recipe.training, inputs.teacher
    log.info("student: %s", specification(student))
    if is_first():
        write_run(folder, recipe)
    method, schedule = _method(inputs, student), training.schedule()
    run_stage(
        f"{recipe.name}: {recipe.method.name}",
        method,
        _batches(inputs),
        replace(schedule, steps=schedule.steps // rounds),
        training.options(seed=recipe.seed),
        student=student,
        teachers=[t for t in (side.generator, side.deeper) if t is not None],
        out=folder,
        run=inputs.run,
        progress=progress,
        samples=choose_samples(inputs.test, student, teacher=side.generator),
    )
    followed = method.networks.get("followed")
    if isinstance(followed, BestSoFar):
        # the teacher that the student is compared with is the one that it followed
        side.generator.load_state_dict(followed.best.state_dict())


def _batches(inputs: Inputs) -> BatchAt:
    training = inputs.recipe.training
    return batches(
        inputs.train,
        size=training.crop,
        batch_size=training.batch_size,
        seed=inputs.recipe.seed,
        workers=batch_threads(),
    )


def _method(inputs: Inputs, student: nn.Module) -> Method:
    recipe, side = inputs.recipe, inputs.teacher
    online = isinstance(recipe.method, Taught) and recipe.method.online_teacher
    score = online and recipe.data.task == "unpaired"
    for generator in (side.generator, side.deeper, side.back):
        if generator is not None:
            generator.train(online and recipe.teacher.batch_statistics == "batch")
    return student_method(
        recipe.method,
        side,
        student,
        task=recipe.data.task,
        crop=recipe.training.crop,
        score=domain_score(inputs.train, recipe.method.perceptual) if score else None,
    )


def _export(
    inputs: Inputs,
    student: nn.Module,
    profile: DeviceProfile,
    out: Path,
    lpips: onnx.ModelProto | None,
) -> StudentExport:
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
        calibration=calibration_crops(
            inputs.train,
            count=recipe.calibration_images,
            size=recipe.image_size,
            seed=recipe.seed,
        ),
        golden=golden_pairs(inputs.test, student, teacher, size=recipe.image_size),
        lpips=lpips,
    )
    return write_export(out, contents, face)
