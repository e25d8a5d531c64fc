"""From a recipe and a device profile to a student export.

The stages of `run`:

1. read      recipe, teacher, photos; refuse what does not fit before anything is computed
2. reuse     an export of the same recipe for another device that asks the same of the student
3. student   a copy of the teacher with fewer channels, rounded to the profile's multiple, or a
             fresh network; and its training, which resumes where it was killed: `compress.students`
4. ghost     where the recipe says so: precisions, and training in fake INT8 beside its float self
5. evaluate  PSNR and SSIM on whole held-back images, MACs, parameters
6. export    ONNX, calibration images, golden pairs, LPIPS if the floor asks for it, the precision
             plan if there is one; sealed
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from compress.distributed import first_alone, is_first
from compress.export import calibration_crops, lpips_for
from compress.features import as_generator
from compress.finish import finished
from compress.ghosted import ghosted
from compress.inputs import Inputs
from compress.invented import calibration_images
from compress.looks import make_look
from compress.recipe import CompressRecipe
from compress.stage import Progress
from compress.students import make_student
from deploy.artifacts import EXPORT, StudentExport
from deploy.imaging import Pixels
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
        if recipe.ghost is not None:
            make_look(recipe.ghost.perceptual, None)
    torch.manual_seed(recipe.seed)
    train = out.with_name("train")
    student, networks = make_student(inputs, profile, train, progress)
    precisions = None
    if recipe.ghost is not None:
        precisions = ghosted(
            inputs, recipe.ghost, student, inputs.batches(), train / "ghost", progress
        )
    with first_alone():
        if is_first():
            calibration = _calibration(inputs, student, networks)
            made = finished(inputs, student, profile, out, calibration, lpips, precisions)
        else:
            made = StudentExport.read(out)
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


def _calibration(inputs: Inputs, student: nn.Module, networks: Mapping[str, nn.Module]) -> Pixels:
    """What INT8 is calibrated on: crops of training photos, or invented images."""
    recipe = inputs.recipe
    count, size, seed = recipe.calibration_images, recipe.image_size, recipe.seed
    if inputs.photos is None:
        return calibration_images(networks, student, inputs.test, count=count, size=size, seed=seed)
    return calibration_crops(inputs.photos, count=count, size=size, seed=seed)
