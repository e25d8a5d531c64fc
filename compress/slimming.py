"""The stages of a run that find widths as GCC does: sparse training, then one threshold."""

from __future__ import annotations

import copy
import logging
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from compress.distributed import is_first
from compress.inputs import Inputs
from compress.lineage import write_run
from compress.loop import Method
from compress.methods.cyclegan import Four, cyclegan
from compress.methods.pix2pix import pix2pix
from compress.models.families import specification
from compress.networks import fresh_discriminator, learns_statistics, make_generator
from compress.pruning.bisection import bisect, require_reach, slimmed
from compress.pruning.budget import Budget, macs_budget, params_budget
from compress.pruning.prune import renewed
from compress.pruning.sparsity import sparse, standing
from compress.pruning.structure import structure
from compress.schema.gcc import Slimming
from compress.stage import Progress, run_stage
from deploy.manifests import Task
from devices.profile import DeviceProfile

log = logging.getLogger(__name__)

FOLDER = "sparse"
"""Where sparse training leaves its state and its log, in the folder of the run."""


def slim_student(
    inputs: Inputs, options: Slimming, profile: DeviceProfile, folder: Path, progress: Progress
) -> nn.Module:
    """Make a student: its network is trained to be sparse, and what stands out is kept.

    Args:
        inputs: What the run starts from; the student's shape, or else a copy of the teacher, is
            what is slimmed.
        options: The ``[slimming]`` table.
        profile: The device it is for: widths are multiples of its ``channel_multiple``.
        folder: Of the run; sparse training resumes from what is there.
        progress: Told of every step.

    Returns:
        The student, in the mode that it is to be trained in.

    Raises:
        ValueError: The budget is out of reach, the data have no truth to train with, or nothing in
            the network stands for a channel.
        FloatingPointError: A loss is not finite.
    """
    recipe = inputs.recipe
    shape, teacher = recipe.student, inputs.teacher.generator
    network = copy.deepcopy(teacher) if shape is None else make_generator(shape)
    learns = recipe.teacher.batch_statistics == "batch"
    if shape is not None:
        learns = learns_statistics(shape)
    network.train(learns)
    _require_reach(options, network, teacher, profile, image_size=recipe.image_size)
    place = folder / FOLDER
    if is_first():
        write_run(place, recipe)
    run_stage(
        f"{recipe.name}: sparsity",
        sparse_method(options, network, task=recipe.data.task, crop=recipe.training.crop),
        inputs.batches(),
        replace(recipe.training.schedule(), steps=options.steps),
        # an average would hide what the penalty has done in the last steps
        replace(recipe.training.options(seed=recipe.seed), ema=0.0),
        student=network,
        out=place,
        run=inputs.run,
        progress=progress,
    )
    student = narrowed(options, network, teacher, profile, image_size=recipe.image_size)
    # a run that goes on here has drawn other numbers before
    torch.manual_seed(recipe.seed)
    if options.weights == "initialize":
        student = renewed(student)
    log.info("slimmed: %s", specification(student))
    return student.train(learns)


def narrowed(
    options: Slimming,
    network: nn.Module,
    teacher: nn.Module,
    profile: DeviceProfile,
    *,
    image_size: int,
) -> nn.Module:
    """The second stage: a copy of a network with the channels that stand out, within the budget.

    Args:
        options: The ``[slimming]`` table.
        network: After sparse training.
        teacher: What the budget is counted from.
        profile: The device it is for.
        image_size: Height and width that MACs are counted at, in pixels.

    Raises:
        ValueError: As `compress.pruning.bisection.bisect`.
    """
    whole = structure(network)
    strength = standing(network, whole, options.by)
    budget = _budget(options, teacher, image_size)
    widths = bisect(network, whole, strength, budget, channel_multiple=profile.channel_multiple)
    student = slimmed(network, whole, strength, widths)
    log.info("%s %.3f of %g", budget.key, budget.reached(student), budget.goal)
    return student


def sparse_method(options: Slimming, network: nn.Module, *, task: Task, crop: int) -> Method:
    """The first stage: the ordinary training of a GAN, with the penalty.

    Args:
        options: The ``[slimming]`` table.
        network: What is to become sparse.
        task: What the data are.
        crop: Height and width of a source, in pixels.

    Raises:
        ValueError: There is no truth to train with.
    """
    if task == "teacher_only":
        raise ValueError(
            "[slimming] trains against a truth, and photos have none: take [pruning], whose "
            "channels are ranked as the teacher has them"
        )
    width = options.discriminator_width
    judge = fresh_discriminator(task, width)
    if task == "unpaired":
        four = Four(network, renewed(network), judge, fresh_discriminator(task, width))
        method = cyclegan(four, image_shape=(3, crop, crop), mode=options.mode)
    else:
        method = pix2pix(
            network,
            judge,
            adversarial_weight=options.adversarial,
            reconstruction_weight=options.reconstruction,
            mode=options.mode,
        )
    return sparse(method, "generator", network, kind=options.by, weight=options.penalty)


def _require_reach(
    options: Slimming,
    network: nn.Module,
    teacher: nn.Module,
    profile: DeviceProfile,
    *,
    image_size: int,
) -> None:
    whole = structure(network)
    require_reach(
        network,
        whole,
        standing(network, whole, options.by),
        _budget(options, teacher, image_size),
        channel_multiple=profile.channel_multiple,
    )


def _budget(options: Slimming, teacher: nn.Module, image_size: int) -> Budget:
    if options.macs_reduction is not None:
        return macs_budget(teacher, options.macs_reduction, image_size=image_size)
    assert options.params_reduction is not None
    return params_budget(teacher, options.params_reduction)
