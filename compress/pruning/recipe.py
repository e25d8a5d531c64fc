"""From a recipe's ``[pruning]`` to widths, a ranking, and a narrower network."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from torch import nn

from compress.kept import once
from compress.loop import BatchAt
from compress.pruning.budget import (
    Budget,
    Widths,
    latency_budget,
    macs_budget,
    params_budget,
    plan,
)
from compress.pruning.importance import Ranking, make_ranking
from compress.pruning.latency import measured_here
from compress.pruning.prune import prune, renewed
from compress.schema.pruning import DEFAULT_BATCHES, LOOKING, Pruning
from devices.profile import DeviceProfile

Network = TypeVar("Network", bound=nn.Module)


def widths_of(
    options: Pruning,
    teacher: nn.Module,
    profile: DeviceProfile,
    *,
    image_size: int,
    kept: Path,
    run: str,
) -> tuple[Widths, ...]:
    """The widths after each round, the same whenever a run asks.

    A latency is never measured twice the same, and a run that was killed must go on with the
    student it had: so the widths are written down.

    Args:
        options: The ``[pruning]`` table.
        teacher: What the student is made from.
        profile: The device it is for.
        image_size: Height and width that MACs are counted at, in pixels.
        kept: The file to keep them in.
        run: Identifies the run; widths that another has left are not taken.

    Raises:
        ValueError: As `compress.pruning.budget.plan` and `budget_of`.
        DeviceError: A latency, and ONNX Runtime is not here.
        OSError: The file could not be written.
    """
    return tuple(
        once(
            kept,
            run,
            lambda: plan(
                teacher,
                budget_of(options, teacher, profile, image_size=image_size),
                channel_multiple=profile.channel_multiple,
                outer_share=options.outer_share,
                rounds=options.rounds,
            ),
        )
    )


def narrowed(
    options: Pruning, network: Network, widths: Mapping[str, int], ranking: Ranking
) -> Network:
    """One round: a copy of the network with these widths, and its weights or fresh ones.

    Raises:
        ValueError: As `compress.pruning.prune.prune`.
    """
    student = prune(network, widths, ranking)
    return student if options.weights == "inherit" else renewed(student)


def budget_of(
    options: Pruning, teacher: nn.Module, profile: DeviceProfile, *, image_size: int
) -> Budget:
    """What the student may cost.

    Args:
        options: The ``[pruning]`` table.
        teacher: What it is made from.
        profile: The device it is for.
        image_size: Height and width that MACs are counted at, in pixels.

    Raises:
        ValueError: A latency, and this machine is of another kind than the device.
        DeviceError: A latency, and ONNX Runtime is not here.
    """
    if options.macs_reduction is not None:
        return macs_budget(teacher, options.macs_reduction, image_size=image_size)
    if options.params_reduction is not None:
        return params_budget(teacher, options.params_reduction)
    assert options.latency_ms is not None
    if platform.machine() != profile.architecture:
        raise ValueError(
            f"latency_ms is measured on this machine, which is {platform.machine()}, and "
            f"{profile.name} is {profile.architecture}: compress on the board, or give "
            "macs_reduction"
        )
    return latency_budget(options.latency_ms, measured_here(teacher, profile))


def ranking_of(
    options: Pruning,
    batch_at: BatchAt | None,
    discriminator: nn.Module | None,
    *,
    fresh_discriminator: bool,
    seed: int,
) -> Ranking:
    """Which channels stay.

    Args:
        options: The ``[pruning]`` table.
        batch_at: Training batches, for an importance that looks at images.
        discriminator: The teacher's.
        fresh_discriminator: Whether it has learned nothing yet.
        seed: The recipe's.

    Raises:
        ValueError: The discriminator is asked, and there is none or it has nothing to say.
    """
    importance = options.importance or "magnitude"  # any: only the widths are kept
    if importance == "discriminator" and fresh_discriminator:
        raise ValueError(
            "importance = 'discriminator' asks the teacher's discriminator, and [teacher] gives "
            "none that is trained: give its file, or take taylor"
        )
    seen = []
    if importance in LOOKING and batch_at is not None:
        seen = [batch_at(step) for step in range(1, (options.batches or DEFAULT_BATCHES) + 1)]
    return make_ranking(
        importance,
        batches=seen,
        discriminator=discriminator,
        seed=seed,
    )
