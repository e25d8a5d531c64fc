"""The stages of a run that find widths as MGGC does.

1. neighbourhoods   samples of the training images, translated by the teacher, and who is near whom
2. agents           learn which channels stay; resumes where it was killed
3. hardening        what they want is cut to the budgets, and both networks are pruned

Fine-tuning follows, by the method of the recipe.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from compress.data.sampling import batches
from compress.device import choose_device, placed, reproducible
from compress.distributed import first_alone, is_first, processes
from compress.features import as_generator
from compress.inputs import Inputs
from compress.kept import once, remembered
from compress.lineage import write_run
from compress.looks import make_look
from compress.loop import Schedule
from compress.methods.manifold import (
    Embed,
    find_manifold,
    neighbourhood_batches,
    pooled_features,
    pooled_pixels,
)
from compress.methods.mggc import Player, Weights, decide, mggc
from compress.models.families import Discriminator
from compress.pruning.agents import PruningAgent
from compress.pruning.chain import chain
from compress.pruning.gating import Gated
from compress.pruning.hardening import Kept, harden, pruned, require_reach
from compress.pruning.recipe import budget_of
from compress.pruning.resources import Limit, macs_limit
from compress.pruning.structure import structure
from compress.pruning.surrogate import fit_latency, latency_limit
from compress.schema.mggc import Agents
from compress.schema.pruning import Pruning
from compress.stage import Progress, run_stage
from devices.profile import DeviceProfile

log = logging.getLogger(__name__)

FOLDER = "agents"
"""Where the agents leave their state and their log, in the folder of the run."""

PLAN = "plan.json"
"""The channels that stay in both networks, once they are known."""

MEASURED = "latency.json"
"""What was fitted to measurements, which are never twice the same."""

DECAY_FROM = 0.8
"""Share of the agents' steps after which their learning rate falls; NPPM's."""

BETAS = (0.9, 0.999)
"""Of the agents' Adam, its defaults; those of the recipe are for the networks' weights."""


def search_pair(
    inputs: Inputs, options: Agents, profile: DeviceProfile, folder: Path, progress: Progress
) -> tuple[nn.Module, nn.Module]:
    """Prune a teacher and its discriminator as two agents want it.

    Args:
        inputs: What the run starts from.
        options: The ``[agents]`` table.
        profile: The device the student is for: its widths are multiples of ``channel_multiple``.
        folder: Of the run; the agents resume from what is there.
        progress: Told of every step.

    Returns:
        The pruned generator and the pruned discriminator; teacher and discriminator stay.

    Raises:
        ValueError: A budget is out of reach, there is no trained discriminator, or one of the
            networks cannot be pruned.
        FloatingPointError: A loss is not finite.
        DeviceError: A latency, and ONNX Runtime is not here.
        OSError: A file could not be written.
    """
    generator, judge, out = inputs.teacher.generator, _judge(inputs), folder / FOLDER
    if (options.neighbours + 1) % processes():
        raise ValueError(
            f"neighbours = {options.neighbours} and their centre cannot be shared evenly by "
            f"{processes()} processes: take another number of either"
        )
    generator.eval()
    judge.train()  # by the statistics of what it sees, as it learned to judge
    gated = Gated.of(generator, structure(generator)), Gated.of(judge, chain(judge))
    plan = remembered(out / PLAN, inputs.run)
    if plan is None:
        torch.manual_seed(inputs.recipe.seed)  # the agents' first weights
        players = (
            _player(gated[0], _limit(inputs, options, profile, gated[0], out)),
            _player(gated[1], _judge_limit(inputs, options, gated[1])),
        )
        multiples = (profile.channel_multiple, 1)  # the discriminator runs on no device
        if is_first():
            names = ("the student", "the discriminator (discriminator_reduction)")
            for player, multiple, name in zip(players, multiples, names, strict=True):
                # before the training, not after
                require_reach(
                    player.gated.structure, player.limit, channel_multiple=multiple, of=name
                )
        _train(inputs, options, players, out, progress)

        def harden_both() -> dict[str, Kept]:
            painted, judged = (
                _hardened(player, peer, options, multiple)
                for player, peer, multiple in zip(players, players[::-1], multiples, strict=True)
            )
            return {"generator": painted, "discriminator": judged}

        with first_alone():
            plan = once(out / PLAN, inputs.run, harden_both)
    for name, kept in plan.items():
        log.info("%s: %s", name, {coupling: len(channels) for coupling, channels in kept.items()})
    return (
        pruned(generator, gated[0].structure, plan["generator"]),
        pruned(judge, gated[1].structure, plan["discriminator"]),
    )


def _train(
    inputs: Inputs,
    options: Agents,
    players: tuple[Player, Player],
    out: Path,
    progress: Progress,
) -> None:
    """The agents learn, on neighbourhoods of the teacher's manifold."""
    recipe, training = inputs.recipe, inputs.recipe.training
    generator, judge = (player.gated.network for player in players)
    embed = _embedding(options, judge)
    sample_at = batches(inputs.train, size=training.crop, batch_size=1, seed=recipe.seed)
    device = choose_device()
    with placed([generator, judge], device), reproducible(device):
        manifold = find_manifold(
            generator,
            sample_at,
            samples=options.samples,
            neighbours=options.neighbours,
            embed=embed,
        )
    if is_first():
        write_run(out, recipe)
    painter, critic = players
    run_stage(
        f"{recipe.name}: agents",
        mggc(
            painter,
            critic,
            weights=Weights(
                adversarial=options.adversarial,
                kernel_density=options.kernel_density,
                imitation=options.imitation,
                resource=options.resource,
            ),
            embed=embed,
            bandwidth=manifold.bandwidth,
            temperature=options.temperature,
            feedback=options.feedback,
            mode=options.mode,
        ),
        neighbourhood_batches(manifold, sample_at, seed=recipe.seed),
        Schedule(options.steps, options.learning_rate, DECAY_FROM),
        # a neighbourhood is looked at as a whole (several processes: a share of it each), and
        # agents are no generators
        replace(
            training.options(seed=recipe.seed),
            betas=BETAS,
            ema=0.0,
            compile=False,
            channels_last=False,
            accumulate=1,
        ),
        student=painter.agent,
        teachers=[generator, judge],
        out=out,
        run=inputs.run,
        progress=progress,
    )


def _hardened(player: Player, peer: Player, options: Agents, multiple: int) -> Kept:
    with torch.no_grad():
        logits = decide(player, peer, feedback=options.feedback).logits
    return harden(player.gated.structure, logits, player.limit, channel_multiple=multiple)


def _judge(inputs: Inputs) -> nn.Module:
    judge = inputs.teacher.discriminator
    if judge is None or inputs.teacher.fresh_discriminator:
        raise ValueError(
            "[agents] prunes a generator and its discriminator together, and [teacher] gives no "
            "discriminator that is trained: give its file, or take [pruning]"
        )
    return judge


def _player(gated: Gated, limit: Limit) -> Player:
    return Player(gated, PruningAgent([c.channels for c in gated.structure.couplings]), limit)


def _judge_limit(inputs: Inputs, options: Agents, gated: Gated) -> Limit:
    """The discriminator's budget, counted at the size that it sees."""
    assert isinstance(gated.network, Discriminator)
    return macs_limit(
        gated,
        options.discriminator_reduction,
        image_size=inputs.recipe.training.crop * as_generator(inputs.teacher.generator).scale,
        channels=gated.network.channels,
    )


def _limit(
    inputs: Inputs, options: Agents, profile: DeviceProfile, gated: Gated, out: Path
) -> Limit:
    """The student's budget."""
    image_size = inputs.recipe.image_size
    if options.latency_ms is None:
        assert options.macs_reduction is not None
        return macs_limit(gated, options.macs_reduction, image_size=image_size)
    # refuses a device that this machine is not, and measures at the profile's size
    budget = budget_of(
        Pruning(latency_ms=options.latency_ms, weights="initialize"),
        gated.network,
        profile,
        image_size=image_size,
    )
    step = as_generator(gated.network).multiple
    size = step * -(-profile.image_size // step)

    def fit() -> list[float]:
        return fit_latency(
            gated,
            budget.reached,
            image_size=size,
            channel_multiple=profile.channel_multiple,
            seed=inputs.recipe.seed,
        )

    with first_alone():
        coefficients = once(out / MEASURED, inputs.run, fit)
    return latency_limit(gated, options.latency_ms, budget.reached, coefficients, image_size=size)


def _embedding(options: Agents, judge: nn.Module) -> Embed:
    if options.embedding == "pixels":
        return pooled_pixels
    look = make_look(options.embedding, judge)
    assert look is not None
    return pooled_features(look)
