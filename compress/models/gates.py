"""GCC's discriminator, whose channels can be switched off one by one while it trains."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from compress.models.blocks import Norm, Spec, has_bias, norm_layer
from compress.models.discriminators import steps, widest


class Gate(nn.Module):
    """Channels switched on or off by a learnable number each (Li et al., 2021, GCC).

    A channel is on where its number is at least the threshold. The step has no gradient, so the
    number gets the mask's (straight through): channels that are off can come back.

    Args:
        channels: Gated ones; all on at first.
        threshold: Between 0 and 1.
    """

    def __init__(self, channels: int, threshold: float = 0.5) -> None:
        super().__init__()
        self.threshold = threshold
        self.alpha = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Shape-preserving: (B, channels, H, W)."""
        hard = (self.alpha >= self.threshold).to(x.dtype)
        # exactly the hard mask in value, alpha in gradient
        mask = hard + (self.alpha - self.alpha.detach())
        return x * mask[:, None, None]

    @torch.no_grad()
    def clip(self) -> None:
        """Bring the numbers back into [0, 1], as GCC does after every step."""
        self.alpha.clamp_(0, 1)


class GatedPatchDiscriminator(nn.Module):
    """The selective PatchGAN of GCC (Li et al., 2021): a gate after the norm of every layer.

    With all gates open it is a `PatchDiscriminator` of three layers.

    Args:
        channels: Channels in.
        width: Channels after the first convolution.
        norm: ``batch`` in the released code, whatever the plain discriminator has.
        threshold: From which a gate is open.
    """

    def __init__(
        self,
        channels: int = 3,
        width: int = 64,
        *,
        norm: Norm = "batch",
        threshold: float = 0.5,
    ) -> None:
        super().__init__()
        self.channels, self.width, self.threshold = channels, width, threshold
        self.norm: Norm = norm
        modules: list[nn.Module] = [
            nn.Conv2d(channels, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            Gate(width, threshold),
        ]
        for before, after, stride in steps(width, 3):
            modules += [
                nn.Conv2d(before, after, 4, stride=stride, padding=1, bias=has_bias(norm)),
                norm_layer(norm)(after),
                Gate(after, threshold),
                nn.LeakyReLU(0.2),
            ]
        modules.append(nn.Conv2d(widest(width, 3), 1, 4, padding=1))
        self.model = nn.Sequential(*modules)

    @classmethod
    def from_spec(cls, spec: Spec) -> GatedPatchDiscriminator:
        """The network of a specification, with fresh weights."""
        return cls(spec["channels"], spec["width"], norm=spec["norm"], threshold=spec["threshold"])

    @property
    def spec(self) -> Spec:
        """What `from_spec` takes."""
        return {
            "family": "gated_patchgan",
            "norm": self.norm,
            "channels": self.channels,
            "width": self.width,
            "threshold": self.threshold,
        }

    @property
    def gates(self) -> tuple[Gate, ...]:
        """The gates, from the input on; their numbers want an optimizer of their own."""
        return tuple(module for module in self.model if isinstance(module, Gate))

    def features(self, images: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, 8 * width, H/8 - 1, W/8 - 1)."""
        return cast(Tensor, self.model[:-1](images))

    def forward(self, images: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, 1, H/8 - 2, W/8 - 2): one score per patch."""
        return cast(Tensor, self.model(images))
