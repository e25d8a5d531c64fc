"""Images larger than an engine should see at once, in tiles whose result is the whole's."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from deploy.artifacts import Bundle
from deploy.imaging import ImageTooLargeError
from deploy.tiling.moments import Moments
from deploy.tiling.sessions import SegmentSession, Values, open_segment
from deploy.tiling.spec import TILING, FeatureMap, Halo, Segment, Source, Tiling
from deploy.tiling.windows import Tile, Window, tiles
from devices.profile import explain
from devices.sealed import BundleError
from devices.session import Images, Session

SEGMENT_PIXELS = 256 * 256
"""Image pixels in a tile of a segment, at most: its halo is a few pixels, so small ones cost little
and leave the memory to the maps."""

OpenSegment = Callable[[str], SegmentSession]
"""Loads a segment by the name of its file."""
OnTile = Callable[[int, int], None]
"""Told before each tile how many are done, of how many; what it raises ends the image."""


def tiled_session(
    session: Session, bundle: Bundle, *, whole_pixels: int, map_bytes: int, map_folder: Path | None
) -> TiledSession:
    """A bundle's session for images of any size; all files are read now.

    Raises:
        BundleError: What the bundle says of tiles is damaged.
    """
    face = bundle.manifest
    tiling: Tiling | None = None
    segments: dict[str, bytes] = {}
    if TILING in face.sha256:
        try:
            tiling = Tiling.model_validate_json((bundle.path / TILING).read_text())
        except ValidationError as error:
            raise BundleError(f"{bundle.path / TILING}: {explain(error, Tiling)}") from error
        for segment in tiling.segments:
            if segment.file not in face.sha256:
                raise BundleError(f"{bundle.path} has no digest for {segment.file!r}")
            segments[segment.file] = (bundle.path / segment.file).read_bytes()
    return TiledSession(
        session,
        tiling,
        open_segment=lambda name: open_segment(
            segments[name], face.profile, backend=face.backend, precision=face.precision
        ),
        whole_pixels=whole_pixels,
        map_bytes=map_bytes,
        map_folder=map_folder,
    )


class TiledSession:
    """A session for images of any size, within a stated memory.

    Up to ``whole_pixels`` an image goes through the engine as it is. A larger one is cut into tiles
    with the engine's receptive field around them. Where a normalisation looks at the whole image,
    the engine runs in segments: each over all tiles, its maps kept for the whole image, so that the
    next one normalises with statistics of all of it. Not thread-safe, like any session.

    Args:
        session: The engine.
        tiling: How it is run on tiles, or None where nobody knows: then it never is.
        open_segment: Loads the bundle's segments, which happens when the first large image comes.
        whole_pixels: Largest image, and largest tile, that the engine is given at once.
        map_bytes: Most memory that the kept maps may take.
        map_folder: Where maps beyond that are kept in files, or None to refuse such images.
    """

    def __init__(
        self,
        session: Session,
        tiling: Tiling | None,
        *,
        open_segment: OpenSegment,
        whole_pixels: int,
        map_bytes: int,
        map_folder: Path | None = None,
    ) -> None:
        self._session = session
        self._tiling = tiling
        self._open_segment = open_segment
        self._whole_pixels = whole_pixels
        self._map_bytes = map_bytes
        self._map_folder = map_folder
        self._segments: dict[str, SegmentSession] = {}

    def trim(self) -> None:
        """Give back memory until it is needed again."""
        self._segments.clear()
        trim = getattr(self._session, "trim", None)
        if trim is not None:
            trim()

    def check(self, height: int, width: int) -> None:
        """Whether an image of this size, padding included, can be translated.

        Raises:
            ImageTooLargeError: It cannot; the message says what to set.
        """
        if height * width <= self._whole_pixels:
            return
        tiling, size = self._tiling, f"image is {width} x {height} pixels with padding"
        whole = f"more than the {self._whole_pixels} that are translated whole"
        if tiling is None or tiling.translation is None:
            why = "its bundle does not say how" if tiling is None else tiling.obstacles[0]
            raise ImageTooLargeError(
                f"{size}, {whole}, and this model is not run on tiles ({why}); send a smaller "
                "image or set POCKETGAN_WHOLE_PIXELS higher"
            )
        if height % tiling.alignment[0] or width % tiling.alignment[1]:
            raise ImageTooLargeError(
                f"{size}, which is no multiple of {tiling.alignment[0]} x {tiling.alignment[1]}"
            )
        halos = [segment.halo for segment in tiling.segments] if tiling.segments else [tiling.halo]
        for halo in halos:
            assert halo is not None  # without segments there is one
            if not tiles(height, width, halo, tiling.alignment, self._whole_pixels):
                raise ImageTooLargeError(
                    f"{size}, {whole}, and a tile of so many would be all halo "
                    f"({halo.top} + {halo.bottom} rows, {halo.left} + {halo.right} columns); set "
                    "POCKETGAN_WHOLE_PIXELS higher"
                )
        needed = tiling.map_bytes(height, width)
        if needed > self._map_bytes and self._map_folder is None:
            raise ImageTooLargeError(
                f"{size}, whose feature maps take {math.ceil(needed / 2**20)} MiB; the limit is "
                f"{self._map_bytes // 2**20} MiB: send a smaller image, or set "
                "POCKETGAN_MAP_MEMORY_MIB higher or POCKETGAN_MAP_FOLDER to a folder on disk"
            )

    def run(self, images: Images, on_tile: OnTile = lambda done, count: None) -> Images:
        """Translate a batch.

        Raises:
            ImageTooLargeError: As `check`.
        """
        height, width = images.shape[2:]
        self.check(height, width)
        if height * width <= self._whole_pixels:
            return self._session.run(images)
        tiling = self._tiling
        assert tiling is not None  # checked
        assert tiling.translation is not None
        result = np.empty((len(images), *tiling.translation.shape(height, width)), dtype=np.float32)
        for image, translated in zip(images, result, strict=True):
            if tiling.halo is not None:
                self._run_plain(image, translated, tiling.halo, on_tile)
            else:
                self._run_segments(image, translated, on_tile)
        return result

    def _run_plain(self, image: Values, translated: Values, halo: Halo, on_tile: OnTile) -> None:
        """Every tile through the engine."""
        assert self._tiling is not None
        assert self._tiling.translation is not None
        parts = self._tiles(image, halo, self._whole_pixels)
        for done, tile in enumerate(parts):
            on_tile(done, len(parts))
            piece = np.ascontiguousarray(_given(image, tile, (1, 1), (1, 1)))
            _keep(translated, self._session.run(piece[None])[0], tile, self._tiling.translation)

    def _run_segments(self, image: Values, translated: Values, on_tile: OnTile) -> None:
        """Every segment over all tiles, and what it made measured before the next one begins."""
        tiling = self._tiling
        assert tiling is not None
        assert tiling.translation is not None
        height, width = image.shape[1:]
        unknown = FeatureMap(name=tiling.image, channels=len(image), rows=(1, 1), columns=(1, 1))
        specs, last, measured = {tiling.image: unknown}, tiling.last_reads(), tiling.measured()
        kept: dict[str, Values] = {tiling.image: image}
        moments: dict[str, Moments] = {}
        if tiling.image in measured:
            moments[tiling.image] = Moments(len(image))
            moments[tiling.image].add(image)
        plan = [
            self._tiles(image, segment.halo, min(SEGMENT_PIXELS, self._whole_pixels))
            for segment in tiling.segments
        ]
        done, count = 0, sum(map(len, plan))
        for at, (segment, parts) in enumerate(zip(tiling.segments, plan, strict=True)):
            engine = self._segment(segment)
            for made in segment.maps:
                specs[made.name] = made
                if made.name in measured:
                    moments[made.name] = Moments(made.channels)
                if made.name == tiling.translation.name:
                    kept[made.name] = translated
                else:
                    kept[made.name] = self._room(made, height, width, kept)
            for tile in parts:
                on_tile(done, count)
                done += 1
                pieces = engine.run(
                    {
                        source.tensor: _piece(
                            kept[source.map], specs[source.map], tile, source, moments
                        )[None]
                        for source in segment.sources
                    }
                )
                for made in segment.maps:
                    core = _keep(kept[made.name], pieces[made.name][0], tile, made)
                    if made.name in measured:
                        moments[made.name].add(core)
            kept = {name: values for name, values in kept.items() if last.get(name, 0) > at}

    def _segment(self, segment: Segment) -> SegmentSession:
        if segment.file not in self._segments:
            self._segments[segment.file] = self._open_segment(segment.file)
        return self._segments[segment.file]

    def _tiles(self, image: Values, halo: Halo, limit: int) -> list[Tile]:
        assert self._tiling is not None
        height, width = image.shape[1:]
        found = tiles(height, width, halo, self._tiling.alignment, limit)
        found = found or tiles(height, width, halo, self._tiling.alignment, self._whole_pixels)
        assert found is not None  # checked
        return found

    def _room(self, made: FeatureMap, height: int, width: int, kept: dict[str, Values]) -> Values:
        """Memory for a map; beyond the budget in a file that has no name and ends with it."""
        shape, kind = made.shape(height, width), np.dtype(made.kind)
        held = sum(values.nbytes for values in kept.values() if not _on_disk(values))
        if held + made.size_bytes(height, width) <= self._map_bytes or self._map_folder is None:
            return np.empty(shape, kind)
        with tempfile.TemporaryFile(dir=self._map_folder) as file:
            return np.memmap(file, kind, "w+", shape=shape)


def _piece(
    values: Values, spec: FeatureMap, tile: Tile, source: Source, moments: dict[str, Moments]
) -> Values:
    """What a tile needs of a map, contiguous and normalised."""
    piece = _given(values, tile, spec.rows, spec.columns)
    if source.epsilon is None:
        return np.ascontiguousarray(piece)
    found = moments[source.map]
    centred = np.subtract(piece, found.mean()[:, None, None], dtype=np.float32)
    centred *= found.factor(source.epsilon)[:, None, None]
    return centred.astype(values.dtype, copy=False)


def _keep(target: Values, piece: Values, tile: Tile, spec: FeatureMap) -> Values:
    """Put the core of what a tile made into its place; the core is returned."""
    rows = _scaled(tile.rows, spec.rows)
    columns = _scaled(tile.columns, spec.columns)
    expected = (rows.stop - rows.start, columns.stop - columns.start)
    if piece.shape[1:] != expected:
        raise RuntimeError(f"a tile of {spec.name} came out as {piece.shape[1:]}, not {expected}")
    core = piece[
        :,
        rows.core_start - rows.start : rows.core_stop - rows.start,
        columns.core_start - columns.start : columns.core_stop - columns.start,
    ]
    target[:, rows.core_start : rows.core_stop, columns.core_start : columns.core_stop] = core
    return core


def _given(
    values: Values, tile: Tile, per_row: tuple[int, int], per_column: tuple[int, int]
) -> Values:
    rows, columns = _scaled(tile.rows, per_row), _scaled(tile.columns, per_column)
    return values[:, rows.start : rows.stop, columns.start : columns.stop]


def _scaled(window: Window, rate: tuple[int, int]) -> Window:
    """A window in positions of a map."""
    return Window(
        *(
            at * rate[0] // rate[1]
            for at in (window.start, window.stop, window.core_start, window.core_stop)
        )
    )


def _on_disk(values: Any) -> bool:
    return isinstance(values, np.memmap)
