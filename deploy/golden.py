"""The golden pairs: images that every engine must reproduce, and what they are measured against."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from deploy.imaging import Pixels, PixelSpec, from_model
from devices.session import Images

Reference = Literal["truth", "teacher", "float student"]


@dataclass(frozen=True)
class GoldenPairs:
    """Images every engine must reproduce.

    Attributes:
        source: Inputs, (N, H, W, 3).
        student: What the float student made of them where it came from (in torch; an adopted one
            in ONNX Runtime), (N, 3, H, W) as its `PixelSpec` says.
        target: The truth, (N, H, W, 3), or None.
        teacher: What the teacher made of them, (N, H, W, 3), or None.
    """

    source: Pixels
    student: Images
    target: Pixels | None
    teacher: Pixels | None

    @classmethod
    def read(cls, path: Path) -> GoldenPairs:
        """Read ``golden.npz``."""
        with np.load(path, allow_pickle=False) as arrays:
            target, teacher = (
                arrays[name] if name in arrays.files else None for name in ("target", "teacher")
            )
            return cls(arrays["source"], arrays["student"], target, teacher)

    def write(self, path: Path) -> None:
        """Write ``golden.npz``."""
        known = {"teacher": self.teacher, "target": self.target}
        np.savez_compressed(
            path,
            allow_pickle=False,
            source=self.source,
            student=self.student,
            **{name: images for name, images in known.items() if images is not None},
        )

    def reference(self, spec: PixelSpec) -> tuple[Reference, Pixels]:
        """What quality is measured against, and its name: the best that is known.

        The truth; where there is none the teacher's images; where there is no teacher the float
        student's, rounded to 8 bits.

        Args:
            spec: How the student sees pixels.
        """
        if self.target is not None:
            return "truth", self.target
        if self.teacher is not None:
            return "teacher", self.teacher
        return "float student", from_model(self.student, spec)
