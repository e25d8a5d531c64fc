"""``[generator]``, ``[discriminator]``, ``[student]``, ``[teacher]``: shapes and weight files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from devices.profile import Frozen

Norm = Literal["batch", "instance", "affine_instance"]
Statistics = Literal["batch", "fixed"]


class ResnetShape(Frozen):
    """A ResNet generator; ``mobile`` has separable convolutions in its blocks.

    Attributes:
        family: Which one.
        width: Channels after the first convolution, the papers' ngf.
        blocks: Residual blocks.
        norm: Normalisation.
        batch_statistics: ``batch``: BatchNorm learns statistics; ``fixed``: it only scales and
            shifts, so that a few crops' mean does not move every colour.
        initialization: ``normal``: as the papers; ``identity``: starts by returning its input.
    """

    family: Literal["resnet", "mobile"]
    width: PositiveInt
    blocks: PositiveInt
    norm: Norm
    batch_statistics: Statistics = "batch"
    initialization: Literal["normal", "identity"] = "normal"


class UnetShape(Frozen):
    """A U-Net generator.

    Attributes:
        width: Channels after the first convolution, the papers' ngf.
        levels: Halvings; 8 for 256 pixels, 7 for 128.
        norm: Normalisation.
        batch_statistics: As of a ResNet.
    """

    family: Literal["unet"]
    width: PositiveInt
    levels: PositiveInt
    norm: Norm
    batch_statistics: Statistics = "batch"


class DeepestShape(Frozen):
    """OMGD's deeper teacher: as narrow as the student, with expansion blocks in between."""

    family: Literal["deepest_mobile"]
    width: PositiveInt
    norm: Norm
    batch_statistics: Statistics = "batch"


class UpscalerShape(Frozen):
    """A super-resolution generator: ESRGAN's, Real-ESRGAN's compact one, or SRGAN's.

    Attributes:
        width: Channels of its trunk.
        blocks: RRDBs, convolutions or residual blocks.
        scale: Output size over input size.
    """

    family: Literal["rrdb", "srvgg", "srgan"]
    width: PositiveInt
    blocks: PositiveInt
    scale: Literal[2, 4]


GeneratorShape = Annotated[
    ResnetShape | UnetShape | DeepestShape | UpscalerShape, Field(discriminator="family")
]


class DiscriminatorShape(Frozen):
    """A discriminator.

    Attributes:
        family: ``patchgan`` scores patches, ``pixelgan`` pixels, ``shared_patchgan`` patches with a
            head for each of OMGD's two teachers.
        width: Channels after the first convolution, the papers' ndf.
        norm: Normalisation.
        judges: Pairs of source and image, or images alone; left out: pairs where the data are
            paired and of one size.
    """

    family: Literal["patchgan", "pixelgan", "shared_patchgan"]
    width: PositiveInt
    norm: Norm
    judges: Literal["pairs", "images"] | None = None


class TeacherNetworks(Frozen):
    """Who teaches: safetensors files whose header describes the network, or shapes to begin with.

    Attributes:
        generator: What the student follows, and is pruned from.
        discriminator: Cooperates with the student. Left out, one is trained from scratch to tell
            the teacher's images from the student's.
        deeper: OMGD's second teacher.
        back: Unpaired and online: the generator of the other direction.
        back_discriminator: Its discriminator.
        batch_statistics: How BatchNorm was trained, and is trained on; see `ResnetShape`.
    """

    generator: Path | GeneratorShape
    discriminator: Path | DiscriminatorShape | None = None
    deeper: Path | GeneratorShape | None = None
    back: Path | GeneratorShape | None = None
    back_discriminator: Path | DiscriminatorShape | None = None
    batch_statistics: Statistics = "batch"
