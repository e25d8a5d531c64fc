"""Make a network narrower: `plan` says how far, a ranking says which channels, this does it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeVar, cast

import torch
from torch import nn

from compress.models.blocks import initialize
from compress.models.families import build, specification
from compress.pruning.budget import Budget, plan
from compress.pruning.importance import Ranking
from compress.pruning.structure import structure, without

Network = TypeVar("Network", bound=nn.Module)
Weights = Literal["inherit", "initialize"]


def prune(network: Network, widths: Mapping[str, int], ranking: Ranking) -> Network:
    """A copy of a network with the highest-ranking channels of every coupling.

    Args:
        network: A generator; stays as it is.
        widths: Channels left of each coupling, by name, as `compress.pruning.budget.plan` has them.
        ranking: Scores the channels of the network as it is now.

    Raises:
        ValueError: Widths of another network, or of a wider one.
    """
    whole = structure(network)
    if widths.keys() != whole.widths.keys():
        strange = sorted(widths.keys() ^ whole.widths.keys())
        raise ValueError(f"these widths are not {type(network).__name__}'s: {strange[:5]} differ")
    wider = {n: k for n, k in widths.items() if k > whole.widths[n]}
    if wider:
        raise ValueError(f"pruning makes no layer wider: {wider} of {whole.widths}")
    gone = [
        # unstable sorts differ between machines where channels are equal
        torch.argsort(score, stable=True)[: coupling.channels - widths[coupling.name]].tolist()
        for coupling, score in zip(whole.couplings, ranking(network, whole), strict=True)
    ]
    return without(network, whole, gone)


def renewed(network: Network) -> Network:
    """A network of the same widths with fresh weights, as GCC trains its pruned students."""
    fresh = initialize(build(specification(network))).train(network.training)
    return cast(Network, fresh.to(next(network.parameters()).device))


def prune_to_budget(
    network: Network,
    budget: Budget,
    *,
    channel_multiple: int,
    ranking: Ranking,
    outer_share: float | None = None,
    rounds: int = 1,
    weights: Weights = "inherit",
) -> Network:
    """A pruned copy within the budget; the original stays.

    Args:
        network: A generator.
        budget: What the copy may cost.
        channel_multiple: As in `compress.pruning.budget.plan`.
        ranking: Which channels stay; asked again in every round.
        outer_share: As in `compress.pruning.budget.plan`.
        rounds: In how many steps the channels go. Training between them is the caller's: see
            `plan` and `prune`.
        weights: ``inherit`` the teacher's, or ``initialize`` fresh ones.

    Raises:
        ValueError: As `plan`.
    """
    student = network
    for widths in plan(
        network,
        budget,
        channel_multiple=channel_multiple,
        outer_share=outer_share,
        rounds=rounds,
    ):
        student = prune(student, widths, ranking)
    return student if weights == "inherit" else renewed(student)
