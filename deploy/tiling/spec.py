"""What a server must know to translate an image in tiles: ``tiling.json`` in a bundle."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from devices.profile import Frozen

TILING = "tiling.json"
"""In a bundle: how its engine is run on tiles."""

Kind = Literal["float32", "float16", "uint8", "int8"]
"""Types of values that are kept."""

KIND_BYTES: dict[Kind, int] = {"float32": 4, "float16": 2, "uint8": 1, "int8": 1}


class Halo(Frozen):
    """Pixels around a tile that its result depends on, rounded up to whole alignments."""

    top: NonNegativeInt
    bottom: NonNegativeInt
    left: NonNegativeInt
    right: NonNegativeInt


class FeatureMap(Frozen):
    """A tensor that is kept for the whole image.

    Attributes:
        name: Of the tensor.
        channels: How many.
        rows: Rows of the map over rows of the image, as a fraction.
        columns: The same of columns.
        kind: Type of its values.
    """

    name: str
    channels: PositiveInt
    rows: tuple[PositiveInt, PositiveInt]
    columns: tuple[PositiveInt, PositiveInt]
    kind: Kind = "float32"

    def shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(C, H, W) for an image of this size."""
        return (
            self.channels,
            height * self.rows[0] // self.rows[1],
            width * self.columns[0] // self.columns[1],
        )

    def size_bytes(self, height: int, width: int) -> int:
        """What it takes for an image of this size."""
        channels, rows, columns = self.shape(height, width)
        return channels * rows * columns * KIND_BYTES[self.kind]


class Source(Frozen):
    """An input of a segment.

    Attributes:
        tensor: Its name there.
        map: The kept map that it is read from, or the image.
        epsilon: If given, the map is normalised on the way: the mean of its channel over the whole
            image is subtracted, and the root of variance plus epsilon divided by.
    """

    tensor: str
    map: str
    epsilon: PositiveFloat | None = None


class Segment(Frozen):
    """A part of the engine between two normalisations.

    Attributes:
        file: Its ONNX file in the bundle.
        halo: Of this part alone, in pixels of the image.
        sources: What it reads.
        maps: What it makes; the last segment makes the translation.
    """

    file: str
    halo: Halo
    sources: tuple[Source, ...]
    maps: tuple[FeatureMap, ...]


class Tiling(Frozen):
    """How an engine is run on tiles, or why it cannot be.

    Attributes:
        alignment: Tiles start and end at multiples of these, in rows and columns of the image.
        image: Name of the engine's input.
        translation: Its output.
        halo: Of the whole engine; None where a normalisation looks at the whole image.
        norms: Nodes that normalise by the whole image.
        segments: The engine cut at those, in the order they run.
        obstacles: Why it cannot be run on tiles; empty where it can.
    """

    schema_version: Literal[1] = 1
    alignment: tuple[PositiveInt, PositiveInt] = (1, 1)
    image: str
    translation: FeatureMap | None
    halo: Halo | None
    norms: tuple[str, ...] = ()
    segments: tuple[Segment, ...] = ()
    obstacles: tuple[str, ...] = ()

    def last_reads(self) -> dict[str, int]:
        """For each map, the last segment that reads it."""
        return {
            source.map: at for at, segment in enumerate(self.segments) for source in segment.sources
        }

    def measured(self) -> frozenset[str]:
        """Maps whose statistics are wanted."""
        return frozenset(
            source.map
            for segment in self.segments
            for source in segment.sources
            if source.epsilon is not None
        )

    def map_bytes(self, height: int, width: int) -> int:
        """What the kept maps take at the worst moment, the image and the translation apart."""
        last = self.last_reads()
        alive: dict[str, int] = {}
        peak = 0
        for at, segment in enumerate(self.segments):
            for made in segment.maps:
                if made.name in last:
                    alive[made.name] = made.size_bytes(height, width)
            peak = max(peak, sum(alive.values()))
            alive = {name: size for name, size in alive.items() if last[name] > at}
        return peak
