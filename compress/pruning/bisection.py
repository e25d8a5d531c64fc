"""GCC's second stage: one threshold for all channels of a network, found by bisection.

Li et al., NeurIPS 2021. Every channel that does not stand out above the threshold goes, whichever
layer it is in, so layers lose different shares; a residual block of which nothing is left goes as a
whole, and so do the innermost levels of a U-Net.

What is ours: widths are rounded to the device's channel multiple, and where that leaves the student
below its budget, the strongest channels that went come back as long as they fit, or in exchange for
others; channels that have no number to stand for them (both ends of a U-Net) keep the share that
the others keep.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

import torch
import torch_pruning as tp
from torch import Tensor, nn

from compress.models.blocks import Network
from compress.models.generators import ResnetBlock, ResnetGenerator
from compress.models.mobile import MobileResnetBlock, MobileResnetGenerator
from compress.models.unet import UnetBlock, UnetGenerator
from compress.pruning.budget import Budget, Widths
from compress.pruning.importance import magnitude
from compress.pruning.sparsity import Standing
from compress.pruning.structure import Structure, without

CLOSE = 0.002
"""A budget met to this share is met: nothing more is brought back."""

NEAR = 0.02
"""A student that rounding leaves further below its budget exchanges channels between layers."""

KEPT_LEVELS = 5
"""Levels of a U-Net that stay: distillation looks at the first five."""

Removable = Mapping[str, str]
"""The module that goes when nothing of a coupling is left, by the coupling's name."""

Ranks = Mapping[str, Tensor]
"""How much the channels of a coupling stand out, the strongest first, by the coupling's name."""

Reached = Callable[[Widths], float]
"""What a network of these widths reaches, in the unit of its budget."""

BLOCKS = (ResnetBlock, MobileResnetBlock)


def bisect(
    network: nn.Module,
    structure: Structure,
    standing: Standing,
    budget: Budget,
    *,
    channel_multiple: int,
) -> Widths:
    """The widths of the widest network within a budget that one threshold leaves.

    Args:
        network: A generator; stays as it is.
        structure: Its couplings.
        standing: How much each channel stands out.
        budget: What the student may cost.
        channel_multiple: Channels left are multiples of this where there are as many; 1 for the
            paper's own.

    Returns:
        Channels left of every coupling; 0 where a block or a level goes.

    Raises:
        ValueError: The budget is out of reach.
    """
    parts = removable(network, structure)
    known: dict[tuple[int, ...], float] = {}  # many thresholds round to the same widths

    def reached(widths: Widths) -> float:
        left = tuple(widths.values())
        if left not in known:
            known[left] = budget.reached(slimmed(network, structure, standing, widths))
        return known[left]

    def above(threshold: float) -> Widths:
        return _above(structure, standing, parts, threshold, channel_multiple)

    scored = torch.cat([scores for scores in standing if scores is not None])
    thresholds = [-1.0, *sorted(set(scored.tolist()))]  # the first is below all, none is negative
    low, high = 0, len(thresholds) - 1
    if budget.met(reached(above(thresholds[low]))):
        return above(thresholds[low])
    require_reach(network, structure, standing, budget, channel_multiple=channel_multiple)
    while high - low > 1:  # low is known to cost too much, high not to
        middle = (low + high) // 2
        if budget.met(reached(above(thresholds[middle]))):
            high = middle
        else:
            low = middle
    ranks = {
        c.name: scores.sort(descending=True).values
        for c, scores in zip(structure.couplings, standing, strict=True)
        if scores is not None
    }
    fullest = _refilled(above(thresholds[high]), ranks, budget, reached, channel_multiple)
    return _exchanged(fullest, ranks, budget, reached, channel_multiple)


def slimmed(
    network: Network, structure: Structure, standing: Standing, widths: Mapping[str, int]
) -> Network:
    """A copy of a network with the channels that stand out most; what is left empty is gone.

    Args:
        network: A generator; stays as it is.
        structure: Its couplings.
        standing: How much each channel stands out; channels without a number go by magnitude.
        widths: From `bisect`.
    """
    scores = standing
    if any(s is None for s in standing):
        pairs = zip(standing, magnitude(network, structure), strict=True)
        scores = tuple(size if s is None else s for s, size in pairs)
    gone = [
        # of what goes as a whole one channel stays until then: a layer cannot be of none
        torch.argsort(cast(Tensor, s), stable=True)[: c.channels - max(widths[c.name], 1)].tolist()
        for c, s in zip(structure.couplings, scores, strict=True)
    ]
    parts = removable(network, structure)
    empty = {parts[name] for name, left in widths.items() if left == 0}
    return _without_parts(without(network, structure, gone), empty)


def require_reach(
    network: nn.Module,
    structure: Structure,
    standing: Standing,
    budget: Budget,
    *,
    channel_multiple: int,
) -> None:
    """Refuse a budget that no threshold meets, before anybody is trained for it.

    What is left above the highest threshold is the same whatever the scores are.

    Raises:
        ValueError: What the narrowest network reaches.
    """
    parts = removable(network, structure)
    least = _above(structure, standing, parts, float("inf"), channel_multiple)
    reached = budget.reached(slimmed(network, structure, standing, least))
    if not budget.met(reached):
        raise ValueError(
            f"{budget.key} {budget.goal:g} is out of reach: {channel_multiple} channels in every "
            f"layer that must stay give {reached:.1f}; ask less, begin with a narrower network, "
            "or lower the profile's channel_multiple"
        )


def removable(network: nn.Module, structure: Structure) -> Removable:
    """What may go as a whole: blocks of a ResNet, and of a U-Net the levels below the fifth."""
    found: dict[str, str] = {}
    for coupling in structure.couplings:
        names = coupling.name.split(".")
        outer = [".".join(names[:end]) for end in range(1, len(names))]
        modules = {name: network.get_submodule(name) for name in outer}
        if isinstance(network, ResnetGenerator | MobileResnetGenerator) and coupling.inner:
            blocks = [name for name, module in modules.items() if isinstance(module, BLOCKS)]
            if blocks:
                found[coupling.name] = blocks[-1]
        elif isinstance(network, UnetGenerator):
            levels = [name for name, module in modules.items() if isinstance(module, UnetBlock)]
            if len(levels) > KEPT_LEVELS:
                found[coupling.name] = levels[-1]
    return found


def _above(
    structure: Structure, standing: Standing, parts: Removable, threshold: float, multiple: int
) -> Widths:
    scored = torch.cat([s for s in standing if s is not None])
    share = float((scored > threshold).float().mean())
    widths = {}
    for coupling, scores in zip(structure.couplings, standing, strict=True):
        if scores is None:
            left, may_go = round(share * coupling.channels), False
        else:
            left, may_go = int((scores > threshold).sum()), coupling.name in parts
        widths[coupling.name] = _rounded(left, coupling.channels, multiple, may_go=may_go)
    gone = {parts[name] for name, left in widths.items() if left == 0}
    # with a level go all that are inside of it
    return {
        name: 0 if any(name.startswith(f"{part}.") for part in gone) else left
        for name, left in widths.items()
    }


def _rounded(left: int, channels: int, multiple: int, *, may_go: bool) -> int:
    if left == channels or (left == 0 and may_go):
        return left
    return max(left - left % multiple, min(multiple, channels))


def _refilled(
    widths: Widths, ranks: Ranks, budget: Budget, reached: Reached, multiple: int
) -> Widths:
    """The strongest channels that went come back, a multiple at a time, while they fit."""
    narrowed = [name for name, rank in ranks.items() if 0 < widths[name] < len(rank)]
    while narrowed and abs(reached(widths) / budget.goal - 1) > CLOSE:
        name = max(narrowed, key=lambda n: float(ranks[n][widths[n]]))
        wider = widths | {name: min(widths[name] + multiple, len(ranks[name]))}
        if not budget.met(reached(wider)):
            narrowed.remove(name)
            continue
        widths = wider
        if widths[name] == len(ranks[name]):
            narrowed.remove(name)
    return widths


def _exchanged(
    widths: Widths, ranks: Ranks, budget: Budget, reached: Reached, multiple: int
) -> Widths:
    """One multiple less here, one more there, where nothing fits alone and much is left over.

    Of the exchanges that end near the budget, the one that gives least for what it gets.
    """
    if abs(reached(widths) / budget.goal - 1) <= NEAR:
        return widths
    fewer = {n: widths[n] - (widths[n] % multiple or multiple) for n in ranks if widths[n]}
    more = {n: min(widths[n] + multiple, len(ranks[n])) for n in ranks if widths[n]}
    exchanges = [
        (float(ranks[a][fewer[a]] - ranks[b][widths[b]]), a, b)
        for a in fewer
        for b in more
        if a != b and fewer[a] > 0 and more[b] > widths[b]
    ]
    for _, a, b in sorted(exchanges):
        other = widths | {a: fewer[a], b: more[b]}
        if budget.met(reached(other)) and abs(reached(other) / budget.goal - 1) <= NEAR:
            return other
    return widths


def _without_parts(network: Network, gone: set[str]) -> Network:
    """The same network, changed in place, without some blocks or levels."""
    if not gone:
        return network
    if isinstance(network, UnetGenerator):
        _cut_levels(network, min(gone, key=len))
    else:
        assert isinstance(network, ResnetGenerator | MobileResnetGenerator)
        stay = [m for name, m in network.model.named_children() if f"model.{name}" not in gone]
        network.model = nn.Sequential(*stay)
    return network


def _cut_levels(network: UnetGenerator, outermost: str) -> None:
    """Leave a level hollow: what it has inside goes, and what it joined with that."""
    around, _, index = outermost.rpartition(".")
    layers = cast(nn.Sequential, network.get_submodule(around))
    (narrow,) = (m for m in layers if isinstance(m, nn.Conv2d))
    (widen,) = (m for m in layers if isinstance(m, nn.ConvTranspose2d))
    tp.prune_conv_in_channels(widen, list(range(narrow.out_channels, widen.in_channels)))
    layers[int(index)] = nn.Identity()
