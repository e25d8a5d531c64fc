"""Torch-Pruning's graph of a network, where that graph needs help.

Torch-Pruning 1.6 does not know what a pixel shuffle does to channels (it then leaves the layers
around it silently as they are), and asks its way from every concatenation back to the image, which
in a network of 23 RRDBs is further than it goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch_pruning as tp
from torch import nn

Node = Any
"""Of Torch-Pruning, which has no types."""


class ChannelGraph(tp.DependencyGraph):  # type: ignore[misc]
    """A dependency graph that knows the sizes of concatenations before it asks for them."""

    def _trace(self, *args: Any, **kwargs: Any) -> dict[nn.Module, Node]:
        nodes: dict[nn.Module, Node] = super()._trace(*args, **kwargs)
        channels: dict[Node, int | None] = {}
        for node in _from_the_image(nodes.values()):
            before = [channels[n] for n in node.inputs]
            known = [count for count in before if count is not None]
            if node.type == tp.ops.OPTYPE.CONCAT and len(known) == len(before):
                node.module.concat_sizes = known
                channels[node] = sum(known)
            elif (factor := shuffle_factor(node)) and known:
                channels[node] = known[0] // factor
            else:
                own = self.get_out_channels(node)
                channels[node] = own if own is not None else next(iter(known), None)
        return nodes


@dataclass(frozen=True)
class Nodes:
    """What the graph says beyond dependencies.

    Attributes:
        makes_image: Convolutions whose output reaches the image through no other.
        makes_shuffled: Those whose output reaches a pixel shuffle so.
        shuffle_readers: Convolutions that read what a pixel shuffle made.
        sums: Where a residual branch returns to its stream.
        on_branch: Names of the layers on residual branches.
    """

    makes_image: frozenset[Node]
    makes_shuffled: frozenset[Node]
    shuffle_readers: tuple[nn.Module, ...]
    sums: frozenset[Node]
    on_branch: frozenset[str]

    @classmethod
    def of(cls, graph: ChannelGraph) -> Nodes:
        """Look at a graph, and tell it what its pixel shuffles do."""
        nodes = list(graph.module2node.values())
        image = [node for node in nodes if not node.outputs]
        shuffles = [node for node in nodes if shuffle_factor(node)]
        for node in shuffles:
            _link(node)
        sums, branch = _residuals(nodes)
        names = {module: name for name, module in graph.model.named_modules()}
        readers = _convolutions(shuffles, lambda node: node.outputs)
        return cls(
            frozenset(_convolutions(image, lambda node: node.inputs)),
            frozenset(_convolutions(shuffles, lambda node: node.inputs)),
            tuple(node.module for node in readers),
            frozenset(sums),
            frozenset(names[node.module] for node in branch if node.module in names),
        )


@dataclass(frozen=True)
class Shuffled:
    """Channel numbers across a pixel shuffle, as Torch-Pruning's mappings are called.

    Attributes:
        factor: Channels before it that become one after it.
        forwards: With the image, or against.
    """

    factor: int
    forwards: bool

    def __call__(self, indices: Iterable[Any]) -> list[Any]:
        """Numbers on the other side, each with the root it came from."""
        found: dict[tuple[int, int], None] = {}  # a set that keeps its order
        for index in indices:
            first = index.idx * self.factor
            others = (
                [index.idx // self.factor] if self.forwards else range(first, first + self.factor)
            )
            found |= {(o, index.root_idx): None for o in others}
        kind = tp._helpers._HybridIndex
        return [kind(idx=idx, root_idx=root) for idx, root in found]


def shuffle_factor(node: Node) -> int:
    """Channels that a pixel shuffle makes one of; 0 for any other node."""
    name = getattr(node.grad_fn, "name", str)()
    return int(node.grad_fn._saved_upscale_factor) ** 2 if "PixelShuffle" in name else 0


def _link(shuffle: Node) -> None:
    factor = shuffle_factor(shuffle)
    for before in shuffle.inputs:
        for dependency in before.dependencies:
            if dependency.target is shuffle:
                dependency.index_mapping[0] = Shuffled(factor, forwards=True)
        for dependency in shuffle.dependencies:
            if dependency.target is before:
                dependency.index_mapping[0] = Shuffled(factor, forwards=False)


def _convolutions(start: list[Node], step: Callable[[Node], list[Node]]) -> list[Node]:
    """The first convolutions that are met on every way from some nodes."""
    found, seen, stack = [], set(start), list(start)
    while stack:
        node = stack.pop()
        if isinstance(node.module, nn.Conv2d | nn.ConvTranspose2d) and node.module.groups == 1:
            found.append(node)
            continue
        news = [n for n in step(node) if n not in seen]
        seen.update(news)
        stack += news
    return found


def _residuals(nodes: list[Node]) -> tuple[set[Node], set[Node]]:
    """Sums of a stream with a branch that left it earlier, and everything on those branches."""
    sums, branches = set(), set()
    for node in nodes:
        if node.type != tp.ops.OPTYPE.ELEMENTWISE or len(node.inputs) < 2:
            continue
        for branch in node.inputs:
            before = _reached([branch], lambda n: n.inputs)
            for stream in node.inputs:
                if stream is not branch and stream in before:
                    sums.add(node)
                    branches |= before & _reached(stream.outputs, lambda n: n.outputs)
    return sums, branches


def _reached(start: list[Node], step: Callable[[Node], list[Node]]) -> set[Node]:
    seen, stack = set(start), list(start)
    while stack:
        news = [n for n in step(stack.pop()) if n not in seen]
        seen.update(news)
        stack += news
    return seen


def _from_the_image(nodes: Iterable[Node]) -> list[Node]:
    """Every node after the nodes it reads; no recursion, networks are deep."""
    ordered, seen = [], set()
    stack = [(node, False) for node in nodes]
    while stack:
        node, ready = stack.pop()
        if ready:
            ordered.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack += [(n, False) for n in node.inputs]
    return ordered
