"""Every family of networks by name: what a file says it holds becomes a network again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from compress.models.blocks import Spec
from compress.models.cartoon import CartoonGenerator
from compress.models.discriminators import (
    PatchDiscriminator,
    PixelDiscriminator,
    SharedPatchDiscriminator,
)
from compress.models.gates import GatedPatchDiscriminator
from compress.models.generators import ResnetGenerator
from compress.models.mobile import DeepestMobileGenerator, MobileResnetGenerator
from compress.models.rrdb import RrdbNet
from compress.models.srgan import SrganDiscriminator, SrganGenerator
from compress.models.srvgg import SrvggNet
from compress.models.unet import DeepestUnetGenerator, UnetGenerator

FAMILIES: dict[str, Callable[[Spec], nn.Module]] = {
    "cartoon": CartoonGenerator.from_spec,
    "deepest_mobile": DeepestMobileGenerator.from_spec,
    "deepest_unet": DeepestUnetGenerator.from_spec,
    "gated_patchgan": GatedPatchDiscriminator.from_spec,
    "mobile": MobileResnetGenerator.from_spec,
    "patchgan": PatchDiscriminator.from_spec,
    "pixelgan": PixelDiscriminator.from_spec,
    "resnet": ResnetGenerator.from_spec,
    "rrdb": RrdbNet.from_spec,
    "shared_patchgan": SharedPatchDiscriminator.from_spec,
    "srgan": SrganGenerator.from_spec,
    "srgan_discriminator": SrganDiscriminator.from_spec,
    "srvgg": SrvggNet.from_spec,
    "unet": UnetGenerator.from_spec,
}


@runtime_checkable
class Specified(Protocol):
    """A network that can say how to make it again."""

    @property
    def spec(self) -> Spec:
        """JSON from which `build` makes the network again; widths are read off the layers."""


@runtime_checkable
class Generator(Protocol):
    """What every generator says about itself, so that no other code asks for its class.

    Images are RGB (N, 3, H, W) in [-1, 1], whatever a family was published for.
    """

    @property
    def taps(self) -> tuple[str, ...]:
        """Layers that distillation looks at, from the input to the output."""

    @property
    def multiple(self) -> int:
        """Height and width of the input must be multiples of this, px."""

    @property
    def scale(self) -> int:
        """Output size over input size; 1 unless it upscales."""

    @property
    def spec(self) -> Spec:
        """JSON from which `build` makes the network again."""

    def __call__(self, images: Tensor, /) -> Tensor:
        """(N, 3, H, W) in [-1, 1] -> (N, 3, scale x H, scale x W)."""


@runtime_checkable
class Discriminator(Protocol):
    """What every discriminator with one head says about itself."""

    @property
    def channels(self) -> int:
        """Channels in: those of an image, or of a source and an image."""

    @property
    def spec(self) -> Spec:
        """JSON from which `build` makes the network again."""

    def features(self, images: Tensor) -> Tensor:
        """The feature map before the scores."""

    def __call__(self, images: Tensor, /) -> Tensor:
        """(B, channels, H, W) -> scores."""


def specification(network: nn.Module) -> Spec:
    """What `build` needs to make this network again.

    Raises:
        ValueError: A class that no family names.
    """
    if isinstance(network, Specified):
        return network.spec
    raise ValueError(f"{type(network).__name__} belongs to no family that can be saved")


def build(spec: Spec) -> nn.Module:
    """A network with fresh weights from its specification.

    Raises:
        ValueError: The family is unknown, or the specification does not fit it.
    """
    family = spec.get("family")
    if family not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise ValueError(f"unknown network family {family!r}; known: {known}")
    try:
        return FAMILIES[family](spec)
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"this is no specification of a {family} network ({error}): {spec}"
        ) from error
