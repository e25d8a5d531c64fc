"""Milliseconds as a function of a mask: what a stopwatch said of some networks, fitted.

A stopwatch has no gradient, and an agent needs one. So a few networks between the whole one and an
eighth of its channels are measured, and a sum of four terms is fitted to what they took: a
constant, the multiply-accumulates of ordinary and of depthwise convolutions, and the numbers that
are written. None of them may speed a network up. What the pruned network takes in the end is
measured again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import torch
from torch import Tensor, nn

from compress.pruning.gating import Gated, switched_off
from compress.pruning.hardening import nearest, widths_for
from compress.pruning.resources import (
    Layer,
    Limit,
    active,
    everything,
    followed_by_one,
    layers_of,
    work,
)
from compress.pruning.structure import without

Latency = Callable[[nn.Module], float]
"""How long a network takes, in milliseconds per image; `compress.pruning.latency` has one."""

MEASURED = 12
"""Networks that the terms are fitted to."""

NARROWEST = 3.0
"""Halvings of the channels of the narrowest of them."""


def latency_limit(
    gated: Gated,
    milliseconds: float,
    latency: Latency,
    coefficients: Sequence[float],
    *,
    image_size: int,
) -> Limit:
    """At most so many milliseconds.

    Args:
        gated: The network.
        milliseconds: The limit.
        latency: Measures a pruned copy.
        coefficients: From `fit_latency`, of the same network, size and stopwatch.
        image_size: Height and width of the input, in pixels.
    """
    layers = layers_of(gated, image_size=image_size)
    whole = _terms(layers, everything(gated))

    def expected(mask: Tensor) -> Tensor:
        weights = torch.tensor(coefficients, dtype=torch.float64, device=mask.device)
        return (weights * _terms(layers, mask) / _usable(whole).to(mask.device)).sum()

    return Limit("latency_ms", milliseconds, expected, lambda mask: _measured(gated, mask, latency))


def fit_latency(
    gated: Gated, latency: Latency, *, image_size: int, channel_multiple: int, seed: int
) -> list[float]:
    """Measure some narrower copies of a network, and fit the four terms to what they take.

    Args:
        gated: The network.
        latency: The stopwatch.
        image_size: Height and width of the input, in pixels.
        channel_multiple: Widths that are measured are multiples of this.
        seed: Of the widths.

    Returns:
        What each term takes in the whole network, in ms, 0 or more: the constant, ordinary
        convolutions, depthwise ones, writing.
    """
    layers = layers_of(gated, image_size=image_size)
    masks = _narrower(gated, channel_multiple, seed)
    taken = torch.tensor([_measured(gated, m, latency) for m in masks], dtype=torch.float64)
    whole = _terms(layers, everything(gated))
    terms = torch.stack([_terms(layers, m) for m in masks]) / _usable(whole)
    # a millisecond too much matters more of a network that takes three
    return _non_negative(terms / taken[:, None], there=(whole > 0).tolist())


def _measured(gated: Gated, mask: Tensor, latency: Latency) -> float:
    gone = switched_off(gated.structure, mask)
    return latency(without(gated.network, gated.structure, gone))


def _terms(layers: Sequence[Layer], mask: Tensor) -> Tensor:
    """A constant, MACs of ordinary and of depthwise convolutions, numbers written: (4,)."""
    numbers = followed_by_one(mask)
    none = numbers.new_zeros(())
    dense = [work(layer, numbers) for layer in layers if not layer.depthwise]
    depthwise = [work(layer, numbers) for layer in layers if layer.depthwise]
    written = [layer.pixels * active(layer.made, numbers) for layer in layers]
    return torch.stack(
        [
            numbers[-1],
            torch.stack([none, *dense]).sum(),
            torch.stack([none, *depthwise]).sum(),
            torch.stack(written).sum(),
        ]
    )


def _usable(whole: Tensor) -> Tensor:
    """The terms of the whole network to divide by; a kind of layer that it lacks stays 0."""
    return whole.clamp(min=1.0)


def _narrower(gated: Gated, multiple: int, seed: int) -> list[Tensor]:
    """Masks from the whole network on, evenly on a logarithmic scale; each coupling wanders."""
    draw = torch.Generator().manual_seed(seed)
    masks = []
    for halvings in torch.linspace(0, NARROWEST, MEASURED).tolist():
        parts = []
        for coupling in gated.structure.couplings:
            wander = float(torch.rand((), generator=draw)) - 0.5 if halvings else 0.0
            wanted = coupling.channels * 2.0 ** -(halvings + wander)
            width = nearest(widths_for(coupling.channels, multiple), wanted)
            parts.append((torch.arange(coupling.channels) < width).float())
        masks.append(torch.cat(parts))
    return masks


def _non_negative(design: Tensor, *, there: Sequence[bool]) -> list[float]:
    """The least-squares solution of ``design @ x = 1`` without negative numbers.

    With four unknowns every choice of those that are not 0 can be tried.

    Args:
        design: (measurements, unknowns).
        there: Which unknowns there are at all; the others are 0.
    """
    usable = [column for column, is_there in enumerate(there) if is_there]
    ones = torch.ones(len(design), 1, dtype=design.dtype)
    best, least = [0.0] * design.shape[1], float("inf")
    for count in range(1, len(usable) + 1):
        for columns in combinations(usable, count):
            chosen = design[:, list(columns)]
            solution = torch.linalg.lstsq(chosen, ones).solution
            error = float((chosen @ solution - ones).square().sum())
            if error < least and bool((solution >= 0).all()):
                least = error
                best = [0.0] * design.shape[1]
                for column, value in zip(columns, solution.flatten().tolist(), strict=True):
                    best[column] = value
    return best
