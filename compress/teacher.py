"""Train a teacher from scratch: generator and discriminator, as pix2pix."""

from __future__ import annotations

from pathlib import Path

import torch

from compress.checkpoints import save_network
from compress.data import batches
from compress.lineage import data_digest, recipe_digest, text_digest, write_run
from compress.loop import Schedule
from compress.methods.pix2pix import pix2pix
from compress.models.discriminators import PatchDiscriminator
from compress.models.generators import (
    ResnetGenerator,
    ResnetWidths,
    initialize,
    initialize_as_identity,
)
from compress.recipe import TrainRecipe
from compress.stage import Progress, run_stage


def train_teacher(recipe: TrainRecipe, out: Path, progress: Progress) -> tuple[Path, Path]:
    """Train until the recipe's last step; resumes what is in ``out``.

    Returns:
        The generator's and the discriminator's weights, float16 safetensors.

    Raises:
        ValueError: The recipe's photos are missing or damaged.
        FloatingPointError: A loss is not finite.
    """
    pairs = recipe.data.read("train")
    torch.manual_seed(recipe.seed)
    shape, judge = recipe.generator, recipe.discriminator
    widths = ResnetWidths.uniform(shape.width, shape.blocks)
    generator = ResnetGenerator(widths, norm=shape.norm)
    if shape.initialization == "identity":
        initialize_as_identity(generator)
    else:
        initialize(generator)
    generator.train(shape.batch_statistics == "batch")
    discriminator = initialize(PatchDiscriminator(6, judge.width, norm=judge.norm))
    losses, training = recipe.losses, recipe.training
    write_run(out, recipe)
    run_stage(
        recipe.name,
        pix2pix(
            generator,
            discriminator,
            adversarial_weight=losses.adversarial,
            reconstruction_weight=losses.reconstruction,
            mode=losses.mode,
        ),
        batches(pairs, size=training.crop, batch_size=training.batch_size, seed=recipe.seed),
        Schedule(training.steps, training.learning_rate, training.decay_from),
        out=out,
        run=text_digest(recipe_digest(recipe), data_digest(pairs)),
        checkpoint_every=training.checkpoint_every,
        progress=progress,
        betas=training.betas,
        autocast=training.autocast,
    )
    paths = out / "generator.safetensors", out / "discriminator.safetensors"
    save_network(paths[0], generator, half=True)
    save_network(paths[1], discriminator, half=True)
    return paths
