"""From a recipe and a device profile to a student export.

The stages of `run`:

1. read      recipe, teacher, photos; refuse what does not fit before anything is computed
2. reuse     an export of the same recipe for another device that asks the same of the student
3. prune     a copy of the teacher, channels rounded to the profile's multiple
4. distill   the recipe's method; resumes where it was killed
5. evaluate  PSNR and SSIM on whole held-back images, MACs, parameters
6. export    ONNX, calibration images, golden pairs, sealed
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from compress.checkpoints import load_network
from compress.data import Pairs, batches
from compress.evaluate import held_back, quality, translate
from compress.export import Contents, calibration_crops, golden_pairs, write_export
from compress.lineage import data_digest, recipe_digest, text_digest, versions, write_run
from compress.loop import Method, Schedule
from compress.macs import cost
from compress.methods.dcd import dcd
from compress.methods.l1 import l1
from compress.models.discriminators import PatchDiscriminator
from compress.models.generators import RESNET_TAPS, ResnetGenerator
from compress.prune import prune_to_macs
from compress.recipe import CompressRecipe, DcdMethod
from compress.stage import Progress, run_stage
from deploy.artifacts import EXPORT, ExportManifest, ModelSpec, StudentExport, Teacher
from deploy.sealing import write_whole
from devices.profile import DeviceProfile
from devices.sealed import BundleError, digest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inputs:
    """What a run starts from, read and checked."""

    recipe: CompressRecipe
    teacher: ResnetGenerator
    discriminator: PatchDiscriminator
    train: Pairs
    test: Pairs
    lineage: dict[str, str]

    @classmethod
    def read(cls, recipe: CompressRecipe, profile: DeviceProfile) -> Inputs:
        """Read teacher and photos.

        Raises:
            ValueError: A file is missing or is not what the recipe needs it to be.
        """
        files = recipe.teacher
        teacher, discriminator = load_network(files.generator), load_network(files.discriminator)
        if not isinstance(teacher, ResnetGenerator):
            raise ValueError(f"{files.generator} holds a {type(teacher).__name__}, no generator")
        if not isinstance(discriminator, PatchDiscriminator) or discriminator.channels != 6:
            raise ValueError(
                f"{files.discriminator} holds no discriminator of pairs (PatchGAN, 6 channels)"
            )
        train, test = recipe.data.read("train"), recipe.data.read("test")
        lineage = {
            "teacher": f"sha256:{digest(files.generator)}",
            "discriminator": f"sha256:{digest(files.discriminator)}",
            "recipe": f"sha256:{recipe_digest(recipe)}",
            "data": f"sha256:{text_digest(data_digest(train), data_digest(test))}",
            "channel_multiple": str(profile.channel_multiple),
        }
        return cls(recipe, teacher, discriminator, train, test, lineage)

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
        FloatingPointError: A loss is not finite.
        OSError: A file could not be written; no half export is left.
    """
    inputs = Inputs.read(recipe, profile)
    found = _existing(out, inputs.run)
    if found is not None:
        return found, False
    torch.manual_seed(recipe.seed)
    student = prune_to_macs(
        inputs.teacher,
        macs_reduction=recipe.pruning.macs_reduction,
        channel_multiple=profile.channel_multiple,
        importance=recipe.pruning.importance,
        outer_share=recipe.pruning.outer_share,
    )
    log.info("student widths: %s", student.widths)
    _distill(inputs, student, out.with_name("train"), progress)
    return _export(inputs, student, profile, out), True


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


def _distill(inputs: Inputs, student: nn.Module, out: Path, progress: Progress) -> None:
    recipe, training = inputs.recipe, inputs.recipe.training
    write_run(out, recipe)
    run_stage(
        f"{recipe.name}: {recipe.method.name}",
        _method(inputs, student),
        batches(inputs.train, size=training.crop, batch_size=training.batch_size, seed=recipe.seed),
        Schedule(training.steps, training.learning_rate, training.decay_from),
        out=out,
        run=inputs.run,
        checkpoint_every=training.checkpoint_every,
        progress=progress,
        betas=training.betas,
        autocast=training.autocast,
    )


def _method(inputs: Inputs, student: nn.Module) -> Method:
    options = inputs.recipe.method
    learning = inputs.recipe.teacher.batch_statistics == "batch"
    student.train(learning)
    inputs.teacher.train(learning and isinstance(options, DcdMethod) and options.online_teacher)
    if isinstance(options, DcdMethod):
        return dcd(
            inputs.teacher,
            student,
            inputs.discriminator,
            layers=RESNET_TAPS,
            dcd_weight=options.dcd,
            adversarial_weight=options.adversarial,
            imitation_weight=options.imitation,
            reconstruction_weight=options.reconstruction,
            discriminator_every=options.discriminator_every,
            online_teacher=options.online_teacher,
            mode=options.mode,
        )
    return l1(
        inputs.teacher,
        student,
        imitation_weight=options.imitation,
        reconstruction_weight=options.reconstruction,
    )


def _export(
    inputs: Inputs, student: ResnetGenerator, profile: DeviceProfile, out: Path
) -> StudentExport:
    recipe, teacher = inputs.recipe, inputs.teacher
    images = held_back(inputs.test, multiple=4)
    by_student = translate(student, images.source)
    by_teacher = translate(teacher, images.source)
    ours, theirs = cost(student, recipe.image_size), cost(teacher, recipe.image_size)
    teacher_quality = quality(by_teacher, images.target)

    def face(sha256: dict[str, str]) -> ExportManifest:
        return ExportManifest(
            model=ModelSpec(
                name=recipe.name,
                task="paired",
                family="resnet",
                image_size=recipe.image_size,
                params=ours.params,
                macs=ours.macs,
                macs_published=ours.macs_published,
            ),
            teacher=Teacher(
                params=theirs.params,
                macs=theirs.macs,
                macs_published=theirs.macs_published,
                psnr_db=teacher_quality.psnr_db,
                ssim=teacher_quality.ssim,
            ),
            student=quality(by_student, images.target),
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
    )
    return write_export(out, contents, face)
