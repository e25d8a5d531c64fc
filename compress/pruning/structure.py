"""Which channels of a network can only go together, and how they go.

Torch-Pruning's dependency graph follows a channel from the convolution that makes it to everything
it reaches. Here that becomes data: a `Structure` of `Coupling`s that names layers, so that one
analysis (on meta tensors: nothing is computed) serves every copy of the network.
"""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
import torch_pruning as tp
from torch import nn

from compress.features import as_generator
from compress.pruning.trace import ChannelGraph, Nodes

Network = TypeVar("Network", bound=nn.Module)
Side = Literal["in", "out", "through"]
Place = tuple[str, Side]

ONE_BY_ONE = (nn.BatchNorm2d, nn.InstanceNorm2d, nn.PReLU)
"""Layers that treat every channel for itself; with depthwise convolutions, the side `through`."""

SMALLEST_PROBE = 64


@dataclass(frozen=True)
class Member:
    """One side of a layer that loses channels when a coupling does.

    Attributes:
        layer: Its name in the network.
        side: ``out``: filters of a convolution; ``in``: what it reads; ``through``: both are one.
        positions: Channels of the coupling ...
        channels: ... and the layer's channel of each. A position stands here more than once where
            a channel before a pixel shuffle is several.
    """

    layer: str
    side: Side
    positions: tuple[int, ...]
    channels: tuple[int, ...]


@dataclass(frozen=True)
class Coupling:
    """Channels that go through the same layers: any of them can go, but in all of those at once.

    Attributes:
        name: The layer that makes them (the first of those with the fewest channels).
        channels: How many there are.
        inner: Whether they live on a residual branch only; the others form the network's ends and
            its residual stream.
        members: What loses a channel when one goes.
    """

    name: str
    channels: int
    inner: bool
    members: tuple[Member, ...]


@dataclass(frozen=True)
class Structure:
    """All couplings of a network whose channels can go, in the order they were found."""

    couplings: tuple[Coupling, ...]

    @property
    def widths(self) -> dict[str, int]:
        """Channels of every coupling, by name."""
        return {coupling.name: coupling.channels for coupling in self.couplings}


def structure(network: nn.Module) -> Structure:
    """Find what can be pruned; what makes the image's own channels cannot.

    Raises:
        ValueError: A layer that channels go through is of a kind that cannot lose any, or the
            network is no generator.
    """
    step = as_generator(network).multiple
    size = step * math.ceil(SMALLEST_PROBE / step)
    probe = torch.zeros(1, 3, size, size, device="meta")
    traced = copy.deepcopy(network).to("meta").requires_grad_()
    with torch.enable_grad():
        graph = ChannelGraph().build_dependency(traced, probe)
    nodes = Nodes.of(graph)
    names = {module: name for name, module in traced.named_modules()}
    sizes = {name: getattr(module, "out_channels", 0) for name, module in traced.named_modules()}
    done: set[tuple[str, int]] = set()
    couplings: list[Coupling] = []
    for root, function in _roots(nodes, graph):
        if all((names[root], channel) in done for channel in range(sizes[names[root]])):
            continue  # long known from another convolution of its stream
        group = graph.get_pruning_group(root, function, list(range(_count(root, function))))
        if any(
            item.dep.target in nodes.makes_image and item.dep.handler == tp.prune_conv_out_channels
            for item in group
        ):
            continue
        couplings += _split(group, names, sizes, nodes, done)
    return Structure(tuple(couplings))


def without(network: Network, structure: Structure, gone: Sequence[Sequence[int]]) -> Network:
    """A copy of a network without some channels; all other weights stay as they are.

    Args:
        network: As ``structure`` found it.
        structure: Its couplings.
        gone: For each coupling, the channels that go.

    Raises:
        ValueError: Nothing of a coupling would be left.
    """
    losses: dict[Place, set[int]] = defaultdict(set)
    for coupling, positions in zip(structure.couplings, gone, strict=True):
        lost = set(positions)
        if len(lost) >= coupling.channels:
            raise ValueError(f"all {coupling.channels} channels of {coupling.name} would go")
        for member in coupling.members:
            pairs = zip(member.positions, member.channels, strict=True)
            losses[member.layer, member.side].update(c for p, c in pairs if p in lost)
    smaller = copy.deepcopy(network)
    for (name, side), channels in losses.items():
        if channels:
            _remove(smaller.get_submodule(name), side, sorted(channels))
    return smaller


def _remove(layer: nn.Module, side: Side, channels: list[int]) -> None:
    if side == "in":
        tp.prune_conv_in_channels(layer, channels)
    elif side == "out":
        tp.prune_conv_out_channels(layer, channels)
    elif isinstance(layer, nn.Conv2d):
        tp.prune_depthwise_conv_out_channels(layer, channels)
    elif isinstance(layer, nn.BatchNorm2d):
        tp.prune_batchnorm_out_channels(layer, channels)
    elif isinstance(layer, nn.InstanceNorm2d):
        tp.prune_instancenorm_out_channels(layer, channels)
    else:
        tp.prune_prelu_out_channels(layer, channels)


def _roots(nodes: Nodes, graph: ChannelGraph) -> list[tuple[nn.Module, Any]]:
    """Where to start from: after every pixel shuffle, then at every convolution.

    A channel before a shuffle is a quarter of one (for twice the size), so these couplings are
    followed from the side on which they are whole.
    """
    roots = [(reader, tp.prune_conv_in_channels) for reader in nodes.shuffle_readers]
    roots += [
        (module, tp.prune_conv_out_channels)
        for module, node in graph.module2node.items()
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
        and module.groups == 1
        and node not in nodes.makes_image
        and node not in nodes.makes_shuffled
    ]
    return roots


def _count(root: nn.Module, function: Any) -> int:
    assert isinstance(root, nn.Conv2d | nn.ConvTranspose2d)
    return root.in_channels if function == tp.prune_conv_in_channels else root.out_channels


def _split(
    group: Any,
    names: Mapping[nn.Module, str],
    sizes: Mapping[str, int],
    nodes: Nodes,
    done: set[tuple[str, int]],
) -> list[Coupling]:
    """Couplings of one of Torch-Pruning's groups.

    One group may hold channels that go different ways (what two convolutions make, concatenated,
    in a residual stream): each way is a coupling of its own, to be rounded for itself.
    """
    touched: dict[int, dict[Place, list[int]]] = defaultdict(lambda: defaultdict(list))
    in_sum: set[int] = set()
    for item in group:
        if item.dep.target in nodes.sums:
            in_sum.update(item.root_idxs)
        name = names.get(item.dep.target.module)
        if name is None:
            continue  # an operation, not a layer
        place = name, _side(item.dep, name)
        for channel, position in zip(item.idxs, item.root_idxs, strict=True):
            touched[position][place].append(channel)
    ways: dict[frozenset[Place], list[int]] = defaultdict(list)
    for position in sorted(touched):
        made = {(n, c) for (n, s), cs in touched[position].items() if s == "out" for c in cs}
        if made & done or not made:
            continue
        done |= made
        ways[frozenset(touched[position])].append(position)
    order = {name: index for index, name in enumerate(names.values())}
    couplings = []
    for places, positions in ways.items():
        members = []
        for place in sorted(places, key=lambda p: (order[p[0]], p[1])):
            pairs = [(k, c) for k, p in enumerate(positions) for c in touched[p][place]]
            at, channels = zip(*pairs, strict=True)
            members.append(Member(*place, tuple(at), tuple(channels)))
        makers = [m.layer for m in members if m.side == "out"]
        inner = all(m in nodes.on_branch for m in makers) and not in_sum & set(positions)
        name = min(makers, key=lambda layer: sizes[layer])
        couplings.append(Coupling(name, len(positions), inner, tuple(members)))
    return couplings


def _side(dependency: Any, name: str) -> Side:
    layer, handler = dependency.target.module, dependency.handler
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        if layer.groups == 1:
            return "in" if handler == tp.prune_conv_in_channels else "out"
        if layer.groups == layer.in_channels == layer.out_channels:
            return "through"
    elif isinstance(layer, ONE_BY_ONE):
        return "through"
    raise ValueError(f"{name} is a {layer}, which cannot lose channels: take another family")
