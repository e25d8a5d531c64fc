"""A video file, frame by frame, through PyAV (the extra ``video``)."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from deploy.imaging import Pixels
from serving.files import partial_name

ENCODERS = (("libx264", {"crf": "18", "preset": "veryfast"}), ("mpeg4", {"qscale": "3"}))
"""Codecs to write, best first, with their options; the first that this FFmpeg has."""

Audio = Literal["copied", "dropped", "none"]


class VideoError(ValueError):
    """The file is no video that can be translated, or there is nothing to do it with."""


@dataclass(frozen=True)
class VideoAnswer:
    """What was written.

    Attributes:
        frames: How many.
        audio: ``copied`` as it is, ``dropped`` where an MP4 cannot hold it, ``none`` if there is
            none.
    """

    frames: int
    audio: Audio


def translate_video(
    source: Path,
    target: Path,
    translate: Callable[[Pixels], Pixels],
    *,
    tell: Callable[[int, int | None], None],
) -> VideoAnswer:
    """Translate the first video stream of a file into an MP4.

    Frames keep their order and their times, so also a variable rate, and are turned as the file
    says they are shown. A side that is odd repeats its last row or column, because 4:2:0 wants
    pairs. Nothing is there under the target's name before it is whole.

    Args:
        source: Any container and codec that FFmpeg reads.
        target: Ends in ``.mp4``.
        translate: From ``(H, W, 3)`` RGB to the same, or larger by a fixed scale.
        tell: Called after each frame with how many are done and how many there are, where the
            file says so.

    Raises:
        VideoError: PyAV is missing, or the file holds no video or is damaged.
        ImageError: A frame is too large for ``translate``.
    """
    av = _pyav()
    target.parent.mkdir(parents=True, exist_ok=True)
    part = partial_name(target)
    try:
        with av.open(str(source)) as reader, av.open(str(part), "w", format="mp4") as writer:
            if not reader.streams.video:
                raise VideoError(f"{source} holds no video")
            answer = _transcode(av, reader, writer, translate, tell)
        os.replace(part, target)
    except av.FFmpegError as error:
        raise VideoError(f"{source} cannot be translated: {error}") from error
    finally:
        part.unlink(missing_ok=True)
    return answer


def _pyav() -> Any:
    """PyAV; by name, so that types do not depend on whether it is installed."""
    try:
        return importlib.import_module("av")
    except ModuleNotFoundError as missing:
        raise VideoError(
            "videos need PyAV, which is not installed: pip install 'pocketgan[video]'"
        ) from missing


def _transcode(
    av: Any,
    reader: Any,
    writer: Any,
    translate: Callable[[Pixels], Pixels],
    tell: Callable[[int, int | None], None],
) -> VideoAnswer:
    video = reader.streams.video[0]
    total = video.frames or None
    rate = video.average_rate or video.guessed_rate or 25
    codec, options = next(entry for entry in ENCODERS if entry[0] in av.codecs_available)
    out = writer.add_stream(codec, rate=rate, options=options)
    out.pix_fmt = "yuv420p"
    out.codec_context.time_base = video.time_base
    sound, copy, audio = _audio(reader, writer)
    count = 0
    for packet in reader.demux(video if sound is None else (video, sound)):
        if packet.stream is not video:
            if packet.dts is not None:  # the last, empty packet only says that there are no more
                packet.stream = copy
                writer.mux(packet)
            continue
        for frame in packet.decode():
            pixels = _even(translate(_shown(frame)))
            if count == 0:
                out.height, out.width = pixels.shape[:2]
            made = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            made.pts, made.time_base = frame.pts, video.time_base
            writer.mux(out.encode(made))
            count += 1
            tell(count, total)
    if not count:
        raise VideoError("there is not one frame in it")
    writer.mux(out.encode(None))
    return VideoAnswer(count, audio)


def _audio(reader: Any, writer: Any) -> tuple[Any, Any, Audio]:
    """The stream to read, the one it is copied to, and what becomes of it."""
    if not reader.streams.audio:
        return None, None, "none"
    sound = reader.streams.audio[0]
    if sound.codec_context.name not in writer.supported_codecs:
        return None, None, "dropped"
    return sound, writer.add_stream_from_template(sound), "copied"


def _shown(frame: Any) -> Pixels:
    """``(H, W, 3)``, turned as a player would; the file counts degrees counterclockwise."""
    pixels: Pixels = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))


def _even(pixels: Pixels) -> Pixels:
    """The last row and column again where their number is odd."""
    height, width = pixels.shape[:2]
    if height % 2 == width % 2 == 0:
        return pixels
    return np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
