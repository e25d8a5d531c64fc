"""From what a recipe says about networks to networks."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from compress.checkpoints import load_network
from compress.models.blocks import initialize
from compress.models.discriminators import (
    PatchDiscriminator,
    PixelDiscriminator,
    SharedPatchDiscriminator,
)
from compress.models.families import Discriminator, Generator
from compress.models.generators import ResnetGenerator, ResnetWidths, initialize_as_identity
from compress.models.mobile import DeepestMobileGenerator, DeepestWidths, MobileResnetGenerator
from compress.models.rrdb import RrdbNet, RrdbWidths
from compress.models.srgan import SrganGenerator, SrganWidths
from compress.models.srvgg import SrvggNet, SrvggWidths
from compress.models.unet import UnetGenerator, UnetWidths
from compress.schema.networks import (
    DeepestShape,
    DiscriminatorShape,
    GeneratorShape,
    ResnetShape,
    TeacherNetworks,
    UnetShape,
)
from deploy.manifests import Task
from devices.sealed import digest

SHARED_LAYERS = 3
"""Layers that two teachers' heads have in common; OMGD's choice for ResNets."""


@dataclass(frozen=True)
class TeacherSide:
    """The networks of a ``[teacher]`` table.

    Attributes:
        fresh_discriminator: Whether the discriminator has learned nothing yet.
        critic: The discriminator as its file has it, which nobody moves; None without a file.
    """

    generator: nn.Module
    discriminator: nn.Module | None
    deeper: nn.Module | None
    back: nn.Module | None
    back_discriminator: nn.Module | None
    fresh_discriminator: bool
    critic: nn.Module | None


def teacher_side(networks: TeacherNetworks, task: Task) -> TeacherSide:
    """Read the files and make the shapes of a ``[teacher]`` table.

    Raises:
        ValueError: A file is missing, or holds no such network.
    """

    def generator(at: Path | GeneratorShape | None) -> nn.Module | None:
        if not isinstance(at, Path):
            return None if at is None else make_generator(at)
        network = load_network(at)
        if not isinstance(network, Generator):
            raise ValueError(f"{at} holds a {type(network).__name__}, no generator")
        return network

    def discriminator(at: Path | DiscriminatorShape | None) -> nn.Module | None:
        if not isinstance(at, Path):
            return None if at is None else make_discriminator(at, task)
        network = load_network(at)
        if not isinstance(network, Discriminator | SharedPatchDiscriminator):
            raise ValueError(f"{at} holds a {type(network).__name__}, no discriminator")
        return network

    teacher = generator(networks.generator)
    assert teacher is not None
    judge, read = discriminator(networks.discriminator), isinstance(networks.discriminator, Path)
    return TeacherSide(
        teacher,
        judge,
        generator(networks.deeper),
        generator(networks.back),
        discriminator(networks.back_discriminator),
        fresh_discriminator=not read,
        critic=copy.deepcopy(judge) if read else None,
    )


def teacher_digests(networks: TeacherNetworks) -> dict[str, str]:
    """Digests of the files of a ``[teacher]`` table, by the name of their network."""
    paths = {field: getattr(networks, field) for field in TeacherNetworks.model_fields}
    return {
        "teacher" if name == "generator" else name: f"sha256:{digest(path)}"
        for name, path in paths.items()
        if isinstance(path, Path)
    }


def make_generator(shape: GeneratorShape) -> nn.Module:
    """A generator with fresh weights."""
    if isinstance(shape, ResnetShape):
        widths = ResnetWidths.uniform(shape.width, shape.blocks)
        if shape.family == "mobile":
            return initialize(MobileResnetGenerator(widths, norm=shape.norm))
        resnet = ResnetGenerator(widths, norm=shape.norm)
        identity = shape.initialization == "identity"
        return initialize_as_identity(resnet) if identity else initialize(resnet)
    if isinstance(shape, UnetShape):
        widths_by_level = UnetWidths.uniform(shape.width, shape.levels)
        return initialize(UnetGenerator(widths_by_level, norm=shape.norm))
    if isinstance(shape, DeepestShape):
        deepest = DeepestWidths.uniform(shape.width)
        return initialize(DeepestMobileGenerator(deepest, norm=shape.norm))
    width, blocks, scale = shape.width, shape.blocks, shape.scale
    if shape.family == "rrdb":
        return initialize(RrdbNet(RrdbWidths.uniform(width, blocks), scale=scale))
    if shape.family == "srvgg":
        return initialize(SrvggNet(SrvggWidths.uniform(width, blocks), scale=scale))
    return initialize(SrganGenerator(SrganWidths.uniform(width, blocks)))


def make_discriminator(shape: DiscriminatorShape, task: Task) -> nn.Module:
    """A discriminator with fresh weights, for what the task's data can show it."""
    channels = 6 if (shape.judges or _judges(task)) == "pairs" else 3
    if shape.family == "shared_patchgan":
        return initialize(
            SharedPatchDiscriminator(channels, shape.width, norm=shape.norm, shared=SHARED_LAYERS)
        )
    kind = PatchDiscriminator if shape.family == "patchgan" else PixelDiscriminator
    return initialize(kind(channels, shape.width, norm=shape.norm))


def fresh_discriminator(task: Task, width: int = 64) -> nn.Module:
    """A PatchGAN that has learned nothing, for a game that has none."""
    return make_discriminator(
        DiscriminatorShape(family="patchgan", width=width, norm="instance"), task
    )


def learns_statistics(shape: GeneratorShape) -> bool:
    """Whether a generator's BatchNorm learns statistics; families without any have no say."""
    return getattr(shape, "batch_statistics", "batch") == "batch"


def _judges(task: Task) -> str:
    # source and translation belong together pixel by pixel, except where the translation is
    # larger, or must look like images of another domain that have no source
    return "pairs" if task in ("paired", "teacher_only") else "images"
