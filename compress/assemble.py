"""From a recipe's ``[losses]`` or ``[method]`` and networks to a method the loop can run."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from torch import Tensor, nn

from compress.features import as_generator
from compress.loop import Batch, Method
from compress.methods.crd import crd
from compress.methods.cyclegan import CycleWeights, Four, cyclegan, cyclegan_teaching
from compress.methods.dcd import dcd
from compress.methods.l1 import l1
from compress.methods.likeness import Likeness, Look
from compress.methods.omgd import omgd, wider_and_deeper
from compress.methods.pix2pix import pix2pix, see
from compress.methods.teaching import Teaching, frozen, judged
from compress.models.discriminators import SharedPatchDiscriminator
from compress.models.families import Discriminator
from compress.networks import TeacherSide, make_discriminator, make_generator
from compress.perceptual import discriminator_features, load_perceptual
from compress.recipe import TrainRecipe
from compress.schema.methods import (
    CrdMethod,
    CycleGanLosses,
    DcdMethod,
    L1Method,
    OmgdMethod,
    Perceptual,
    StudentMethod,
    Taught,
)
from compress.schema.networks import DiscriminatorShape
from deploy.artifacts import Task

CONSIDER_EVERY = 250
"""Updates of an online CycleGAN between two looks at whether it has become better."""


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
    score: Callable[[nn.Module], float] | None,
) -> Method:
    """How a recipe's student follows its teacher.

    Args:
        options: The ``[method]`` table.
        side: The teacher's networks.
        student: Generator that follows.
        task: What the data are.
        crop: Height and width of a source, in pixels.
        score: How bad a teacher is, where an unpaired one goes on learning.

    Raises:
        ValueError: The method needs a network that the recipe does not give, or the data cannot
            teach what it asks.
    """
    teaching = make_teaching(options, side, task=task, crop=crop, score=score)
    weights = Likeness(**{f: getattr(options, f) for f in Likeness.__dataclass_fields__})
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


def make_teaching(
    options: StudentMethod,
    side: TeacherSide,
    *,
    task: Task,
    crop: int,
    score: Callable[[nn.Module], float] | None,
) -> Teaching:
    """The teacher's side of a student method; see `student_method`."""
    layers = as_generator(side.generator).taps
    if not isinstance(options, Taught):
        return frozen(side.generator)
    online, mode, every = options.online_teacher, options.mode, options.discriminator_every
    if online and task == "unpaired":
        if score is None:
            raise ValueError("an unpaired teacher that goes on learning is followed at its best")
        return cyclegan_teaching(
            _four(side),
            layers,
            image_shape=(3, crop, crop),
            score=score,
            consider_every=CONSIDER_EVERY,
            every=every,
            mode=mode,
        )
    if isinstance(options, OmgdMethod):
        if not online:
            return frozen(side.generator, layers, deeper=side.deeper)
        if side.deeper is not None:
            if not isinstance(side.discriminator, SharedPatchDiscriminator):
                raise ValueError(
                    "two online teachers share a discriminator with a head for each: "
                    'discriminator = {family = "shared_patchgan", ...}'
                )
            return wider_and_deeper(
                side.generator, side.deeper, side.discriminator, layers, every=every, mode=mode
            )
    if isinstance(options, CrdMethod) and not (options.adversarial or online):
        return frozen(side.generator)
    fresh = side.fresh_discriminator and not online
    return judged(
        side.generator,
        side.discriminator or _fresh_discriminator(task),
        layers,
        every=every,
        online=online,
        # without labels, or where nobody learned from them, the teacher's images are the truth
        adversary="teacher" if fresh or task == "teacher_only" else "truth",
        mode=mode,
    )


def make_look(name: Perceptual, discriminator: nn.Module | None) -> Look | None:
    """The perceptual features of a recipe: of a published network, or a discriminator's own.

    Raises:
        ValueError: The discriminator's are asked for, and there is none.
    """
    if name == "none":
        return None
    if name != "discriminator":
        network = load_perceptual(name)
        return lambda _batch, image: network.to(image.device).features(image)
    if not isinstance(discriminator, Discriminator):
        raise ValueError(
            'perceptual = "discriminator" looks with the discriminator, and this method has none; '
            "take vgg16 or alexnet"
        )
    judge = cast(nn.Module, discriminator)
    features = discriminator_features(judge)

    def look(batch: Batch, image: Tensor) -> tuple[Tensor, ...]:
        return features.features(see(judge, batch, image))

    return look


def _four(side: TeacherSide) -> Four:
    if side.discriminator is None or side.back is None or side.back_discriminator is None:
        raise ValueError(
            "an unpaired teacher that goes on learning needs the whole cycle: discriminator, back "
            "and back_discriminator in [teacher]; or online_teacher = false"
        )
    return Four(side.generator, side.back, side.discriminator, side.back_discriminator)


def _fresh_discriminator(task: Task) -> nn.Module:
    return make_discriminator(
        DiscriminatorShape(family="patchgan", width=64, norm="instance"), task
    )
