"""One stage of training: resumes where it was killed, keeps a log, shows how far it is."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TextIO

import torch
from torch import nn

from compress.checkpoints import load_state, save_state
from compress.compiled import compiled
from compress.device import choose_device, placed, reproducible
from compress.distributed import is_first, take_from_first
from compress.ema import average_of, settle
from compress.loop import BatchAt, Method, Schedule, make_optimizers, train
from compress.precision import in_bfloat16
from compress.samples import Samples
from compress.tensorboard import Board

log = logging.getLogger(__name__)

STATE = "state.safetensors"
METRICS = "metrics.jsonl"
SAMPLES = "samples.png"
BOARD = "tensorboard"


class Progress(Protocol):
    """Somebody who wants to know how far a stage is."""

    def start(self, stage: str, total: int, done: int, images: int) -> None:
        """A stage of ``total`` steps of ``images`` each begins; ``done`` were done before."""
        ...

    def step(self, step: int, losses: dict[str, float]) -> None:
        """A step is done."""
        ...


@dataclass(frozen=True)
class Options:
    """How a stage computes, and what it keeps; `compress.schema.training.Training` says more.

    Attributes:
        checkpoint_every: Steps between states.
        seed: Of what a method draws at random.
        betas: Of Adam.
        autocast: Compute convolutions in bfloat16.
        channels_last: Keep images and weights channels-last in networks that gain by it.
        compile: Compile the generators' blocks.
        accumulate: Parts that a batch is computed in.
        ema: Share of the student's average that stays at each step; 0: no average.
        tensorboard: Also write for TensorBoard.
    """

    checkpoint_every: int
    seed: int = 0
    betas: tuple[float, float] = (0.5, 0.999)
    autocast: bool = False
    channels_last: bool = False
    compile: bool = False
    accumulate: int = 1
    ema: float = 0.0
    tensorboard: bool = False


def run_stage(
    name: str,
    method: Method,
    batch_at: BatchAt,
    schedule: Schedule,
    options: Options,
    *,
    student: nn.Module,
    teachers: Sequence[nn.Module] = (),
    out: Path,
    run: str,
    progress: Progress,
    held_out_at: BatchAt | None = None,
    samples: Samples | None = None,
) -> None:
    """Train a method to the end of its schedule, from the last checkpoint in ``out`` if any.

    Killed at any moment and started again, it ends with the same weights as if it had not been:
    batches depend on the step alone, and a state is on disk whole or not at all.

    Networks come and go on the CPU; in between they are where `choose_device` says. Of several
    processes (`compress.distributed`) all train and end with the same weights, the first one
    writes; ``out`` is a folder that all of them see.

    Args:
        name: For progress.
        method: What to train, freshly built.
        batch_at: The batch of each step.
        schedule: Steps and learning rate.
        options: How it computes, and what it keeps.
        student: The generator that the stage is for: averaged, drawn, and at the end its own
            average. A part of the method's networks.
        teachers: Networks that the method looks at and need not train.
        out: Where the state, ``metrics.jsonl`` and ``samples.png`` go.
        run: Identifies what is run (a digest of everything it depends on); a state that was left by
            something else is not resumed.
        progress: Told of every step.
        held_out_at: Batches for the updates that look at held-out images.
        samples: Drawn with every state.

    Raises:
        ValueError: This machine, or the batch size, does not suit the options.
        FloatingPointError: A loss is not finite.
    """
    out.mkdir(parents=True, exist_ok=True)
    device = choose_device()
    networks = [*method.networks.values(), student, *teachers]
    with contextlib.ExitStack() as stack:
        channels_last = stack.enter_context(
            placed(networks, device, channels_last=options.channels_last)
        )
        stack.enter_context(reproducible(device))
        average = average_of(student, options.ema) if options.ema else None
        kept = method
        if average is not None:
            kept = replace(method, networks={**method.networks, "average": average})
        optimizers = make_optimizers(method, options.betas)
        done = load_state(out / STATE, kept, optimizers, run=run)
        _agree(networks, done, out)
        if options.compile:
            stack.enter_context(compiled([student, *teachers], device))
        if options.autocast:
            method = in_bfloat16(method, device)
        watch = stack.enter_context(_watch(out, options, progress, done)) if is_first() else None
        if watch is not None:
            images = len(batch_at(done + 1).source) if done < schedule.steps else 0
            progress.start(name, schedule.steps, done, images)
        steps = train(
            method,
            batch_at,
            schedule,
            optimizers=optimizers,
            start=done,
            held_out_at=held_out_at,
            channels_last=channels_last,
            accumulate=options.accumulate,
            seed=options.seed,
        )
        for step, losses in enumerate(steps, start=done + 1):
            if average is not None:
                average.update_parameters(student)
            if watch is None:
                continue
            watch.step(step, losses)
            if step % options.checkpoint_every == 0 or step == schedule.steps:
                save_state(out / STATE, kept, optimizers, step=step, run=run)
                if samples is not None:
                    watch.draw(step, samples, student if average is None else average.module)
        if average is not None:
            settle(student, average)


def _agree(networks: Sequence[nn.Module], done: int, out: Path) -> None:
    """Start all processes with the weights of the first.

    Raises:
        ValueError: They did not find the same state.
    """
    steps = torch.tensor([done], device=next(networks[0].parameters()).device)
    take_from_first([steps])
    if int(steps) != done:
        raise ValueError(
            f"the first process found step {int(steps)} in {out}, this one step {done}: give a "
            "folder that all processes share"
        )
    take_from_first(t for n in networks for t in (*n.parameters(), *n.buffers()))


@dataclass(frozen=True)
class _Watch:
    """What the first process shows and writes."""

    out: Path
    metrics: TextIO
    board: Board | None
    progress: Progress
    eager: bool  # draw without compiled code, which was made for the size of crops

    def step(self, step: int, losses: dict[str, float]) -> None:
        rounded = {key: float(f"{value:.6g}") for key, value in losses.items()}
        self.metrics.write(json.dumps({"step": step, **rounded}) + "\n")
        if self.board is not None:
            self.board.scalars(step, losses)
        self.progress.step(step, losses)

    def draw(self, step: int, samples: Samples, student: nn.Module) -> None:
        with torch.compiler.set_stance("force_eager") if self.eager else contextlib.nullcontext():
            sheet = samples.draw(student)
        part = self.out / f".{SAMPLES}"
        sheet.save(part, format="PNG", compress_level=1)
        part.replace(self.out / SAMPLES)
        if self.board is not None:
            self.board.image(step, "samples", sheet)


@contextlib.contextmanager
def _watch(out: Path, options: Options, progress: Progress, done: int) -> Iterator[_Watch]:
    with contextlib.ExitStack() as stack:
        metrics = stack.enter_context(_metrics(out / METRICS, keep=done))
        board = None
        if options.tensorboard:
            board = stack.enter_context(Board(out / BOARD, done=done))
        yield _Watch(out, metrics, board, progress, eager=options.compile)


def _metrics(path: Path, *, keep: int) -> TextIO:
    """Open the log for appending, without the lines of steps after the checkpoint."""
    lines = path.read_text().splitlines(keepends=True)[:keep] if path.is_file() else []
    path.write_text("".join(lines))
    return path.open("a", buffering=1)  # a line is on disk as soon as its step is done
