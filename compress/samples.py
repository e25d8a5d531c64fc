"""A few held-back images through the student, drawn while it trains."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image
from torch import nn

from compress.data.dataset import Dataset
from compress.evaluate import translate
from compress.features import as_generator
from deploy.grid import draw_grid
from deploy.imaging import Pixels

ROWS = 3
SIDE = 256
"""Pixels of a side, at most, so that drawing takes a small part of the time between checkpoints."""


@dataclass(frozen=True)
class Samples:
    """Held-back images, and what others make of them.

    Attributes:
        source: What is translated, (H, W, 3) each.
        teacher: The teacher's translations; empty where there is no teacher.
        truth: What they should look like; empty where nobody knows.
    """

    source: tuple[Pixels, ...]
    teacher: tuple[Pixels, ...] = ()
    truth: tuple[Pixels, ...] = ()

    def draw(self, student: nn.Module) -> Image.Image:
        """Input, teacher, student and truth side by side; the student's modes stay as they are."""
        columns = {
            "input": self.source,
            "teacher": self.teacher,
            "student" if self.teacher else "generator": translate(student, self.source),
            "truth": self.truth,
        }
        return draw_grid({name: images for name, images in columns.items() if images})


def choose_samples(
    data: Dataset, student: nn.Module, *, teacher: nn.Module | None = None
) -> Samples:
    """The middles of images that are spread evenly over a test split.

    Args:
        data: The test split.
        student: Whose translations will be drawn; says which sizes suit.
        teacher: Translates them now, once.
    """
    generator = as_generator(student)
    multiple = int(
        np.lcm(generator.multiple, 1 if teacher is None else as_generator(teacher).multiple)
    )
    most = SIDE // generator.scale
    source, truth = [], []
    for index in np.unique(np.linspace(0, len(data) - 1, ROWS).round().astype(int)):
        whole, target = data.whole(int(index), multiple=multiple)
        height, width = (max(min(n, most) // multiple, 1) * multiple for n in whole.shape[:2])
        top, left = (whole.shape[0] - height) // 2, (whole.shape[1] - width) // 2
        source.append(whole[top : top + height, left : left + width])
        if target is not None:
            scale = target.shape[0] // whole.shape[0]
            corner = target[top * scale :, left * scale :]
            truth.append(corner[: height * scale, : width * scale])
    by_teacher = () if teacher is None else translate(teacher, tuple(source))
    return Samples(tuple(source), by_teacher, tuple(truth))
