"""Where a recipe's student comes from, and its training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from compress.agent_search import search_pair
from compress.distillation import distill
from compress.distributed import first_alone
from compress.inputs import Inputs
from compress.networks import learns_statistics, make_generator
from compress.pruning.recipe import narrowed, ranking_of, widths_of
from compress.schema.mggc import Agents, MggcMethod
from compress.schema.pruning import LOOKING, Pruning
from compress.slimming import slim_student
from compress.stage import Progress
from devices.profile import DeviceProfile

Trained = tuple[nn.Module, Mapping[str, nn.Module]]
"""A distilled student, and all networks of the method that distilled it."""


def make_student(
    inputs: Inputs, profile: DeviceProfile, folder: Path, progress: Progress
) -> Trained:
    """Make the recipe's student and train it.

    It is a fresh network; or what sparse training leaves of one, or of the teacher; or the pair
    that two agents prune; or the teacher pruned, in one round or several.

    Args:
        inputs: What the run starts from.
        profile: The device it is for.
        folder: Where the run's states and logs go; resumes from what is there.
        progress: Told of every step.

    Raises:
        ValueError: Something in the recipe does not fit.
        DeviceError: A budget in milliseconds, and ONNX Runtime is not here.
        FloatingPointError: A loss is not finite.
        OSError: A file could not be written.
    """
    recipe = inputs.recipe
    if recipe.agents is not None:
        return _paired(inputs, recipe.agents, profile, folder, progress)
    if recipe.pruning is not None:
        return _pruned(inputs, recipe.pruning, profile, folder, progress)
    if recipe.slimming is not None:
        student = slim_student(inputs, recipe.slimming, profile, folder, progress)
    else:
        assert recipe.student is not None  # the recipe's own check
        student = make_generator(recipe.student).train(learns_statistics(recipe.student))
    return student, distill(inputs, student, folder, progress)


def _paired(
    inputs: Inputs, options: Agents, profile: DeviceProfile, folder: Path, progress: Progress
) -> Trained:
    recipe = inputs.recipe
    student, judge = search_pair(inputs, options, profile, folder, progress)
    student.train(recipe.teacher.batch_statistics == "batch")
    # a run that goes on here has drawn nothing for the agents
    torch.manual_seed(recipe.seed)
    if isinstance(recipe.method, MggcMethod):
        # other methods follow the teacher's discriminator as it is
        inputs = replace(inputs, teacher=replace(inputs.teacher, discriminator=judge))
    return student, distill(inputs, student, folder, progress)


def _pruned(
    inputs: Inputs, options: Pruning, profile: DeviceProfile, folder: Path, progress: Progress
) -> Trained:
    recipe, side, student = inputs.recipe, inputs.teacher, inputs.teacher.generator
    ranking = ranking_of(
        options,
        inputs.batches() if options.importance in LOOKING else None,
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
    networks: Mapping[str, nn.Module] = {}
    for number, widths in enumerate(rounds, start=1):
        if number > 1:
            # a run that goes on here has drawn nothing in the rounds before
            torch.manual_seed(recipe.seed)
        student = narrowed(options, student, widths, ranking)
        student.train(recipe.teacher.batch_statistics == "batch")
        last = number == len(rounds)
        place = folder if last else folder / f"round-{number}"
        networks = distill(inputs, student, place, progress, rounds=len(rounds))
    return student, networks
