"""``[agents]`` and MGGC's ``[method]``: a pair pruned by two agents, and what it learns then."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from compress.schema.methods import ImageWeights, Mode
from devices.profile import Frozen


class Agents(Frozen):
    """How two agents look for the student, in place of `Pruning`; see `compress.methods.mggc`.

    Attributes:
        macs_reduction: Budget: true MACs of the teacher over those of the student, at least.
        latency_ms: Or: milliseconds per image at most, in float32 on ONNX Runtime on this machine.
        discriminator_reduction: True MACs of the discriminator over those of the pruned one, at
            least. It is not deployed: what it keeps is a matter of balance.
        steps: Neighbourhoods that the agents learn from, one after the other.
        learning_rate: Of their Adam; it falls over the last fifth of the steps.
        samples: Crops that the neighbourhoods are found among.
        neighbours: Of each, beside itself; a step's batch is one larger.
        embedding: What neighbours are near in: pooled ``pixels``, or features of a network.
        adversarial: Weight of the discriminator's view of a neighbourhood.
        kernel_density: Weight of the explicit density of the images in the embedding.
        imitation: Weight of the mean absolute difference to the teacher's images.
        resource: Weight of what a network costs beyond its budget.
        temperature: Of the gradient of the masks; the smaller, the fewer channels get one.
        feedback: Whether the agents hear each other.
        mode: Form of the adversarial losses.
    """

    macs_reduction: float | None = Field(default=None, gt=1)
    latency_ms: PositiveFloat | None = None
    discriminator_reduction: float = Field(default=2.0, gt=1)
    steps: PositiveInt
    learning_rate: PositiveFloat = 1e-3
    samples: PositiveInt = 256
    neighbours: PositiveInt = 5
    embedding: Literal["pixels", "vgg16", "alexnet", "discriminator"] = "pixels"
    adversarial: PositiveFloat = 1.0
    kernel_density: NonNegativeFloat = 0.0
    imitation: NonNegativeFloat = 0.0
    resource: PositiveFloat = 4.0
    temperature: PositiveFloat = 0.4
    feedback: bool = True
    mode: Mode = "lsgan"

    @model_validator(mode="after")
    def _one_budget(self) -> Agents:
        if (self.macs_reduction is None) == (self.latency_ms is None):
            raise ValueError(
                "the agents work to one budget: give macs_reduction or latency_ms, one of them"
            )
        return self

    @model_validator(mode="after")
    def _enough_samples(self) -> Agents:
        if self.neighbours >= self.samples:
            raise ValueError(
                f"neighbours = {self.neighbours} cannot be found among samples = {self.samples}: "
                "take more samples"
            )
        return self


class MggcMethod(ImageWeights):
    """See `compress.methods.rivals.rivals`; the pair comes from ``[agents]``.

    Attributes:
        adversarial: Weight of deceiving the pair's discriminator.
        mode: Form of the adversarial losses.
    """

    name: Literal["mggc"]
    adversarial: NonNegativeFloat
    mode: Mode = "lsgan"
