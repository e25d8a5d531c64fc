"""From a recipe's ``[method]`` and its teacher's networks to what the student is shown."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from compress.features import as_generator
from compress.methods.cyclegan import Four, cyclegan_teaching
from compress.methods.omgd import wider_and_deeper
from compress.methods.teaching import Teaching, frozen, judged
from compress.models.discriminators import SharedPatchDiscriminator
from compress.networks import TeacherSide, fresh_discriminator
from compress.schema.gcc import GccMethod
from compress.schema.methods import CrdMethod, OmgdMethod, Taught
from compress.schema.students import StudentMethod
from deploy.manifests import Task

CONSIDER_EVERY = 250
"""Updates of an online CycleGAN between two looks at whether it has become better."""


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
        side.discriminator or fresh_discriminator(task),
        layers,
        every=every,
        online=online,
        # without labels, or where nobody learned from them, the teacher's images are the truth;
        # but gcc's student has a judge of its own, and the teacher's plays the teacher's game
        adversary="teacher"
        if task == "teacher_only" or (fresh and not isinstance(options, GccMethod))
        else "truth",
        mode=mode,
    )


def _four(side: TeacherSide) -> Four:
    if side.discriminator is None or side.back is None or side.back_discriminator is None:
        raise ValueError(
            "an unpaired teacher that goes on learning needs the whole cycle: discriminator, back "
            "and back_discriminator in [teacher]; or online_teacher = false"
        )
    return Four(side.generator, side.back, side.discriminator, side.back_discriminator)
