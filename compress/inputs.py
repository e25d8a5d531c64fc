"""What a compression run starts from, and the digest of everything its student depends on."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from compress.data.dataset import Dataset
from compress.data.held_out import set_aside
from compress.data.sampling import batches
from compress.device import batch_threads
from compress.features import as_generator
from compress.lineage import recipe_digest, text_digest, versions
from compress.loop import BatchAt
from compress.networks import (
    TeacherSide,
    teacher_digests,
    teacher_side,
)
from compress.recipe import CompressRecipe
from compress.schema.data_free import DataFreeMethod
from compress.schema.gcc import GccMethod
from devices.profile import DeviceProfile


@dataclass(frozen=True)
class Inputs:
    """What a run starts from, read and checked.

    Attributes:
        photos: Images to learn from; None where the recipe looks at none.
        aside: Training images for gates alone, which are not among ``photos``; None without gates.
        test: Held-back images.
    """

    recipe: CompressRecipe
    teacher: TeacherSide
    photos: Dataset | None
    aside: Dataset | None
    test: Dataset
    lineage: dict[str, str]

    @classmethod
    def read(cls, recipe: CompressRecipe, profile: DeviceProfile) -> Inputs:
        """Read teacher and photos.

        Raises:
            ValueError: A file is missing or is not what the recipe needs it to be.
        """
        torch.manual_seed(recipe.seed)  # shapes in [teacher] are drawn here
        teacher = teacher_side(recipe.teacher, recipe.data.task)
        generator = as_generator(teacher.generator)
        for name, size in (("image_size", recipe.image_size), ("crop", recipe.training.crop)):
            if size % generator.multiple:
                raise ValueError(
                    f"{name} = {size} does not suit the teacher: a multiple of "
                    f"{generator.multiple} does"
                )
        photos = recipe.data.read("train") if _looks(recipe) else None
        test = recipe.data.read("test")
        known = "" if photos is None else photos.digest()
        lineage = teacher_digests(recipe.teacher) | {
            "recipe": f"sha256:{recipe_digest(recipe)}",
            "data": f"sha256:{text_digest(known, test.digest())}",
            "channel_multiple": str(profile.channel_multiple),
        }
        narrowing = recipe.pruning or recipe.agents
        if narrowing is not None and narrowing.latency_ms is not None:
            # the widths follow from a measurement under this profile
            lineage["profile"] = f"sha256:{text_digest(profile.model_dump_json())}"
        aside = None
        if photos is not None and isinstance(recipe.method, GccMethod):
            photos, aside = set_aside(
                photos, recipe.method.held_out, cache_mib=recipe.data.cache_mib
            )
        return cls(recipe, teacher, photos, aside, test, lineage)

    @property
    def train(self) -> Dataset:
        """Images to learn from, for the stages that need them."""
        assert self.photos is not None, "the recipe allows no stage that looks at images"
        return self.photos

    def batches(self, dataset: Dataset | None = None) -> BatchAt:
        """Batches of a data set, by default of all there is to learn from, as the recipe cuts them.

        Args:
            dataset: Another one.
        """
        training = self.recipe.training
        return batches(
            self.train if dataset is None else dataset,
            size=training.crop,
            batch_size=training.batch_size,
            seed=self.recipe.seed,
            workers=batch_threads(),
        )

    @property
    def run(self) -> str:
        """Digest of everything the student depends on."""
        return text_digest(*self.lineage.values(), *versions().values())


def _looks(recipe: CompressRecipe) -> bool:
    method = recipe.method
    return not isinstance(method, DataFreeMethod) or method.calibrate == "photos"
