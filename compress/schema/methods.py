"""``[losses]`` and ``[method]``: the weight of every loss, by name."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from compress.methods.likeness import Likeness
from devices.profile import Frozen

Mode = Literal["hinge", "lsgan", "vanilla"]
Perceptual = Literal["none", "vgg16", "alexnet", "discriminator"]


class Pix2PixLosses(Frozen):
    """See `compress.methods.pix2pix.pix2pix`: the weight of each loss.

    Attributes:
        perceptual: The network whose features ``feature`` compares.
    """

    name: Literal["pix2pix"]
    adversarial: NonNegativeFloat
    reconstruction: NonNegativeFloat
    feature: NonNegativeFloat = 0.0
    perceptual: Perceptual = "none"
    mode: Mode


class CycleGanLosses(Frozen):
    """See `compress.methods.cyclegan.cyclegan`: the weight of each loss.

    Attributes:
        cycle: Of the difference after forth and back.
        identity: Of the difference for an image that is in the target domain already, as a share
            of ``cycle``.
        pool: Older images that the discriminators are shown.
    """

    name: Literal["cyclegan"]
    cycle: NonNegativeFloat = 10.0
    identity: NonNegativeFloat = 0.5
    pool: NonNegativeInt = 50
    mode: Mode = "lsgan"


Losses = Annotated[Pix2PixLosses | CycleGanLosses, Field(discriminator="name")]


class ImageWeights(Frozen):
    """What every method may compare images by; see `compress.methods.likeness.Likeness`.

    Attributes:
        perceptual: The network whose features ``style`` and ``feature`` compare.
    """

    imitation: NonNegativeFloat = 0.0
    reconstruction: NonNegativeFloat = 0.0
    ssim: NonNegativeFloat = 0.0
    style: NonNegativeFloat = 0.0
    feature: NonNegativeFloat = 0.0
    total_variation: NonNegativeFloat = 0.0
    perceptual: Perceptual = "none"

    @property
    def likeness(self) -> Likeness:
        """The same for `compress.methods`."""
        return Likeness(**{name: getattr(self, name) for name in Likeness.__dataclass_fields__})


class L1Method(ImageWeights):
    """See `compress.methods.l1.l1`."""

    name: Literal["l1"]


class Taught(ImageWeights):
    """A method whose teacher, or its discriminator, may go on learning.

    Attributes:
        discriminator_every: Steps between updates of the discriminator and of an online teacher.
        online_teacher: Whether the teacher goes on learning, too.
        mode: Form of the adversarial losses.
    """

    discriminator_every: PositiveInt = 1
    online_teacher: bool = False
    mode: Mode = "lsgan"


class OmgdMethod(Taught):
    """See `compress.methods.omgd.omgd`; ``channel`` is the paper's lambda_CD."""

    name: Literal["omgd"]
    channel: NonNegativeFloat


class DcdMethod(Taught):
    """See `compress.methods.dcd.dcd`; ``dcd`` is the paper's lambda_CD."""

    name: Literal["dcd"]
    dcd: NonNegativeFloat
    adversarial: NonNegativeFloat


class CrdMethod(Taught):
    """See `compress.methods.crd.crd`.

    Attributes:
        relation: Weight of the relations of rows, of columns and of patches, each.
        adversarial: Weight of deceiving the discriminator.
        units: Most rows, or columns, that are related with each other.
        patch: Height and width of a patch, in pixels.
    """

    name: Literal["crd"]
    relation: NonNegativeFloat
    adversarial: NonNegativeFloat
    units: PositiveInt = 64
    patch: PositiveInt = 32
