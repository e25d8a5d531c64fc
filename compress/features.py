"""Look inside a network while it runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from compress.models.families import Generator
from compress.models.generators import ResnetGenerator
from compress.models.mobile import DeepestMobileGenerator, MobileResnetGenerator
from compress.models.modes import evaluating

RESNETS = (ResnetGenerator, MobileResnetGenerator)


def forward_with_features(
    network: nn.Module, images: Tensor, layers: Sequence[str]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run a network once; return its output and the outputs of named layers.

    The hooks live for this one pass, so a later pass (another image, an evaluation) can never
    overwrite what this one saw. Features come in the order in which ``layers`` names them.

    Raises:
        KeyError: The network has no layer of that name, or the pass did not go through it.
    """
    known = dict(network.named_modules())
    unknown = [name for name in layers if name not in known]
    if unknown:
        raise KeyError(f"{type(network).__name__} has no layers {unknown}")
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            seen[name] = output

        return hook

    handles = [known[name].register_forward_hook(keep(name)) for name in layers]
    try:
        output = network(images)
    finally:
        for handle in handles:
            handle.remove()
    silent = [name for name in layers if name not in seen]
    if silent:
        raise KeyError(f"{type(network).__name__} did not run its layers {silent}")
    return output, tuple(seen[name] for name in layers)


def as_generator(network: nn.Module) -> Generator:
    """The same network, known to be a generator.

    Raises:
        ValueError: It is none.
    """
    if isinstance(network, Generator):
        return network
    raise ValueError(f"{type(network).__name__} is no generator: it has no taps and no scale")


def counterparts(teacher: nn.Module, student: nn.Module) -> Sequence[str]:
    """Layers of the student to compare with the teacher's taps, one for each.

    A ResNet that lost blocks has fewer taps of its own; it is looked at after the same share of the
    blocks it has.
    """
    theirs, ours = as_generator(teacher).taps, as_generator(student).taps
    if (
        len(theirs) == len(ours)
        or not isinstance(student, RESNETS)
        or not isinstance(teacher, (*RESNETS, DeepestMobileGenerator))
    ):
        return ours
    blocks, first = len(student.widths.inner), _index(ours[0])
    depths = [_index(tap) - _index(theirs[0]) for tap in theirs]
    deepest = max(depths[-1], 1)
    return tuple(f"model.{first + round(blocks * depth / deepest)}" for depth in depths)


def tap_channels(
    teacher: nn.Module, student: nn.Module, layers: Sequence[str]
) -> tuple[tuple[int, int], ...]:
    """(teacher's, student's) channels of each tap, from a dry run rather than from a formula.

    Args:
        teacher: Looked at where its taps are.
        student: Looked at behind the layers.
        layers: From `counterparts`.

    Raises:
        ValueError: The two have another number of taps, or feature maps of other sizes.
    """
    step = math.lcm(as_generator(teacher).multiple, as_generator(student).multiple)
    device = next(student.parameters()).device
    probe = torch.zeros(1, 3, step * -(-64 // step), step * -(-64 // step), device=device)
    shapes = []
    for network, names in ((teacher, as_generator(teacher).taps), (student, layers)):
        with evaluating(network), torch.no_grad():
            _, features = forward_with_features(network, probe, names)
        shapes.append([tuple(x.shape) for x in features])
    theirs, ours = shapes
    if [s[2:] for s in theirs] != [s[2:] for s in ours]:
        raise ValueError(
            f"feature maps do not fit: {type(teacher).__name__} has {[s[2:] for s in theirs]}, "
            f"{type(student).__name__} has {[s[2:] for s in ours]}; take a student of the same "
            "family, or a method that compares images alone, such as l1"
        )
    return tuple((t[1], s[1]) for t, s in zip(theirs, ours, strict=True))


def _index(tap: str) -> int:
    return int(tap.rpartition(".")[2])
