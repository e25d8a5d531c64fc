"""``[ghost]``: a last stage in which the student learns to bear INT8."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from compress.schema.methods import ImageWeights


class Ghost(ImageWeights):
    """See `compress.ghosted.ghosted`; the weights of ``imitation`` and so on are this stage's own.

    Attributes:
        mean_bits: Bits of a weight on average, at most; what they allow beyond 8 goes to the layers
            that bear INT8 worst.
        steps: Batches, after those of ``[training]``.
        learning_rate: Of Adam, at the start.
        attention: Weight of the comparison of where feature maps are active.
        open_share: Share of the layers that this comparison looks at, on average.
        perceptual: The network whose features ``style`` and ``feature`` compare.
    """

    mean_bits: float = Field(ge=8, lt=16)
    steps: PositiveInt
    learning_rate: PositiveFloat
    attention: NonNegativeFloat
    open_share: float = Field(default=0.5, gt=0, lt=1)
    perceptual: Literal["none", "vgg16", "alexnet"] = "none"

    @model_validator(mode="after")
    def _something_to_learn(self) -> Ghost:
        looking = bool(self.style or self.feature)
        if not (self.attention or self.imitation or self.reconstruction or self.ssim or looking):
            raise ValueError(
                "the student in INT8 follows nothing: give imitation a weight, or attention, "
                "reconstruction or ssim"
            )
        if looking == (self.perceptual == "none"):
            raise ValueError(
                "style and feature compare perceptual features: set perceptual to vgg16 or "
                "alexnet where one of them has a weight, and only there"
            )
        if not self.attention and "open_share" in self.model_fields_set:
            raise ValueError("open_share is of what attention looks at, which is 0: leave it out")
        return self
