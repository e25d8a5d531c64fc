"""``[method]`` of a distillation without images."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from compress.schema.methods import ImageWeights


class DataFreeMethod(ImageWeights):
    """See `compress.methods.data_free.data_free`; the images of ``[data]`` are not learned from.

    Attributes:
        discrepancy: Weight of the gap that the synthesizer widens.
        statistics: Weight of the teacher's BatchNorm statistics (DDAD); 0: none (DFAD).
        smoothness: Weight of the mean difference of neighbouring pixels of invented images; ours.
        momentum: Share of the synthesizer's average that stays at each of its updates (MAD); 0:
            no average.
        synthesizer_every: Steps of the student for each of the synthesizer.
        noise: Channels that the synthesizer invents from.
        width: Its channels before the image.
        calibrate: What INT8 is calibrated on: ``invented`` images, or ``photos`` of ``[data]``,
            which are read for that alone.
    """

    name: Literal["data_free"]
    discrepancy: NonNegativeFloat = 1.0
    statistics: NonNegativeFloat = 0.0
    smoothness: NonNegativeFloat = 0.0
    momentum: float = Field(default=0.0, ge=0, lt=1)
    synthesizer_every: PositiveInt = 5
    noise: PositiveInt = 64
    width: PositiveInt = 32
    calibrate: Literal["invented", "photos"] = "invented"

    @model_validator(mode="after")
    def _both_learn(self) -> DataFreeMethod:
        if self.reconstruction:
            raise ValueError(
                f"reconstruction = {self.reconstruction:g} compares with a truth, and nobody knows "
                "that of an invented image: leave it out"
            )
        if not (self.imitation or self.ssim or self.style or self.feature):
            raise ValueError("the student follows nothing: give imitation a weight, such as 100")
        if not (self.discrepancy or self.statistics):
            raise ValueError(
                "nothing tells the synthesizer what to invent: give discrepancy a weight, such as 1"
            )
        return self
