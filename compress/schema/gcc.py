"""``[slimming]`` and GCC's ``[method]``: widths by a threshold, and training with a gated judge."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from compress.schema.methods import Mode, Taught
from compress.schema.networks import Norm
from devices.profile import Frozen


class Slimming(Frozen):
    """How wide the student is: GCC's first two stages, sparse training and one threshold.

    What is slimmed is ``[student]``, from fresh weights as the paper has it, or without one a copy
    of the teacher. The budget is counted from the teacher in both cases.

    Attributes:
        macs_reduction: Budget: true MACs of the teacher over those of the student, at least.
        params_reduction: Or: parameters of the teacher over those of the student, at least.
        steps: Of sparse training; the paper's are a tenth of the whole.
        by: What stands for a channel: ``scales`` of norms, or ``weights`` of filters.
        penalty: Weight of their absolute sum; the paper's 0.01 for scales, 0.001 for weights.
        weights: ``initialize`` as the paper does: only the widths are kept; or ``inherit``.
        discriminator_width: Of the discriminator that sparse training plays against.
        adversarial: Weight of deceiving it.
        reconstruction: Weight of the mean absolute difference to the truth.
        mode: Form of the adversarial losses.
    """

    macs_reduction: float | None = Field(default=None, gt=1)
    params_reduction: float | None = Field(default=None, gt=1)
    steps: PositiveInt
    by: Literal["scales", "weights"]
    penalty: PositiveFloat
    weights: Literal["initialize", "inherit"]
    discriminator_width: PositiveInt = 64
    adversarial: NonNegativeFloat = 1.0
    reconstruction: NonNegativeFloat = 100.0
    mode: Mode = "hinge"

    @model_validator(mode="after")
    def _one_budget(self) -> Slimming:
        given = [n for n in ("macs_reduction", "params_reduction") if getattr(self, n) is not None]
        if len(given) != 1:
            raise ValueError(
                "a student has one budget: give macs_reduction or params_reduction, got "
                f"{' and '.join(given) or 'none'}"
            )
        return self


class GatedShape(Frozen):
    """The student's discriminator in GCC: a PatchGAN with a gate on every channel.

    Attributes:
        width: Channels after the first convolution, the papers' ndf.
        norm: Normalisation; best that of the teacher's discriminator.
        threshold: A gate is open from this number on; the paper's 0.5.
    """

    width: PositiveInt
    norm: Norm
    threshold: float = Field(default=0.5, gt=0, lt=1)


class GccMethod(Taught):
    """See `compress.methods.gcc.gcc`.

    Attributes:
        adversarial: Weight of deceiving the student's discriminator.
        content: Weight of the feature maps, the paper's lambda_content.
        gram: Weight of their Gram matrices, the paper's lambda_gram.
        dcd: Weight of DCD's comparison through the teacher's discriminator; not in the paper.
        gates: The student's discriminator.
        gates_every: Steps between updates of the gates.
        gates_pace: Learning rate of the gates over that of the weights.
        held_out: Share of the training images that gates learn from, and nothing else does.
    """

    name: Literal["gcc"]
    adversarial: NonNegativeFloat
    content: NonNegativeFloat
    gram: NonNegativeFloat
    dcd: NonNegativeFloat = 0.0
    gates: GatedShape
    gates_every: PositiveInt = 1
    gates_pace: PositiveFloat = 0.5
    held_out: float = Field(default=0.1, gt=0, lt=1)
