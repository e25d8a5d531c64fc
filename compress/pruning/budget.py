"""What a student may cost, and the widths that meet it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import nn

from compress.macs import cost
from compress.pruning.structure import Structure, structure, without

Widths = dict[str, int]
"""Channels left of every coupling, by its name."""

TOLERANCE = 0.01
"""The bisection stops when the share of channels is known this well."""

SPARED = 0.1
"""Share of the budget that may be left over; above it, couplings stay wider where they can."""


@dataclass(frozen=True)
class Budget:
    """A limit on what a network costs.

    Attributes:
        key: What it is called in a recipe.
        goal: What to reach.
        reached: What a network reaches, in the unit of the goal.
        at_least: Whether more is better (a reduction) or less (a time).
    """

    key: Literal["macs_reduction", "params_reduction", "latency_ms"]
    goal: float
    reached: Callable[[nn.Module], float]
    at_least: bool = True

    def met(self, value: float) -> bool:
        """Whether something reached is within the budget."""
        return value >= self.goal if self.at_least else value <= self.goal


def macs_budget(teacher: nn.Module, reduction: float, *, image_size: int) -> Budget:
    """So many times fewer true MACs than the teacher, at an input of ``image_size`` pixels."""
    before = cost(teacher, image_size).macs
    return Budget("macs_reduction", reduction, lambda net: before / cost(net, image_size).macs)


def params_budget(teacher: nn.Module, reduction: float) -> Budget:
    """So many times fewer parameters than the teacher."""
    before = _params(teacher)
    return Budget("params_reduction", reduction, lambda network: before / _params(network))


def latency_budget(milliseconds: float, latency: Callable[[nn.Module], float]) -> Budget:
    """At most so many milliseconds.

    Args:
        milliseconds: The limit.
        latency: How long a network takes; `compress.pruning.latency` has one.
    """
    return Budget("latency_ms", milliseconds, latency, at_least=False)


def plan(
    teacher: nn.Module,
    budget: Budget,
    *,
    channel_multiple: int,
    outer_share: float | None = None,
    rounds: int = 1,
) -> tuple[Widths, ...]:
    """The widths after each of ``rounds`` rounds of pruning; the last meet the budget.

    Every coupling loses the same share of its channels, found by bisection. Where widths are few
    (a U-Net has eight levels, most of them equal), one step of rounding may take far more than was
    asked: then couplings stay one step wider, from the input on, until `SPARED` is left at most.
    Earlier rounds lie between, so that each divides every width by about the same number, and so
    the cost as well.

    Args:
        teacher: A generator; stays as it is.
        budget: What the student may cost.
        channel_multiple: Channels left are multiples of this, as the device's kernels want, where
            the teacher has as many.
        outer_share: Share that the couplings outside the residual blocks lose, and their stream;
            the channels inside the blocks then meet the budget alone. None: all lose the same.
        rounds: How many times pruning and training alternate.

    Raises:
        ValueError: The budget is out of reach, or ``outer_share`` is given for a network without
            residual blocks.
    """
    whole = structure(teacher)
    if outer_share is not None and not any(c.inner for c in whole.couplings):
        raise ValueError(
            f"outer_share = {outer_share} leaves the rest to the residual blocks, and "
            f"{type(teacher).__name__} has none: leave it out"
        )
    last = _within(teacher, whole, budget, channel_multiple, outer_share)
    return tuple(
        {
            name: _between(channels, last[name], number / rounds, channel_multiple)
            for name, channels in whole.widths.items()
        }
        for number in range(1, rounds + 1)
    )


def _within(
    teacher: nn.Module,
    whole: Structure,
    budget: Budget,
    multiple: int,
    outer_share: float | None,
) -> Widths:
    known: dict[tuple[int, ...], float] = {}  # many shares round to the same widths

    def widths(share: float) -> Widths:
        return {
            c.name: _kept(
                c.channels, share if c.inner or outer_share is None else outer_share, multiple
            )
            for c in whole.couplings
        }

    def reached(left: Widths) -> float:
        counts = tuple(left.values())
        if counts not in known:
            # which channels go does not matter to what is left
            gone = [range(k, c.channels) for k, c in zip(counts, whole.couplings, strict=True)]
            known[counts] = budget.reached(without(teacher, whole, gone))
        return known[counts]

    low, high = 0.0, 1.0  # share of channels pruned: known too small, not yet known too large
    found = False
    while high - low > TOLERANCE:
        share = (low + high) / 2
        if budget.met(reached(widths(share))):
            found, high = True, share
        else:
            low = share
    if not found:
        where = "every layer" if outer_share is None else "the residual blocks"
        raise ValueError(
            f"{budget.key} {budget.goal:g} is out of reach: {multiple} channels in {where} give "
            f"{reached(widths(1.0)):.1f}; ask less, prune more outside the blocks (outer_share), "
            "or lower the profile's channel_multiple"
        )
    return _refilled(widths(high), widths(low), budget, reached)


def _refilled(
    narrow: Widths, wide: Widths, budget: Budget, reached: Callable[[Widths], float]
) -> Widths:
    """Widths within the budget, some of them as in the next wider ones, which are beyond it."""
    for name in wide:
        if abs(reached(narrow) / budget.goal - 1) <= SPARED:
            break
        wider = narrow | {name: wide[name]}
        if budget.met(reached(wider)):
            narrow = wider
    return narrow


def _kept(channels: int, share: float, multiple: int) -> int:
    """Channels left when a share goes: a multiple, and never none."""
    if share == 0:
        return channels
    left = int(channels * (1 - share))
    return max(left - left % multiple, min(multiple, channels))


def _between(before: int, after: int, progress: float, multiple: int) -> int:
    """A width on the way, on a logarithmic scale; a multiple unless it is an end."""
    left = before * (after / before) ** progress
    rounded = multiple * round(left / multiple)
    return after if progress == 1 else min(before, max(after, rounded))


def _params(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
