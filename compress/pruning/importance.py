"""Which channels matter: scores for every channel of a network's couplings.

Two look at weights alone. The other two ask what a channel does to the image, and to what a
discriminator sees in the image, by first-order expansion of the network around itself. Imagine a
gate, 1 now, that every layer which reads a channel multiplies it with: a gate of 0 *is* the channel
removed. A distance between the network's image and the image without the channel is 0 at 1, and so
is its gradient; to leading order it grows with the square of what the gate changes,

    |f(G(x), gate 0) - f(G(x), gate 1)|^2  ~  |d f(G(x)) / d gate|^2,

where f is the image (`taylor`) or the discriminator's feature map (`discriminator`). The right side
is the mean, over random signs r of the shape of f, of the square of d <r, f> / d gate: one backward
pass scores every channel, for every image of a batch separately. (The estimator is Hutchinson's,
1989; that a first-order score works best where gates are is Molchanov et al., 2019; that the
distance is a discriminator's is after DCD, Hu et al., 2023.) No truth is needed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from compress.loop import Batch
from compress.methods.pix2pix import see
from compress.models.families import Discriminator
from compress.models.modes import evaluating
from compress.pruning.structure import Coupling, Member, Structure

Importance = Literal["magnitude", "scale", "taylor", "discriminator"]

Ranking = Callable[[nn.Module, Structure], tuple[Tensor, ...]]
"""From a network and its structure to a score for every channel of every coupling, (channels,).

Scores compare channels of one coupling with each other, not with those of another."""

View = Callable[[Batch, Tensor], Tensor]
"""What is compared, from a batch and the network's image: (B, ...) with a graph."""

SCALED = (nn.BatchNorm2d, nn.InstanceNorm2d)


def make_ranking(
    importance: Importance,
    *,
    batches: Sequence[Batch] = (),
    discriminator: nn.Module | None = None,
    seed: int = 0,
) -> Ranking:
    """The ranking of that name.

    Args:
        importance: Its name.
        batches: Images to look at, for ``taylor`` and ``discriminator``.
        discriminator: The teacher's, for ``discriminator``.
        seed: Of the random signs.

    Raises:
        ValueError: Batches or a discriminator are needed and not given.
    """
    if importance == "magnitude":
        return magnitude
    if importance == "scale":
        return scale
    if not batches:
        raise ValueError(f"importance = {importance!r} looks at images: give it batches, 1 or more")
    if importance == "taylor":
        return by_effect(lambda _batch, image: image, batches, seed=seed)
    if not isinstance(discriminator, Discriminator) or not isinstance(discriminator, nn.Module):
        raise ValueError(
            "importance = 'discriminator' looks through the teacher's discriminator, and there is "
            "none with one head: give one, or take taylor"
        )
    judge = copy.deepcopy(discriminator).requires_grad_(False)
    return by_effect(
        lambda batch, image: judge.features(see(judge, batch, image)), batches, seed=seed
    )


def magnitude(network: nn.Module, structure: Structure) -> tuple[Tensor, ...]:
    """Squared L2 norm of the weights that go with a channel, the mean over the layers it is in.

    Source: Fang et al., "DepGraph: Towards Any Structural Pruning", 2023 (the group norm).
    """
    return tuple(_mean(network, coupling, _squares) for coupling in structure.couplings)


def scale(network: nn.Module, structure: Structure) -> tuple[Tensor, ...]:
    """Absolute scale of the norms a channel goes through, the mean over them.

    A coupling without such a norm (as at both ends of a U-Net) is ranked by magnitude.

    Source: Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", 2017.

    Raises:
        ValueError: No norm of the network has scales.
    """
    layers = (network.get_submodule(m.layer) for c in structure.couplings for m in c.members)
    if not any(isinstance(layer, SCALED) and layer.affine for layer in layers):
        raise ValueError(
            f"importance = 'scale' ranks by the scales of norms, and {type(network).__name__} has "
            "no norm with any: take magnitude, taylor or discriminator"
        )
    return tuple(
        _mean(network, c, scales if _has(network, c, scales) else _squares)
        for c in structure.couplings
    )


def by_effect(view: View, batches: Sequence[Batch], *, seed: int) -> Ranking:
    """Score by the squared change of something seen when a channel goes; see the module's text.

    Args:
        view: What is seen of an image.
        batches: Images to look at; one backward pass each.
        seed: Of the random signs.
    """

    def ranking(network: nn.Module, structure: Structure) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(seed)
        device = next(network.parameters()).device
        scores = [torch.zeros(c.channels, device=device) for c in structure.couplings]
        with evaluating(network):
            for batch in batches:
                for score, effect in zip(
                    scores, _effects(network, structure, view, batch, generator), strict=True
                ):
                    score += effect.square().sum(0)
        return tuple(scores)

    return ranking


def _effects(
    network: nn.Module,
    structure: Structure,
    view: View,
    batch: Batch,
    generator: torch.Generator,
) -> list[Tensor]:
    """Derivative of randomly signed sums of a view for every gate, (B, channels) per coupling."""
    count = len(batch.source)
    readers = {m.layer for c in structure.couplings for m in c.members if m.side == "in"}
    gates = {
        name: _gate(network.get_submodule(name), count, batch.source.device)
        for name in sorted(readers)
    }

    def gated(gate: Tensor) -> Callable[[nn.Module, tuple[Tensor]], Tensor]:
        return lambda _module, inputs: inputs[0] * gate

    handles = [
        network.get_submodule(name).register_forward_pre_hook(gated(gate))
        for name, gate in gates.items()
    ]
    try:
        with torch.enable_grad():
            seen = view(batch, network(batch.source)).float()
    finally:
        for handle in handles:
            handle.remove()
    signs = torch.randint(0, 2, seen.shape, generator=generator).to(seen) * 2 - 1
    found = torch.autograd.grad((seen * signs).sum(), list(gates.values()))
    slopes = {name: slope.flatten(1) for name, slope in zip(gates, found, strict=True)}
    effects = []
    for coupling in structure.couplings:
        effect = torch.zeros(count, coupling.channels, device=batch.source.device)
        for member in coupling.members:
            if member.side == "in":
                at, channels = torch.tensor(member.positions), torch.tensor(member.channels)
                effect.index_add_(1, at.to(effect.device), slopes[member.layer][:, channels])
        effects.append(effect)
    return effects


def _gate(layer: nn.Module, count: int, device: torch.device) -> Tensor:
    """Ones to multiply what a convolution reads with, for every image its own."""
    assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
    return torch.ones(count, layer.in_channels, 1, 1, device=device, requires_grad=True)


Part = Callable[[nn.Module, Member], Tensor | None]
"""From a layer to a number for each of its channels, or None where it has no say."""


@torch.no_grad()
def _mean(network: nn.Module, coupling: Coupling, part: Part) -> Tensor:
    total = torch.zeros(coupling.channels, device=next(network.parameters()).device)
    layers = 0
    for member in coupling.members:
        values = part(network.get_submodule(member.layer), member)
        if values is not None:
            at = torch.tensor(member.positions, device=total.device)
            total.index_add_(0, at, values[list(member.channels)].to(total))
            layers += 1
    return total / layers


def _has(network: nn.Module, coupling: Coupling, part: Part) -> bool:
    return any(part(network.get_submodule(m.layer), m) is not None for m in coupling.members)


def _squares(layer: nn.Module, member: Member) -> Tensor | None:
    if isinstance(layer, SCALED):
        return layer.weight.square() if layer.affine else None
    if not isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        return None  # slopes of activations say nothing of size
    # filters first, except where a convolution is transposed
    weight = layer.weight
    if (member.side == "in") != isinstance(layer, nn.ConvTranspose2d):
        weight = weight.transpose(0, 1)
    if member.side == "through":
        weight = layer.weight
    return weight.flatten(1).square().sum(1)


def scales(layer: nn.Module, member: Member) -> Tensor | None:
    """How large the scales of a norm are, (channels,); None where a layer has none."""
    return layer.weight.abs() if isinstance(layer, SCALED) and layer.affine else None
