"""``[data]``: which images, what is learned from them, and how crops are cut."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt

from compress.data.augment import Jitter
from compress.data.cache import DEFAULT_MIB, PixelCache
from compress.data.damage import Damage
from compress.data.dataset import Dataset, Split
from compress.data.folders import Broken, open_folder
from compress.data.pairs import paired_folders, paired_halves
from compress.data.photos import Photos, Restoration
from compress.data.superresolution import super_resolution
from compress.data.unpaired import Unpaired
from deploy.manifests import Task
from devices.profile import Frozen


class DamageRanges(Frozen):
    """See `compress.data.damage.Damage`: blur in pixels, noise in levels, JPEG quality 1 to 95."""

    blur_px: tuple[NonNegativeFloat, NonNegativeFloat]
    noise: tuple[NonNegativeFloat, NonNegativeFloat]
    jpeg_quality: tuple[PositiveInt, PositiveInt]


class Reading(Frozen):
    """How any folder is read.

    Attributes:
        broken: What to do about broken files.
        cache_mib: Memory for decoded images of a split, in MiB.
    """

    broken: Broken = "refuse"
    cache_mib: PositiveInt = DEFAULT_MIB


class Cutting(Reading):
    """How squares are cut from images that stay upright; see `compress.data.augment.Jitter`.

    Attributes:
        load: Length of the shorter side before a crop is cut, in pixels. Left out, 286/256 of the
            crop; of photos, crops are then cut at the photo's own scale or up to twofold shrunk.
        mirror: Whether half of the crops are mirrored.
        size: Length of the shorter side that held-back images are resized to, in pixels; left out,
            they stay as they are.
    """

    load: PositiveInt | None = None
    mirror: bool = True
    size: PositiveInt | None = None

    @property
    def jitter(self) -> Jitter:
        """The same for `compress.data`."""
        return Jitter(self.load, self.mirror, self.size)


class RestorationData(Reading):
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

    @property
    def task(self) -> Task:
        """What is learned."""
        return "paired"

    def read(self, split: Split) -> Dataset:
        """The photos of a split."""
        folder = open_folder(self.train if split == "train" else self.test, self.broken)
        return Restoration(folder, PixelCache(self.cache_mib), Damage(**self.damage.model_dump()))


class PairedData(Cutting):
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

    @property
    def task(self) -> Task:
        """What is learned."""
        return "paired"

    def read(self, split: Split) -> Dataset:
        """The pairs of a split."""
        train = split == "train"
        return paired_folders(
            self.train_source if train else self.test_source,
            self.train_target if train else self.test_target,
            self.jitter,
            broken=self.broken,
            cache=PixelCache(self.cache_mib),
        )


class HalvesData(Cutting):
    """Folders of files that hold source and truth side by side, as pix2pix packs them.

    Attributes:
        train: Files to learn from.
        test: Other files, to be measured on.
        source: The half that is translated.
    """

    kind: Literal["halves"]
    train: Path
    test: Path
    source: Literal["left", "right"]

    @property
    def task(self) -> Task:
        """What is learned."""
        return "paired"

    def read(self, split: Split) -> Dataset:
        """The pairs of a split."""
        return paired_halves(
            self.train if split == "train" else self.test,
            self.source,
            self.jitter,
            broken=self.broken,
            cache=PixelCache(self.cache_mib),
        )


class UnpairedData(Cutting):
    """Folders of two domains; source is translated to look like target.

    Attributes:
        train_source: Images of domain A to learn from.
        train_target: Images of domain B to learn from.
        test_source: Other images of domain A, to be measured on.
        test_target: Other images of domain B, to be compared with.
    """

    kind: Literal["unpaired"]
    train_source: Path
    train_target: Path
    test_source: Path
    test_target: Path

    @property
    def task(self) -> Task:
        """What is learned."""
        return "unpaired"

    def read(self, split: Split) -> Dataset:
        """The images of a split."""
        train = split == "train"
        return Unpaired(
            open_folder(self.train_source if train else self.test_source, self.broken),
            open_folder(self.train_target if train else self.test_target, self.broken),
            self.jitter,
            PixelCache(self.cache_mib),
        )


class SuperResolutionData(Reading):
    """Folders of high-resolution images.

    Attributes:
        train: Images to learn from.
        test: Other images, to be measured on.
        scale: How many times as high and wide as its source an image is.
        train_low: The low resolution of ``train``; left out, made by bicubic reduction.
        test_low: The low resolution of ``test``; left out, made by bicubic reduction.
    """

    kind: Literal["super_resolution"]
    train: Path
    test: Path
    scale: Literal[2, 3, 4, 8]
    train_low: Path | None = None
    test_low: Path | None = None

    @property
    def task(self) -> Task:
        """What is learned."""
        return "super_resolution"

    def read(self, split: Split) -> Dataset:
        """The images of a split."""
        train = split == "train"
        return super_resolution(
            self.train if train else self.test,
            self.train_low if train else self.test_low,
            scale=self.scale,
            broken=self.broken,
            cache=PixelCache(self.cache_mib),
        )


class PhotosData(Cutting):
    """Folders of photos without any truth; a teacher says what they should become.

    Attributes:
        train: Photos to learn from.
        test: Other photos, to be measured on.
    """

    kind: Literal["photos"]
    train: Path
    test: Path

    @property
    def task(self) -> Task:
        """What is learned."""
        return "teacher_only"

    def read(self, split: Split) -> Dataset:
        """The photos of a split."""
        folder = open_folder(self.train if split == "train" else self.test, self.broken)
        return Photos(folder, PixelCache(self.cache_mib), self.jitter)


Data = Annotated[
    RestorationData | PairedData | HalvesData | UnpairedData | SuperResolutionData | PhotosData,
    Field(discriminator="kind"),
]
