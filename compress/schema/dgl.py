"""DGL's ``[method]``, and ``[guidance]``: its second critic, which any method can have."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from compress.schema.methods import ImageWeights, Mode
from devices.profile import Frozen


class DglMethod(ImageWeights):
    """See `compress.methods.rivals.rivals`; the critic is in ``[guidance]``.

    Attributes:
        adversarial: Weight of deceiving the student's own discriminator, which has the shape of the
            teacher's and begins with fresh weights.
        discriminator_every: Steps between updates of that discriminator.
        mode: Form of the adversarial losses.
    """

    name: Literal["dgl"]
    adversarial: NonNegativeFloat
    discriminator_every: PositiveInt = 1
    mode: Mode = "lsgan"


class Guidance(Frozen):
    """See `compress.methods.dgl.guided`; the critic is the discriminator's file in ``[teacher]``.

    Attributes:
        weight: Of the critic's adversarial loss, the paper's alpha; its 0.1.
        alone: Share of the steps that a first stage without the critic takes; 0: no such stage.
        mode: Form of the loss.
    """

    weight: PositiveFloat = 0.1
    alone: float = Field(default=0.5, ge=0, lt=1)
    mode: Mode = "lsgan"
