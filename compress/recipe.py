"""Recipes: what to train, prune and distill, as a strict TOML file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field, PositiveInt, model_validator

from compress.schema.data import Data
from compress.schema.methods import CycleGanLosses, DcdMethod, Losses, StudentMethod
from compress.schema.networks import DiscriminatorShape, GeneratorShape, TeacherNetworks
from compress.schema.pruning import Pruning
from compress.schema.training import Training
from deploy.artifacts import QualityFloor
from devices.profile import Frozen, read_toml

RECIPES = Path(__file__).parent / "recipes"
DCD_SMALLEST_CROP = 96


class TrainRecipe(Frozen):
    """A teacher from scratch: ``pocketgan train``."""

    verb: Literal["train"]
    name: str
    description: str
    seed: int
    data: Data
    generator: GeneratorShape
    discriminator: DiscriminatorShape
    losses: Losses
    training: Training

    @model_validator(mode="after")
    def _losses_fit_data(self) -> TrainRecipe:
        if (self.data.task == "unpaired") != isinstance(self.losses, CycleGanLosses):
            raise ValueError(
                f"{self.data.kind} data are {self.data.task}, and losses.name is "
                f"{self.losses.name!r}: cyclegan learns from unpaired data, pix2pix from the others"
            )
        if self.data.task == "teacher_only":
            raise ValueError("photos without a truth train no teacher; `compress` distills on them")
        return self


class CompressRecipe(Frozen):
    """A student from a teacher: ``pocketgan compress``.

    Attributes:
        image_size: Height and width that costs are counted at and goldens are cut to, in pixels.
        calibration_images: Crops of training images to quantize with.
        pruning: Makes the student from the teacher.
        student: Or a fresh network of this shape.
    """

    verb: Literal["compress"]
    name: str
    description: str
    seed: int
    image_size: PositiveInt = Field(multiple_of=4, ge=16)
    calibration_images: PositiveInt
    data: Data
    teacher: TeacherNetworks
    pruning: Pruning | None = None
    student: GeneratorShape | None = None
    method: StudentMethod
    training: Training
    floor: QualityFloor

    @model_validator(mode="after")
    def _one_student(self) -> CompressRecipe:
        if (self.pruning is None) == (self.student is None):
            raise ValueError(
                "the student is the teacher pruned, or a fresh network: give [pruning] or "
                "[student], one of them"
            )
        return self

    @model_validator(mode="after")
    def _crop_fits_method(self) -> CompressRecipe:
        resnet = self.data.task != "super_resolution"
        if isinstance(self.method, DcdMethod) and resnet and self.training.crop < DCD_SMALLEST_CROP:
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
