"""Recipes: what to train, prune and distill, as a strict TOML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from compress.data import Damage, Pairs, paired_folders, photo_restoration
from deploy.artifacts import QualityFloor
from devices.profile import Frozen, read_toml

RECIPES = Path(__file__).parent / "recipes"
DCD_SMALLEST_CROP = 96


class DamageRanges(Frozen):
    """See `compress.data.Damage`: blur in pixels, noise in 8-bit levels, JPEG quality 1 to 95."""

    blur_px: tuple[NonNegativeFloat, NonNegativeFloat]
    noise: tuple[NonNegativeFloat, NonNegativeFloat]
    jpeg_quality: tuple[PositiveInt, PositiveInt]


class RestorationData(Frozen):
    """Folders of clean photos; the sources are made by damaging them.

    Attributes:
        train: Photos to learn from.
        test: Other photos, to be measured on.
        damage: How they are damaged.
    """

    kind: Literal["restoration"]
    train: Path
    test: Path
    damage: DamageRanges

    def read(self, split: Literal["train", "test"]) -> Pairs:
        """The pairs of a split."""
        damage = Damage(**self.damage.model_dump())
        return photo_restoration(self.train if split == "train" else self.test, damage)


class PairedData(Frozen):
    """Folders whose files pair by name.

    Attributes:
        train_source: Inputs to learn from.
        train_target: What they should become.
        test_source: Other inputs, to be measured on.
        test_target: What those should become.
    """

    kind: Literal["paired"]
    train_source: Path
    train_target: Path
    test_source: Path
    test_target: Path

    def read(self, split: Literal["train", "test"]) -> Pairs:
        """The pairs of a split."""
        if split == "train":
            return paired_folders(self.train_source, self.train_target)
        return paired_folders(self.test_source, self.test_target)


Data = Annotated[RestorationData | PairedData, Field(discriminator="kind")]


class Training(Frozen):
    """How long, how fast, on what.

    Attributes:
        steps: Batches.
        batch_size: Crops in a batch.
        crop: Height and width of a crop, in pixels; a multiple of 4.
        learning_rate: Of Adam, at the start.
        decay_from: Share of the steps after which the rate falls linearly to zero.
        betas: Of Adam; the GAN papers' (0.5, 0.999) unless there is a reason.
        checkpoint_every: Steps between checkpoints.
        autocast: Compute convolutions in bfloat16: faster where the CPU or GPU has it.
    """

    steps: PositiveInt
    batch_size: PositiveInt
    crop: PositiveInt = Field(multiple_of=4, ge=64)
    learning_rate: PositiveFloat
    decay_from: float = Field(ge=0, le=1)
    betas: tuple[NonNegativeFloat, NonNegativeFloat] = (0.5, 0.999)
    checkpoint_every: PositiveInt
    autocast: bool = False


class GeneratorShape(Frozen):
    """A ResNet generator.

    Attributes:
        family: Which one.
        width: Channels after the first convolution, the papers' ngf.
        blocks: Residual blocks.
        norm: Normalisation.
        batch_statistics: ``batch``: BatchNorm learns statistics; ``fixed``: it only scales and
            shifts, so that a few crops' mean does not move every colour.
        initialization: ``normal``: as the papers; ``identity``: starts by returning its input.
    """

    family: Literal["resnet"]
    width: PositiveInt
    blocks: PositiveInt
    norm: Literal["batch", "instance"]
    batch_statistics: Literal["batch", "fixed"] = "batch"
    initialization: Literal["normal", "identity"] = "normal"


class DiscriminatorShape(Frozen):
    """A PatchGAN discriminator of pairs: ``width`` is the papers' ndf."""

    family: Literal["patchgan"]
    width: PositiveInt
    norm: Literal["batch", "instance"]


class Pix2PixWeights(Frozen):
    """Weights of the teacher's losses."""

    adversarial: NonNegativeFloat
    reconstruction: NonNegativeFloat
    mode: Literal["hinge", "lsgan", "vanilla"]


class TrainRecipe(Frozen):
    """A teacher from scratch: ``pocketgan train``."""

    verb: Literal["train"]
    name: str
    description: str
    seed: int
    data: Data
    generator: GeneratorShape
    discriminator: DiscriminatorShape
    losses: Pix2PixWeights
    training: Training


class TeacherFiles(Frozen):
    """A trained teacher: safetensors files whose header describes the network.

    Attributes:
        generator: What the student is made from.
        discriminator: Judges pairs of source and image; cooperates with the student.
        batch_statistics: How BatchNorm was trained, and is trained on; see `GeneratorShape`.
    """

    generator: Path
    discriminator: Path
    batch_statistics: Literal["batch", "fixed"] = "batch"


class Pruning(Frozen):
    """How small the student is.

    Attributes:
        macs_reduction: True MACs of the teacher over those of the student, at least.
        outer_share: Share of the channels outside the residual blocks, and of their stream, that
            goes; the blocks then meet the budget. Left out, all layers lose the same share.
        importance: Which channels go first.
    """

    macs_reduction: float = Field(gt=1)
    outer_share: float | None = Field(default=None, ge=0, lt=1)
    importance: Literal["magnitude", "batchnorm"]


class DcdMethod(Frozen):
    """See `compress.methods.dcd.dcd`: the weight of each loss."""

    name: Literal["dcd"]
    dcd: NonNegativeFloat
    adversarial: NonNegativeFloat
    imitation: NonNegativeFloat
    reconstruction: NonNegativeFloat
    discriminator_every: PositiveInt
    online_teacher: bool = False
    mode: Literal["hinge", "lsgan", "vanilla"]


class L1Method(Frozen):
    """See `compress.methods.l1.l1`: the weight of each loss."""

    name: Literal["l1"]
    imitation: NonNegativeFloat
    reconstruction: NonNegativeFloat


class CompressRecipe(Frozen):
    """A student from a teacher: ``pocketgan compress``.

    Attributes:
        image_size: Height and width that costs are counted at and goldens are cut to, in pixels.
        calibration_images: Crops of training images to quantize with.
    """

    verb: Literal["compress"]
    name: str
    description: str
    seed: int
    image_size: PositiveInt = Field(multiple_of=4, ge=64)
    calibration_images: PositiveInt
    data: Data
    teacher: TeacherFiles
    pruning: Pruning
    method: Annotated[DcdMethod | L1Method, Field(discriminator="name")]
    training: Training
    floor: QualityFloor

    @model_validator(mode="after")
    def _crop_fits_method(self) -> CompressRecipe:
        if self.method.name == "dcd" and self.training.crop < DCD_SMALLEST_CROP:
            raise ValueError(
                f"dcd shows feature maps of a quarter of the crop to the discriminator: crop = "
                f"{self.training.crop} is too small, take {DCD_SMALLEST_CROP} or more"
            )
        return self


AnyRecipe = TypeVar("AnyRecipe", TrainRecipe, CompressRecipe)


def recipe_names(verb: str) -> list[str]:
    """Names of the recipes of a verb that ship with the package, sorted."""
    line = f'verb = "{verb}"'
    return sorted(p.stem for p in RECIPES.glob("*.toml") if line in p.read_text().splitlines())


def load_recipe(name_or_path: str, schema: type[AnyRecipe]) -> tuple[AnyRecipe, Path]:
    """Read a recipe by name (``"restore"``) or by path (``"mine.toml"``).

    Returns:
        The recipe and the file it was read from.

    Raises:
        ValueError: No such recipe (the message lists the names there are), or a wrong key.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = RECIPES / f"{name_or_path}.toml"
    verb = "train" if schema is TrainRecipe else "compress"
    if not path.is_file():
        raise ValueError(
            f"no recipe {name_or_path!r}; there are: {', '.join(recipe_names(verb))} "
            "(or give the path of a .toml file)"
        )
    return read_toml(schema, path), path
