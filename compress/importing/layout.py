"""One way in which the tensors of a family were published, and what its describers share."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from compress.models.blocks import Norm, Spec

Tensors = dict[str, Tensor]
"""A network's tensors by name, in the order of their file."""

LAYER = r"(?:weight|bias|running_mean|running_var|num_batches_tracked)"


class UnfitError(ValueError):
    """The tensors are not those of this layout; the message says what is missing or odd."""


@dataclass(frozen=True)
class Renaming:
    """What a layout makes of a file's names.

    Attributes:
        names: Our name for each of the file's that the layout knows.
        dropped: Names that it knows and does not take, and why.
    """

    names: Mapping[str, str]
    dropped: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Layout:
    """One way in which a family's tensors were published.

    Attributes:
        family: A key of ``FAMILIES``.
        name: Whose names these are, for people.
        rename: Maps a file's names to ours; the second argument is what a user says of the
            network, by ``--architecture``.
        describe: Reads the specification off tensors that have our names. Raises `UnfitError`.
        convert: Brings values into our order; tensors that need no change stay. Returns what a
            user should know, too.
        format: The only kind of file that has this layout; torch and safetensors are one kind.
    """

    family: str
    name: str
    rename: Callable[[Tensors, Spec], Renaming]
    describe: Callable[[Tensors], Spec]
    convert: Callable[[Tensors], tuple[Tensors, tuple[str, ...]]] = lambda tensors: (tensors, ())
    format: str = "torch"


def same_names(*patterns: str) -> Callable[[Tensors, Spec], Renaming]:
    """Names that are ours already, where they match one of these."""
    return substitutions(*((pattern, None) for pattern in patterns))


def substitutions(
    *pairs: tuple[str, str | None],
) -> Callable[[Tensors, Spec], Renaming]:
    """The first pattern that matches the whole name says what becomes of it; None: it stays."""
    compiled = [(re.compile(pattern), template) for pattern, template in pairs]

    def rename(tensors: Tensors, _: Spec) -> Renaming:
        names = {}
        for key in tensors:
            for pattern, template in compiled:
                if match := pattern.fullmatch(key):
                    names[key] = key if template is None else match.expand(template)
                    break
        return Renaming(names)

    return rename


def in_order(
    pattern: str, stems: Callable[[re.Match[str]], Sequence[str]]
) -> Callable[[Tensors, Spec], Renaming]:
    """Names of a format that only numbers its layers: they are told by kind, in order.

    Args:
        pattern: Of the kinds of layers with weights, one letter each: convolution C, batch norm
            B, PReLU P, dense D.
        stems: Our names of the layers, from the match.
    """

    def rename(tensors: Tensors, _: Spec) -> Renaming:
        layers = list(dict.fromkeys(key.rpartition(".")[0] for key in tensors))
        match = re.fullmatch(pattern, "".join(_kind(tensors, layer) for layer in layers))
        if match is None:
            return Renaming({})
        ours = dict(zip(layers, stems(match), strict=True))
        parts = [(key, *key.rpartition(".")[::2]) for key in tensors]
        return Renaming({key: f"{ours[layer]}.{last}" for key, layer, last in parts})

    return rename


def _kind(tensors: Tensors, layer: str) -> str:
    if f"{layer}.running_mean" in tensors:
        return "B"
    weight = tensors.get(f"{layer}.weight")
    return "?" if weight is None else {4: "C", 2: "D", 1: "P"}.get(weight.ndim, "?")


def shape(tensors: Tensors, name: str, dimensions: int = 4) -> tuple[int, ...]:
    """The shape of a tensor that must be there, with so many dimensions.

    Raises:
        UnfitError: It is not.
    """
    if name not in tensors:
        raise UnfitError(f"it has no {name}")
    if tensors[name].ndim != dimensions:
        raise UnfitError(
            f"its {name} is {tuple(tensors[name].shape)}, not {dimensions}-dimensional"
        )
    return tuple(tensors[name].shape)


def out_channels(tensors: Tensors, layer: str) -> int:
    """Channels that a convolution makes; see `shape`."""
    return shape(tensors, f"{layer}.weight")[0]


def convolutions(tensors: Tensors, prefix: str) -> list[int]:
    """Indices of the convolutions directly in a Sequential, in order."""
    pattern = re.compile(rf"{re.escape(prefix)}\.(\d+)\.weight")
    matches = (pattern.fullmatch(key) for key, tensor in tensors.items() if tensor.ndim == 4)
    return sorted(int(match[1]) for match in matches if match)


def count(tensors: Tensors, pattern: str) -> int:
    """How many different numbers the first group of a pattern takes in the names."""
    matches = (re.match(pattern, key) for key in tensors)
    return len({match[1] for match in matches if match})


def norm_of(tensors: Tensors, layer: str) -> Norm:
    """Which norm a layer is: statistics make a batch norm, weights without an affine instance norm.

    An instance norm without weights leaves no trace, and neither does no norm at all; published
    networks of these families always have one.
    """
    if f"{layer}.running_mean" in tensors:
        return "batch"
    return "affine_instance" if f"{layer}.weight" in tensors else "instance"
