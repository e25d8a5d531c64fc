"""What was measured, as it is written to a file: each figure with its counts and protocol."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import NonNegativeInt, PositiveInt, model_validator

from compress.measures.extractors import INCEPTION_2015
from devices.profile import Frozen

Measure = Literal["fid", "kid", "frechet", "kernel", "lpips", "psnr", "ssim", "psnr_y", "ssim_y"]
"""``frechet`` and ``kernel`` are the distances of FID and KID on another extractor's features."""

OTHER_NAMES: dict[Measure, Measure] = {"fid": "frechet", "kid": "kernel"}
"""What a distance is called when the features are not Inception's."""

SubjectKind = Literal["images", "network", "export", "bundle"]

SCHEMA_VERSION: Literal[1] = 1


def parse_measures(text: str) -> tuple[Measure, ...]:
    """``"fid,psnr"`` to the names of measures.

    Raises:
        ValueError: One of them is none.
    """
    known: tuple[Measure, ...] = get_args(Measure)
    names = []
    for word in text.split(","):
        found = [name for name in known if name == word.strip()]
        if not found:
            raise ValueError(f"no measure {word.strip()!r}; there are: {', '.join(known)}")
        names += found
    return tuple(names)


class Figure(Frozen):
    """One number and what it takes to compare it with another.

    Attributes:
        images: How many images were measured.
        references: How many they were compared with.
        extractor: Whose features, or None for a measure of pixels.
        protocol: How, in a line.
    """

    measure: Measure
    value: float
    unit: Literal["dB"] | None = None
    images: PositiveInt
    references: PositiveInt
    extractor: str | None = None
    protocol: str

    @model_validator(mode="after")
    def _called_what_it_is(self) -> Figure:
        if self.measure in ("fid", "kid") and self.extractor != INCEPTION_2015:
            raise ValueError(
                f"{self.measure} is only on the features of {INCEPTION_2015}; on those of "
                f"{self.extractor} it is called {OTHER_NAMES[self.measure]}"
            )
        return self


class Report(Frozen):
    """What `compress.measures.measure.measure` found.

    Attributes:
        left_out: Measures that could not be taken, and why.
    """

    figures: tuple[Figure, ...]
    left_out: dict[str, str]

    def value(self, measure: Measure) -> float:
        """One figure's number.

        Raises:
            ValueError: It was not measured; the message says why.
        """
        for figure in self.figures:
            if figure.measure == measure:
                return figure.value
        raise ValueError(f"no {measure}: {self.left_out.get(measure, 'not asked for')}")


class SubjectCost(Frozen):
    """What one image costs.

    Attributes:
        image_size: Height and width of the input that MACs are counted at, in pixels.
        macs_published: With transposed convolutions charged at their output resolution.
    """

    image_size: PositiveInt
    params: PositiveInt
    macs: PositiveInt
    macs_published: PositiveInt


class Evaluation(Frozen):
    """The file that ``pocketgan evaluate --json`` writes.

    Attributes:
        subject: What was evaluated, as its path was given.
        sha256: Of the network's file or the face of the export or bundle; None for images.
        runs_on: What translated the images; None where they were there.
        source: Where the images to translate came from, if any.
        skipped: Files that are not images and were left out.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    subject: str
    kind: SubjectKind
    sha256: str | None
    runs_on: str | None
    source: str | None
    reference: str
    images: NonNegativeInt
    references: NonNegativeInt
    paired: bool
    skipped: tuple[str, ...]
    cost: SubjectCost | None
    report: Report
    versions: dict[str, str]
