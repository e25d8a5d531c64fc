"""The stage in which a distilled student learns to bear INT8, and what each layer will run in."""

from __future__ import annotations

import copy
import logging
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from compress.distributed import is_first
from compress.fake_quant import channel_axis, quantizable, round_weights
from compress.features import as_generator
from compress.inputs import Inputs
from compress.lineage import write_run
from compress.looks import make_look
from compress.loop import BatchAt, Schedule
from compress.methods.ghost import ghost
from compress.methods.teaching import frozen
from compress.precision_plan import Precisions, choose_precisions
from compress.samples import choose_samples
from compress.schema.ghost import Ghost
from compress.stage import Progress, run_stage

log = logging.getLogger(__name__)


def ghosted(
    inputs: Inputs,
    options: Ghost,
    student: nn.Module,
    batch_at: BatchAt,
    folder: Path,
    progress: Progress,
) -> Precisions:
    """Choose every layer's precision, then train the student in fake INT8 beside its float self.

    The weights of layers in INT8 are in the end those that 8 bits hold.

    The choice is made once, from the weights as they were distilled (GHOST is one-shot), and holds
    for training and device alike. The student's norms keep their statistics: the export folds them.

    Args:
        inputs: What the run starts from.
        options: The recipe's ``[ghost]``.
        student: As distilled; trained further in place. It stays a float network, but for the
            values of its weights.
        batch_at: Training batches.
        folder: Where the stage's state and log go.
        progress: Told of every step.

    Raises:
        ValueError: Options that this machine or this student does not suit.
        FloatingPointError: A loss is not finite.
    """
    recipe = inputs.recipe
    student.eval()
    precisions = choose_precisions(student, mean_bits=options.mean_bits)
    log.info(
        "%d of %d layers in INT8, %.2f bits a weight",
        len(precisions.int8),
        len(precisions.layers),
        precisions.mean_bits,
    )
    itself = copy.deepcopy(student)
    # the same switches, whether the stages before ran now or in a process that was killed
    torch.manual_seed(recipe.seed)
    method = ghost(
        frozen(itself, as_generator(itself).taps),
        itself,
        student,
        int8=precisions.int8,
        attention_weight=options.attention,
        open_share=options.open_share,
        likeness=options.likeness,
        look=make_look(options.perceptual, None),
    )
    if is_first():
        write_run(folder, recipe)
    run_stage(
        f"{recipe.name}: ghost",
        method,
        batch_at,
        Schedule(options.steps, options.learning_rate, recipe.training.decay_from),
        # bfloat16 would round what 8 bits leave; and compiled would be the layers in float
        replace(recipe.training.options(seed=recipe.seed), autocast=False, compile=False),
        student=student,
        teachers=[itself],
        out=folder,
        run=inputs.run,
        progress=progress,
        samples=choose_samples(inputs.test, student, teacher=inputs.teacher.generator),
    )
    _settle(student, precisions.int8)
    return precisions


@torch.no_grad()
def _settle(student: nn.Module, int8: Collection[str]) -> None:
    """Give layers the weights that INT8 holds of theirs.

    Training by rounded weights leaves those in float wherever they round well: what was learned is
    in the rounded ones, and an engine that computes a layer in float after all must have them, too.
    """
    layers = quantizable(student)
    for name in int8:
        layers[name].weight.copy_(round_weights(layers[name].weight, channel_axis(layers[name])))
