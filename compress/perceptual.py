"""What networks see in images: feature maps to compare images by, for losses and measures.

VGG16 and AlexNet come with their ImageNet weights or not at all: there is no random network that
quietly takes their place. Where a user wants no weights of others, the teacher's own discriminator
has features too (`discriminator_features`).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from compress import pretrained
from compress.features import forward_with_features

TrunkName = Literal["alexnet", "vgg16"]

Scaling = Literal["unit", "imagenet"]
"""What a trunk is fed, from images in [-1, 1]: see `SCALINGS`."""

SCALINGS: Mapping[Scaling, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    # (image - shift) / scale, per channel
    "unit": ((-1.0, -1.0, -1.0), (2.0, 2.0, 2.0)),  # [0, 1], as OMGD, DCD and CRD feed VGG16
    # ImageNet's mean and standard deviation, as the trunks were trained and as LPIPS feeds them
    "imagenet": ((-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)),
}


class FeatureNetwork(Protocol):
    """Something that looks at images. It is frozen; gradients flow through it to the images."""

    @property
    def name(self) -> str:
        """What it is, for reports: ``vgg16``, ``discriminator``."""
        ...

    def features(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, C, H, W) in [-1, 1] -> feature maps (B, C_i, H_i, W_i), shallow to deep."""
        ...


@dataclass(frozen=True)
class Architecture:
    """A plain stack of convolutions, each with a ReLU, and max pooling between some.

    Attributes:
        convolutions: (in, out, kernel, stride, padding) each.
        pooled: Indices of the convolutions that see a pooled map.
        pool: Kernel of the pooling; its stride is 2.
        taps: Names of the feature maps: after the ReLU of which convolution.
    """

    convolutions: tuple[tuple[int, int, int, int, int], ...]
    pooled: tuple[int, ...]
    pool: int
    taps: Mapping[str, int]


def _vgg16() -> Architecture:
    widths = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
    return Architecture(
        convolutions=tuple((a, b, 3, 1, 1) for a, b in itertools.pairwise(widths)),
        pooled=(2, 4, 7, 10),
        pool=2,
        taps={"relu1_2": 1, "relu2_2": 3, "relu3_3": 6, "relu4_3": 9, "relu5_3": 12},
    )


ARCHITECTURES: Mapping[TrunkName, Architecture] = {
    # Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014
    "alexnet": Architecture(
        convolutions=(
            (3, 64, 11, 4, 2),
            (64, 192, 5, 1, 2),
            (192, 384, 3, 1, 1),
            (384, 256, 3, 1, 1),
            (256, 256, 3, 1, 1),
        ),
        pooled=(1, 2),
        pool=3,
        taps={"relu1": 0, "relu2": 1, "relu3": 2, "relu4": 3, "relu5": 4},
    ),
    # Simonyan and Zisserman, "Very deep convolutional networks", 2014, configuration D
    "vgg16": _vgg16(),
}

PUBLISHED_TAPS: Mapping[TrunkName, tuple[str, ...]] = {
    "alexnet": ("relu1", "relu2", "relu3", "relu4", "relu5"),
    "vgg16": ("relu1_2", "relu2_2", "relu3_3", "relu4_3"),
}
"""Where LPIPS looks into AlexNet, and the distillation papers into VGG16."""


class Trunk(nn.Module):
    """The convolutions of an ImageNet classifier, frozen, up to the deepest tap.

    Args:
        name: Which.
        weights: ``conv{i}.weight`` and ``conv{i}.bias``; more is ignored.
        taps: Which feature maps, shallow to deep.
        scaling: What it is fed.

    Raises:
        ValueError: There is no such tap, or they are out of order.
    """

    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        name: TrunkName,
        weights: Mapping[str, Tensor],
        *,
        taps: Sequence[str],
        scaling: Scaling,
    ) -> None:
        super().__init__()
        architecture = ARCHITECTURES[name]
        unknown = [tap for tap in taps if tap not in architecture.taps]
        self._taps = tuple(architecture.taps[tap] for tap in taps if tap not in unknown)
        if unknown or not taps or list(self._taps) != sorted(set(self._taps)):
            raise ValueError(
                f"taps of {name} must be some of {', '.join(architecture.taps)}, in this order; "
                f"got {', '.join(taps) or 'none'}"
            )
        self.name = name
        self._pooled, self._pool = architecture.pooled, architecture.pool
        shift, scale = (torch.tensor(c).view(1, 3, 1, 1) for c in SCALINGS[scaling])
        self.register_buffer("shift", shift)
        self.register_buffer("scale", scale)
        self.convolutions = nn.ModuleList()
        for index, shape in enumerate(architecture.convolutions[: self._taps[-1] + 1]):
            width_in, width_out, kernel, stride, padding = shape
            convolution = nn.Conv2d(width_in, width_out, kernel, stride, padding)
            convolution.load_state_dict(
                {part: weights[f"conv{index}.{part}"] for part in ("weight", "bias")}
            )
            self.convolutions.append(convolution)
        self.requires_grad_(False).eval()

    def features(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) in [-1, 1] -> one (B, C, H', W') for each tap."""
        maps = []
        x = (images - self.shift) / self.scale
        for index, convolution in enumerate(self.convolutions):
            if index in self._pooled:
                x = F.max_pool2d(x, self._pool, stride=2)
            x = F.relu(convolution(x))
            if index in self._taps:
                maps.append(x)
        return tuple(maps)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The same as `features`."""
        return self.features(images)


def load_perceptual(
    name: TrunkName, *, scaling: Scaling = "unit", taps: Sequence[str] | None = None
) -> Trunk:
    """A frozen ImageNet network to compare images by, its weights fetched on first use.

    Args:
        name: ``vgg16`` or ``alexnet``.
        scaling: What it is fed. The default is what OMGD, DCD and CRD feed VGG16: [0, 1] without
            ImageNet's mean and deviation, and their loss weights are tuned to that.
        taps: Which feature maps; `PUBLISHED_TAPS` if left out.

    Raises:
        ValueError: An unknown name or tap.
        PretrainedError: The weights could not be fetched.
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"no perceptual network {name!r}; there are: {', '.join(ARCHITECTURES)}")
    weights = pretrained.tensors(trunk_weights(name))
    return Trunk(name, weights, taps=taps or PUBLISHED_TAPS[name], scaling=scaling)


def trunk_weights(name: TrunkName) -> pretrained.Weights:
    """Where a trunk's weights come from."""
    return pretrained.ALEXNET if name == "alexnet" else pretrained.VGG16


@dataclass(frozen=True)
class DiscriminatorFeatures:
    """A discriminator as a feature network: its activations, shallow to deep.

    Its parameters take part as constants, so no loss that looks through it can move it, while it
    may go on learning elsewhere and is followed.

    Attributes:
        discriminator: Takes (B, channels, H, W).
        layers: Names of the layers whose outputs are the features.
    """

    discriminator: nn.Module
    layers: tuple[str, ...]

    @property
    def name(self) -> str:
        """For reports."""
        return "discriminator"

    def features(self, images: Tensor) -> tuple[Tensor, ...]:
        """What the discriminator takes (6 channels where it judges pairs) -> its activations."""
        constants = {name: p.detach() for name, p in self.discriminator.named_parameters()}
        for name, statistics in self.discriminator.named_buffers():
            constants[name] = statistics.clone()  # looking must not move the averages either
        still = _Constant(self.discriminator, constants)
        _, seen = forward_with_features(still, images, [f"network.{x}" for x in self.layers])
        return seen


class _Constant(nn.Module):
    """A network run with other tensors in place of its own."""

    def __init__(self, network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.network, self._tensors = network, dict(tensors)

    def forward(self, images: Tensor) -> Tensor:
        output = functional_call(self.network, self._tensors, (images,))
        assert isinstance(output, Tensor)
        return output


def discriminator_features(discriminator: nn.Module) -> DiscriminatorFeatures:
    """A discriminator's own features, for users without a perceptual network.

    The activations after each of its leaky ReLUs.

    Raises:
        ValueError: It has none.
    """
    layers = tuple(
        name for name, module in discriminator.named_modules() if isinstance(module, nn.LeakyReLU)
    )
    if not layers:
        raise ValueError(f"{type(discriminator).__name__} has no LeakyReLU to look behind")
    return DiscriminatorFeatures(discriminator, layers)
