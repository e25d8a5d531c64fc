"""What a person sees of a training: a bar with speed, losses and time left, or lines in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from deploy.artifacts import StudentExport

LINE_EVERY_S = 10.0


class TrainingProgress:
    """A live bar on a terminal, a line every ten seconds elsewhere.

    Losses shown are running means: single steps of a GAN say nothing.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(file=sys.stderr)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[speed]}"),
            TextColumn("{task.fields[losses]}"),
            console=self._console,
        )
        self._task = TaskID(0)
        self._means: dict[str, float] = {}
        self._total = self._done = self._images = 0
        self._begun = self._printed = 0.0

    def __enter__(self) -> TrainingProgress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def start(self, stage: str, total: int, done: int, images: int) -> None:
        """A stage of ``total`` steps of ``images`` each begins; ``done`` were done before."""
        self._means, self._total, self._done, self._images = {}, total, done, images
        self._begun = self._printed = time.monotonic()
        self._task = self._bar.add_task(stage, total=total, completed=done, losses="", speed="")
        if self._console.is_terminal:
            self._bar.start()
        else:
            resumed = f", resuming after step {done}" if done else ""
            self._console.print(f"{stage}: {total} steps{resumed}")

    def step(self, step: int, losses: dict[str, float]) -> None:
        """A step is done."""
        for name, value in losses.items():
            self._means[name] = 0.95 * self._means.get(name, value) + 0.05 * value
        text = "  ".join(f"{name} {value:.3g}" for name, value in self._means.items())
        now = time.monotonic()
        pace = (now - self._begun) / (step - self._done)  # seconds a step
        speed = f"{self._images / pace:.3g} images/s" if pace else ""
        self._bar.update(self._task, completed=step, losses=text, speed=speed)
        if not self._console.is_terminal and (
            now - self._printed > LINE_EVERY_S or step == self._total
        ):
            self._printed = now
            left = pace * (self._total - step)
            self._console.print(
                f"  {step}/{self._total}  {left:.0f} s left  {speed}  {text}", soft_wrap=True
            )


def summary(export: StudentExport, *, made: bool) -> str:
    """A student export in a few lines."""
    face = export.manifest
    model, teacher, near = face.model, face.teacher, face.student_to_teacher
    assert teacher is not None  # only a model that was not compressed has none
    assert near is not None
    lines = [
        f"{export.path}{'' if made else '  (up to date)'}",
        f"  MACs    {model.macs / 1e9:.2f} G, teacher {teacher.macs / 1e9:.2f} G: "
        f"{teacher.macs / model.macs:.1f}x fewer (published convention "
        f"{model.macs_published / 1e9:.2f} G, {teacher.macs_published / 1e9:.2f} G)",
        f"  params  {model.params / 1e6:.3f} M, teacher {teacher.params / 1e6:.3f} M",
    ]
    ours = face.student
    if ours is not None and teacher.psnr_db is not None and teacher.ssim is not None:
        lines.append(
            f"  to the truth    PSNR {ours.psnr_db:.2f} dB (teacher {teacher.psnr_db:.2f}), "
            f"SSIM {ours.ssim:.4f} (teacher {teacher.ssim:.4f})"
        )
    lines.append(f"  to the teacher  PSNR {near.psnr_db:.2f} dB, SSIM {near.ssim:.4f}")
    return "\n".join(lines)
