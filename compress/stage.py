"""One stage of training: resumes where it was killed, keeps a log, shows how far it is."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Protocol, TextIO

from compress.checkpoints import load_state, save_state
from compress.loop import BatchAt, Method, Schedule, make_optimizers, train

log = logging.getLogger(__name__)

STATE = "state.safetensors"
METRICS = "metrics.jsonl"


class Progress(Protocol):
    """Somebody who wants to know how far a stage is."""

    def start(self, stage: str, total: int, done: int) -> None:
        """A stage of ``total`` steps begins, ``done`` of which were done before."""
        ...

    def step(self, step: int, losses: dict[str, float]) -> None:
        """A step is done."""
        ...


def run_stage(
    name: str,
    method: Method,
    batch_at: BatchAt,
    schedule: Schedule,
    *,
    out: Path,
    run: str,
    checkpoint_every: int,
    progress: Progress,
    betas: tuple[float, float] = (0.5, 0.999),
    autocast: bool = False,
    held_out_at: BatchAt | None = None,
) -> None:
    """Train a method to the end of its schedule, from the last checkpoint in ``out`` if any.

    Killed at any moment and started again, it ends with the same weights as if it had not been:
    batches depend on the step alone, and a state is on disk whole or not at all.

    Args:
        name: For progress.
        method: What to train, freshly built.
        batch_at: The batch of each step.
        schedule: Steps and learning rate.
        out: Where ``state.safetensors`` and ``metrics.jsonl`` go.
        run: Identifies what is run (a digest of everything it depends on); a state that was left by
            something else is not resumed.
        checkpoint_every: Steps between states.
        progress: Told of every step.
        betas: Of Adam.
        autocast: Compute convolutions in bfloat16.
        held_out_at: Batches for the updates that look at held-out images.
    """
    out.mkdir(parents=True, exist_ok=True)
    optimizers = make_optimizers(method, betas)
    done = load_state(out / STATE, method, optimizers, run=run)
    if done:
        log.info("resuming %s after step %d", name, done)
    progress.start(name, schedule.steps, done)
    with _metrics(out / METRICS, keep=done) as metrics:
        steps = train(
            method,
            batch_at,
            schedule,
            optimizers=optimizers,
            start=done,
            held_out_at=held_out_at,
            autocast=autocast,
        )
        for step, losses in enumerate(steps, start=done + 1):
            rounded = {key: float(f"{value:.6g}") for key, value in losses.items()}
            metrics.write(json.dumps({"step": step, **rounded}) + "\n")
            progress.step(step, losses)
            if step % checkpoint_every == 0 or step == schedule.steps:
                save_state(out / STATE, method, optimizers, step=step, run=run)


def _metrics(path: Path, *, keep: int) -> TextIO:
    """Open the log for appending, without the lines of steps after the checkpoint."""
    lines = path.read_text().splitlines(keepends=True)[:keep] if path.is_file() else []
    path.write_text("".join(lines))
    return path.open("a", buffering=1)  # a line is on disk as soon as its step is done
