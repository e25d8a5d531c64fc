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
import shutil
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from compress.assemble import student_method
from compress.data.sampling import batches
from compress.device import batch_threads
from compress.distributed import first_alone, is_first
from compress.export import (
    lpips_for,
)
from compress.features import as_generator
from compress.finish import finished
from compress.inputs import Inputs
from compress.lineage import write_run
from compress.loop import BatchAt, Method
from compress.methods.cyclegan import BestSoFar
from compress.models.families import specification
from compress.networks import (
    learns_statistics,
    make_generator,
)
from compress.pruning.recipe import narrowed, ranking_of, widths_of
from compress.recipe import CompressRecipe
from compress.samples import choose_samples
from compress.schema.methods import Taught
from compress.score import domain_score
from compress.stage import Progress, run_stage
from deploy.artifacts import EXPORT, StudentExport
from deploy.sealing import write_whole
from devices.profile import DeviceProfile
from devices.sealed import BundleError

log = logging.getLogger(__name__)


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
            finished(inputs, student, profile, out, lpips)
            if is_first()
            else StudentExport.read(out)
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
