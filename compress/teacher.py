"""Train a teacher from scratch: generator and discriminator, or CycleGAN's four."""

from __future__ import annotations

from pathlib import Path

import torch

from compress.assemble import teacher_method
from compress.checkpoints import save_network
from compress.data.sampling import batches
from compress.device import batch_threads
from compress.distributed import is_first
from compress.lineage import recipe_digest, text_digest, write_run
from compress.networks import learns_statistics, make_discriminator, make_generator
from compress.recipe import TrainRecipe
from compress.samples import choose_samples
from compress.stage import Progress, run_stage


def train_teacher(recipe: TrainRecipe, out: Path, progress: Progress) -> tuple[Path, ...]:
    """Train until the recipe's last step; resumes what is in ``out``.

    Returns:
        The networks' weights, float16 safetensors: generator and discriminator; of a CycleGAN the
        other direction's, too.

    Raises:
        ValueError: The recipe's photos are missing or damaged.
        FloatingPointError: A loss is not finite.
    """
    pairs = recipe.data.read("train")
    torch.manual_seed(recipe.seed)
    generator = make_generator(recipe.generator)
    generator.train(learns_statistics(recipe.generator))
    discriminator = make_discriminator(recipe.discriminator, recipe.data.task)
    method, networks = teacher_method(recipe, generator, discriminator)
    training = recipe.training
    if is_first():
        write_run(out, recipe)
    run_stage(
        recipe.name,
        method,
        batches(
            pairs,
            size=training.crop,
            batch_size=training.batch_size,
            seed=recipe.seed,
            workers=batch_threads(),
        ),
        training.schedule(),
        training.options(seed=recipe.seed),
        student=generator,
        out=out,
        run=text_digest(recipe_digest(recipe), pairs.digest()),
        progress=progress,
        samples=choose_samples(recipe.data.read("test"), generator),
    )
    if is_first():
        for name, network in networks.items():
            save_network(out / f"{name}.safetensors", network, half=True)
    return tuple(out / f"{name}.safetensors" for name in networks)
