"""Losses and samples for TensorBoard, where it is installed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Board:
    """Writes a run's curves and pictures; to be closed, best as a context.

    Args:
        folder: Where TensorBoard looks for them.
        done: Steps done before; what a run that was killed wrote after them does not count.

    Raises:
        ValueError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path, *, done: int = 0) -> None:
        self._writer = _open(folder, done)

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *_error: object) -> None:
        self._writer.close()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One point on each curve."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def image(self, step: int, name: str, image: Image.Image) -> None:
        """A picture, RGB."""
        self._writer.add_image(name, np.asarray(image), step, dataformats="HWC")


def _open(folder: Path, done: int) -> SummaryWriter:
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  an optional extra
    except ModuleNotFoundError as missing:
        raise ValueError(
            f"tensorboard = true needs {missing.name}: pip install 'pocketgan[tensorboard]', or "
            "leave tensorboard out"
        ) from missing
    return SummaryWriter(str(folder), purge_step=done + 1)
