"""From a recipe's ``[losses]`` or ``[method]`` and networks to a method the loop can run."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from compress.looks import make_look
from compress.loop import Method
from compress.methods.crd import crd
from compress.methods.cyclegan import CycleWeights, Four, cyclegan
from compress.methods.data_free import data_free
from compress.methods.dcd import dcd
from compress.methods.gcc import gcc
from compress.methods.l1 import l1
from compress.methods.likeness import Likeness, Look
from compress.methods.omgd import omgd
from compress.methods.pix2pix import pix2pix
from compress.methods.rivals import rival_of, rivals
from compress.methods.teaching import Teaching
from compress.models.blocks import initialize
from compress.models.families import Discriminator
from compress.models.gates import GatedPatchDiscriminator
from compress.models.synthesizer import Synthesizer
from compress.networks import (
    TeacherSide,
    fresh_discriminator,
    make_discriminator,
    make_generator,
)
from compress.recipe import TrainRecipe
from compress.schema.data_free import DataFreeMethod
from compress.schema.dgl import DglMethod
from compress.schema.gcc import GccMethod
from compress.schema.methods import CycleGanLosses, DcdMethod, L1Method, OmgdMethod
from compress.schema.mggc import MggcMethod
from compress.schema.students import StudentMethod
from compress.teachings import make_teaching
from deploy.manifests import Task


def teacher_method(
    recipe: TrainRecipe, generator: nn.Module, discriminator: nn.Module
) -> tuple[Method, dict[str, nn.Module]]:
    """How a recipe trains its teacher, and the networks to save, by file name.

    Raises:
        ValueError: A perceptual network is named that there is none of.
    """
    losses = recipe.losses
    saved = {"generator": generator, "discriminator": discriminator}
    if isinstance(losses, CycleGanLosses):
        four = Four(
            generator,
            make_generator(recipe.generator),
            discriminator,
            make_discriminator(recipe.discriminator, recipe.data.task),
        )
        saved |= {"back": four.back, "back_discriminator": four.of_sources}
        method = cyclegan(
            four,
            image_shape=(3, recipe.training.crop, recipe.training.crop),
            weights=CycleWeights(losses.cycle, losses.identity),
            pool=losses.pool,
            mode=losses.mode,
        )
        return method, saved
    method = pix2pix(
        generator,
        discriminator,
        adversarial_weight=losses.adversarial,
        reconstruction_weight=losses.reconstruction,
        feature_weight=losses.feature,
        look=make_look(losses.perceptual, discriminator),
        mode=losses.mode,
    )
    return method, saved


def student_method(
    options: StudentMethod,
    side: TeacherSide,
    student: nn.Module,
    *,
    task: Task,
    crop: int,
    steps: int,
    score: Callable[[nn.Module], float] | None,
) -> Method:
    """How a recipe's student follows its teacher.

    Args:
        options: The ``[method]`` table.
        side: The teacher's networks.
        student: Generator that follows.
        task: What the data are.
        crop: Height and width of a source, in pixels.
        steps: That the training takes.
        score: How bad a teacher is, where an unpaired one goes on learning.

    Raises:
        ValueError: The method needs a network that the recipe does not give, or the data cannot
            teach what it asks.
    """
    weights = options.likeness
    if isinstance(options, DataFreeMethod):
        return _data_free(options, side, student, weights)
    if isinstance(options, DglMethod | MggcMethod):
        return _rivals(options, side, student, weights, task)
    teaching = make_teaching(options, side, task=task, crop=crop, score=score)
    look = make_look(options.perceptual, teaching.discriminator)
    teacher = side.generator
    if isinstance(options, L1Method):
        return l1(teaching, student, likeness=weights, look=look)
    if isinstance(options, OmgdMethod):
        return omgd(
            teaching, teacher, student, channel_weight=options.channel, likeness=weights, look=look
        )
    if isinstance(options, DcdMethod):
        return dcd(
            teaching,
            teacher,
            student,
            dcd_weight=options.dcd,
            adversarial_weight=options.adversarial,
            likeness=weights,
            look=look,
            mode=options.mode,
        )
    if isinstance(options, GccMethod):
        return _gcc(options, teaching, teacher, student, weights, look, steps=steps)
    return crd(
        teaching,
        student,
        relation_weight=options.relation,
        adversarial_weight=options.adversarial,
        likeness=weights,
        look=look,
        units=options.units,
        patch=options.patch,
        mode=options.mode,
    )


def _gcc(
    options: GccMethod,
    teaching: Teaching,
    teacher: nn.Module,
    student: nn.Module,
    weights: Likeness,
    look: Look | None,
    *,
    steps: int,
) -> Method:
    discriminator, gates = teaching.discriminator, options.gates
    if not isinstance(discriminator, Discriminator):
        raise ValueError("gcc needs a teacher's discriminator with one head")
    judge = GatedPatchDiscriminator(
        discriminator.channels, gates.width, norm=gates.norm, threshold=gates.threshold
    )
    return gcc(
        teaching,
        teacher,
        student,
        initialize(judge),
        steps=steps,
        content_weight=options.content,
        gram_weight=options.gram,
        adversarial_weight=options.adversarial,
        dcd_weight=options.dcd,
        likeness=weights,
        look=look,
        every=options.discriminator_every,
        gates_every=options.gates_every,
        gates_pace=options.gates_pace,
        mode=options.mode,
    )


def _rivals(
    options: DglMethod | MggcMethod,
    side: TeacherSide,
    student: nn.Module,
    weights: Likeness,
    task: Task,
) -> Method:
    """A game of its own: DGL without its critic, which is ``[guidance]``, or MGGC's fine-tuning."""
    if isinstance(options, DglMethod):
        assert side.critic is not None  # the recipe's own check
        judge, looks, every = rival_of(side.critic), side.critic, options.discriminator_every
    else:
        judge, every = side.discriminator or fresh_discriminator(task), 1
        looks = judge
    return rivals(
        student,
        judge,
        teacher=side.generator,
        adversarial_weight=options.adversarial,
        likeness=weights,
        look=make_look(options.perceptual, looks),
        real="teacher" if task == "teacher_only" else "truth",
        every=every,
        mode=options.mode,
    )


def _data_free(
    options: DataFreeMethod, side: TeacherSide, student: nn.Module, weights: Likeness
) -> Method:
    return data_free(
        side.generator,
        student,
        initialize(Synthesizer(options.noise, options.width)),
        discrepancy_weight=options.discrepancy,
        statistics_weight=options.statistics,
        smoothness_weight=options.smoothness,
        momentum=options.momentum,
        synthesizer_every=options.synthesizer_every,
        likeness=weights,
        look=make_look(options.perceptual, side.critic),
    )
