"""The stages in which a student learns: its recipe's method, from the first step to the last."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from compress.assemble import student_method
from compress.curves import write_curves
from compress.distributed import is_first
from compress.inputs import Inputs
from compress.lineage import write_run
from compress.loop import BatchAt, Method, Schedule
from compress.methods.cyclegan import BestSoFar
from compress.methods.data_free import noise_batches
from compress.methods.dgl import guided
from compress.models.families import specification
from compress.samples import choose_samples
from compress.schema.data_free import DataFreeMethod
from compress.schema.dgl import Guidance
from compress.schema.methods import Taught
from compress.score import domain_score
from compress.stage import METRICS, Progress, run_stage

log = logging.getLogger(__name__)

ALONE = "alone"
"""Where the stage before the second critic leaves its state and its log."""

CURVES = "curves.html"


@dataclass(frozen=True)
class _Source:
    """What a method learns from.

    Attributes:
        batch_at: The batch of each step.
        held_out_at: Batches for the updates that look at held-out images.
    """

    batch_at: BatchAt
    held_out_at: BatchAt | None = None

    def after(self, steps: int) -> _Source:
        """The same for a stage that goes on where another ended."""
        batch_at, held_out_at = self.batch_at, self.held_out_at
        return _Source(
            lambda step: batch_at(step + steps),
            None if held_out_at is None else lambda step: held_out_at(step + steps),
        )


def distill(
    inputs: Inputs, student: nn.Module, folder: Path, progress: Progress, *, rounds: int = 1
) -> Mapping[str, nn.Module]:
    """Train a student by the recipe's method; resumes where it was killed.

    Args:
        inputs: What the run starts from.
        student: Learns, in place.
        folder: Where the state, the log and the drawings go.
        progress: Told of every step.
        rounds: Trainings that share the recipe's steps; this is one of them.

    Returns:
        The method's networks.

    Raises:
        ValueError: Something in the recipe does not fit.
        FloatingPointError: A loss is not finite.
    """
    recipe = inputs.recipe
    log.info("student: %s", specification(student))
    if is_first():
        write_run(folder, recipe)
    whole = recipe.training.schedule()
    schedule = replace(whole, steps=whole.steps // rounds)
    method, source = _method(inputs, student, steps=schedule.steps), _source(inputs)
    name = f"{recipe.name}: {recipe.method.name}"
    guidance, critic = recipe.guidance, inputs.teacher.critic
    if guidance is not None:
        assert critic is not None  # the recipe's own check
        both = guided(method, critic, weight=guidance.weight, mode=guidance.mode)
        first, schedule = _parted(guidance, schedule)
        if first.steps:
            place = folder / ALONE
            _stage(inputs, f"{name}, alone", method, source, first, student, place, progress)
            source = source.after(first.steps)
        method, name = both, f"{name}, guided"
    _stage(inputs, name, method, source, schedule, student, folder, progress)
    if is_first() and any(u.network.endswith("discriminator") for u in method.updates):
        write_curves(logs_of(folder), folder / CURVES)
    followed = method.networks.get("followed")
    if isinstance(followed, BestSoFar):
        # the teacher that the student is compared with is the one that it followed
        inputs.teacher.generator.load_state_dict(followed.best.state_dict())
    return method.networks


def logs_of(folder: Path) -> list[Path]:
    """Logs of a training, of the stage before a second critic first."""
    return [log for log in (folder / ALONE / METRICS, folder / METRICS) if log.is_file()]


def _stage(
    inputs: Inputs,
    name: str,
    method: Method,
    source: _Source,
    schedule: Schedule,
    student: nn.Module,
    folder: Path,
    progress: Progress,
) -> None:
    recipe, side = inputs.recipe, inputs.teacher
    run_stage(
        name,
        method,
        source.batch_at,
        schedule,
        recipe.training.options(seed=recipe.seed),
        student=student,
        teachers=[t for t in (side.generator, side.deeper) if t is not None],
        out=folder,
        run=inputs.run,
        progress=progress,
        held_out_at=source.held_out_at,
        samples=choose_samples(inputs.test, student, teacher=side.generator),
    )


def _parted(guidance: Guidance, schedule: Schedule) -> tuple[Schedule, Schedule]:
    """The steps before the second critic, at the full rate, and those with it."""
    alone = min(round(guidance.alone * schedule.steps), schedule.steps - 1)
    rest = schedule.steps - alone
    falls = max(0.0, schedule.decay_from * schedule.steps - alone) / rest
    return (
        replace(schedule, steps=alone, decay_from=1.0),
        replace(schedule, steps=rest, decay_from=falls),
    )


def _source(inputs: Inputs) -> _Source:
    recipe, options = inputs.recipe, inputs.recipe.method
    if isinstance(options, DataFreeMethod):
        return _Source(
            noise_batches(
                noise=options.noise,
                size=recipe.training.crop,
                batch_size=recipe.training.batch_size,
                seed=recipe.seed,
            )
        )
    aside = None if inputs.aside is None else inputs.batches(inputs.aside)
    return _Source(inputs.batches(), aside)


def _method(inputs: Inputs, student: nn.Module, *, steps: int) -> Method:
    recipe, side = inputs.recipe, inputs.teacher
    online = isinstance(recipe.method, Taught) and recipe.method.online_teacher
    score = online and recipe.data.task == "unpaired"
    for generator in (side.generator, side.deeper, side.back):
        if generator is not None:
            generator.train(online and recipe.teacher.batch_statistics == "batch")
    return student_method(
        recipe.method,
        side,
        student,
        task=recipe.data.task,
        crop=recipe.training.crop,
        steps=steps,
        score=domain_score(inputs.train, recipe.method.perceptual) if score else None,
    )
