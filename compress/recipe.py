"""Recipes: what to train, prune and distill, as a strict TOML file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field, PositiveInt, model_validator

from compress.schema.data import Data
from compress.schema.data_free import DataFreeMethod
from compress.schema.dgl import DglMethod, Guidance
from compress.schema.gcc import GccMethod, Slimming
from compress.schema.ghost import Ghost
from compress.schema.methods import CycleGanLosses, DcdMethod, Losses
from compress.schema.mggc import Agents
from compress.schema.networks import DiscriminatorShape, GeneratorShape, TeacherNetworks
from compress.schema.pruning import LOOKING, Pruning
from compress.schema.students import StudentMethod
from compress.schema.training import Training
from deploy.calibration import FEWEST
from deploy.manifests import QualityFloor
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
        calibration_images: Crops of training images to quantize with; without images, invented.
        pruning: Makes the student from the teacher.
        student: Or a fresh network of this shape.
        slimming: Or what sparse training leaves of ``student``, or of the teacher.
        agents: Or what two agents leave of the teacher.
        guidance: A second critic, on top of any method.
        ghost: A last stage in which the student learns to bear INT8.
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
    slimming: Slimming | None = None
    agents: Agents | None = None
    method: StudentMethod
    guidance: Guidance | None = None
    training: Training
    ghost: Ghost | None = None
    floor: QualityFloor

    @model_validator(mode="after")
    def _one_student(self) -> CompressRecipe:
        fresh = self.student is not None or self.slimming is not None
        if [self.pruning is not None, fresh, self.agents is not None].count(True) != 1:
            raise ValueError(
                "the student is the teacher pruned, or a fresh network, or what is left of one of "
                "them: give [pruning] or [student], one of them, or [slimming] with or without "
                "[student], or [agents]"
            )
        return self

    @model_validator(mode="after")
    def _guidance_has_a_critic(self) -> CompressRecipe:
        if isinstance(self.method, DglMethod) and self.guidance is None:
            raise ValueError("dgl is guided by a second critic: give a table [guidance]")
        if self.guidance is not None and not isinstance(self.teacher.discriminator, Path):
            raise ValueError(
                "guidance looks through the teacher's trained discriminator: name its file in "
                "[teacher], or leave [guidance] out"
            )
        return self

    @model_validator(mode="after")
    def _data_free_sees_no_image(self) -> CompressRecipe:
        if not isinstance(self.method, DataFreeMethod):
            return self
        if self.pruning is not None and self.pruning.importance in LOOKING:
            raise ValueError(
                f"importance {self.pruning.importance!r} looks at images, and data_free has none: "
                "take magnitude or scale"
            )
        if self.calibration_images < FEWEST:
            raise ValueError(
                f"calibration_images = {self.calibration_images}: ranges of so few images are a "
                f"matter of luck, take {FEWEST} or more"
            )
        if self.method.statistics and self.training.compile:
            raise ValueError(
                "compile = true hides the BatchNorms whose statistics data_free looks at: leave "
                "compile out, or statistics"
            )
        for table in ("slimming", "agents", "ghost"):
            if getattr(self, table) is not None:
                raise ValueError(
                    f"[{table}] learns from images, and data_free has none: leave it out"
                )
        return self

    @model_validator(mode="after")
    def _gcc_has_a_truth(self) -> CompressRecipe:
        if self.data.task == "teacher_only" and isinstance(self.method, GccMethod):
            raise ValueError(
                "gcc coordinates the student's game with the teacher's, which photos without a "
                "truth have none of: take dcd"
            )
        return self

    @model_validator(mode="after")
    def _crop_fits_method(self) -> CompressRecipe:
        method, crop = self.method, self.training.crop
        through = isinstance(method, DcdMethod | GccMethod) and method.dcd > 0
        if through and self.data.task != "super_resolution" and crop < DCD_SMALLEST_CROP:
            raise ValueError(
                f"dcd shows feature maps of a quarter of the crop to the discriminator: crop = "
                f"{crop} is too small, take {DCD_SMALLEST_CROP} or more"
            )
        return self

    @model_validator(mode="after")
    def _truth_is_there(self) -> CompressRecipe:
        if self.data.task in ("paired", "super_resolution"):
            return self
        for table in ("method", "ghost"):
            options = getattr(self, table)
            if options is not None and options.reconstruction:
                raise ValueError(
                    f"{self.data.kind} data hold no truth for {table}.reconstruction = "
                    f"{options.reconstruction:g}: leave it out, imitation follows the teacher"
                )
        return self

    @model_validator(mode="after")
    def _slimming_is_heard(self) -> CompressRecipe:
        if self.slimming is None:
            return self
        if self.data.task == "unpaired":
            idle = sorted({"adversarial", "reconstruction"} & self.slimming.model_fields_set)
            if idle:
                raise ValueError(
                    f"unpaired data are slimmed as a CycleGAN, with its own weights: leave "
                    f"{' and '.join(idle)} out of [slimming]"
                )
        start = getattr(self.student, "initialization", "normal")
        if start == "identity" and self.slimming.weights == "initialize":
            raise ValueError(
                "slimming.weights = 'initialize' draws fresh weights, and student.initialization = "
                "'identity' wants others: leave one of them out"
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
