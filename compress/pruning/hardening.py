"""From what an agent wants to a pruned network that meets its budget.

The agent ranks the channels of its network by their logits; the budget says how many stay. Channels
go from the least wanted on, over the whole network, until what is left is affordable, every width
rounded to what the device's kernels want. Rounding leaves some of the budget over, which is then
filled, coupling by coupling; where more than `TOLERANCE` of it is left, widths are exchanged.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from compress.pruning.resources import Limit
from compress.pruning.structure import Structure, without

log = logging.getLogger(__name__)

Network = TypeVar("Network", bound=nn.Module)
Counts = tuple[int, ...]

Kept = dict[str, list[int]]
"""The channels of each coupling that stay, by its name."""

TOLERANCE = 0.02
"""Share of the budget that may be left over."""

CORRECTIONS = 6
"""How often widths are looked for again where what they cost is not what was expected."""

EXCHANGED = 16
"""Couplings that may lose, and that may win, when a width is exchanged for another."""


def harden(structure: Structure, logits: Tensor, limit: Limit, *, channel_multiple: int) -> Kept:
    """The channels that stay: as many of the most wanted as the budget pays for.

    Args:
        structure: The couplings of the network.
        logits: How much each channel is wanted, (channels of all couplings,).
        limit: What the network may cost; never exceeded.
        channel_multiple: Widths are multiples of this, or all there is of a coupling.

    Raises:
        ValueError: The budget is out of reach.
    """
    most = require_reach(structure, limit, channel_multiple=channel_multiple)
    search = _Search(structure, logits.detach().cpu(), limit, channel_multiple)
    best, aim, tried = search.smallest, limit.goal, set[Counts]()
    for _ in range(CORRECTIONS):
        found = search.within(aim)
        if found in tried:
            break
        tried.add(found)
        expected, reached = search.expected(found), limit.reached(search.mask(found))
        if most < reached <= limit.goal:
            best, most = found, reached
        if most >= (1 - TOLERANCE) * limit.goal or reached == expected:
            break
        # what is measured is not what was expected: aim where that leads into the middle
        aim = expected * (1 - TOLERANCE / 2) * limit.goal / reached
    if most < (1 - TOLERANCE) * limit.goal:
        log.warning(
            "%s: %g of %g is used: no widths in multiples of %d come nearer from below",
            limit.key,
            most,
            limit.goal,
            channel_multiple,
        )
    return search.kept(best)


def require_reach(
    structure: Structure, limit: Limit, *, channel_multiple: int, of: str = "the network"
) -> float:
    """Refuse a budget that no widths meet, before anybody is trained for it.

    Args:
        structure: The couplings of the network.
        limit: What it may cost.
        channel_multiple: As in `harden`.
        of: Whose budget it is, for the message.

    Returns:
        What the narrowest network costs, in the limit's unit.

    Raises:
        ValueError: What the narrowest network costs.
    """
    least = [widths_for(c.channels, channel_multiple)[0] for c in structure.couplings]
    cost = limit.reached(_mask([range(k) for k in least], structure))
    if cost > limit.goal:
        raise ValueError(
            f"a budget of {limit.goal:g} {limit.key} for {of} is out of reach: {channel_multiple} "
            f"channels in every layer still cost {cost:g}; ask less"
            + (", or lower the profile's channel_multiple" if channel_multiple > 1 else "")
        )
    return cost


def pruned(network: Network, structure: Structure, kept: Mapping[str, Sequence[int]]) -> Network:
    """A copy of a network with the channels that stay, and their weights.

    Args:
        network: Stays as it is.
        structure: Its couplings.
        kept: From `harden`, of this network.

    Raises:
        ValueError: It is of another network.
    """
    if kept.keys() != structure.widths.keys():
        strange = sorted(kept.keys() ^ structure.widths.keys())
        raise ValueError(f"these channels are not {type(network).__name__}'s: {strange[:5]} differ")
    gone = [sorted(set(range(c.channels)) - set(kept[c.name])) for c in structure.couplings]
    return without(network, structure, gone)


def widths_for(channels: int, multiple: int) -> list[int]:
    """What a coupling of so many channels may be narrowed to, ascending; the last is all of it."""
    return [*range(multiple, channels, multiple), channels]


def nearest(widths: Sequence[int], wanted: float) -> int:
    """The width next to the one that is wanted; of two, the smaller."""
    return min(widths, key=lambda width: (abs(width - wanted), width))


class _Search:
    """Widths for a budget, by what the limit expects of them.

    Attributes:
        choices: Widths that each coupling may have.
        smallest: The first of them.
    """

    def __init__(
        self, structure: Structure, logits: Tensor, limit: Limit, channel_multiple: int
    ) -> None:
        channels = [c.channels for c in structure.couplings]
        self._structure, self._limit = structure, limit
        self.choices = [widths_for(count, channel_multiple) for count in channels]
        self.smallest: Counts = tuple(widths[0] for widths in self.choices)
        parts = torch.split(logits, channels)
        # unstable sorts differ between machines where channels are equally wanted
        orders = [part.sort(descending=True, stable=True) for part in parts]
        self._ranks = [order.indices.tolist() for order in orders]
        self._scores = [order.values for order in orders]
        of = torch.arange(len(channels)).repeat_interleave(torch.tensor(channels))
        self._owners = of[logits.argsort(descending=True, stable=True)]
        self._known: dict[Counts, float] = {}

    def mask(self, widths: Counts) -> Tensor:
        """The mask that leaves the most wanted channels of each coupling."""
        return _mask(self._left(widths), self._structure)

    def kept(self, widths: Counts) -> Kept:
        """The most wanted channels, by coupling."""
        left = zip(self._structure.couplings, self._left(widths), strict=True)
        return {coupling.name: sorted(channels) for coupling, channels in left}

    def expected(self, widths: Counts) -> float:
        """What they are expected to cost."""
        if widths not in self._known:
            self._known[widths] = float(self._limit.expected(self.mask(widths)))
        return self._known[widths]

    def within(self, goal: float) -> Counts:
        """Widths that are expected to cost at most the goal, and nearly that.

        The smallest, where these cost more.
        """
        low, high = 0, len(self._owners)  # most wanted channels: known too few, the most there are
        while low < high:
            middle = (low + high + 1) // 2
            if self.expected(self._rounded(middle)) <= goal:
                low = middle
            else:
                high = middle - 1
        widths = self._rounded(low)
        if self.expected(widths) > goal:
            return self.smallest
        return self._exchanged(self._filled(widths, goal), goal)

    def _left(self, widths: Counts) -> list[list[int]]:
        return [rank[:k] for rank, k in zip(self._ranks, widths, strict=True)]

    def _rounded(self, wanted: int) -> Counts:
        """Widths where so many channels stay, the most wanted of the whole network."""
        counts = torch.bincount(self._owners[:wanted], minlength=len(self.choices)).tolist()
        return tuple(nearest(w, k) for w, k in zip(self.choices, counts, strict=True))

    def _filled(self, widths: Counts, goal: float) -> Counts:
        """One coupling after the other a width wider, those wanted most first, while any fits."""
        while True:
            wider = (self._up(widths, coupling) for coupling in self._by_gain(widths))
            found = next((w for w in wider if self.expected(w) <= goal), None)
            if found is None:
                return widths
            widths = found

    def _exchanged(self, widths: Counts, goal: float) -> Counts:
        """One coupling narrower and another wider, where that uses more of the budget."""
        while self.expected(widths) < (1 - TOLERANCE) * goal:
            pairs = [
                self._up(self._down(widths, loser), winner)
                for loser in self._by_loss(widths)[:EXCHANGED]
                for winner in self._by_gain(widths)[:EXCHANGED]
                if loser != winner
            ]
            affordable = [pair for pair in pairs if self.expected(pair) <= goal]
            best = max(affordable, key=self.expected, default=widths)
            if self.expected(best) <= self.expected(widths):
                break
            widths = self._filled(best, goal)
        return widths

    def _by_gain(self, widths: Counts) -> list[int]:
        """Couplings that can be wider, those whose next channels are wanted most first."""
        gains = {
            i: float(self._scores[i][k : self._up(widths, i)[i]].mean())
            for i, k in enumerate(widths)
            if k < self.choices[i][-1]
        }
        return sorted(gains, key=lambda i: -gains[i])

    def _by_loss(self, widths: Counts) -> list[int]:
        """Couplings that can be narrower, those whose last channels are wanted least first."""
        losses = {
            i: float(self._scores[i][self._down(widths, i)[i] : k].mean())
            for i, k in enumerate(widths)
            if k > self.choices[i][0]
        }
        return sorted(losses, key=lambda i: losses[i])

    def _up(self, widths: Counts, coupling: int) -> Counts:
        return self._moved(widths, coupling, 1)

    def _down(self, widths: Counts, coupling: int) -> Counts:
        return self._moved(widths, coupling, -1)

    def _moved(self, widths: Counts, coupling: int, by: int) -> Counts:
        choices = self.choices[coupling]
        width = choices[choices.index(widths[coupling]) + by]
        return (*widths[:coupling], width, *widths[coupling + 1 :])


def _mask(left: Sequence[Sequence[int]], structure: Structure) -> Tensor:
    """The mask of some channels of each coupling."""
    parts = []
    for channels, coupling in zip(left, structure.couplings, strict=True):
        part = torch.zeros(coupling.channels)
        part[list(channels)] = 1
        parts.append(part)
    return torch.cat(parts)
