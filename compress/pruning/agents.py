"""Pruning agents: recurrent networks that decide which channels of another network stay.

An agent reads the couplings of its network in their order, forth and back, and answers with a logit
for every channel; masks are drawn from the logits (`draw_mask`). Two of them play in MGGC
(`compress.methods.mggc`), one for a generator and one for its discriminator, and each hears the
other's state: a discriminator that gives up much needs another generator beside it than one that
keeps all.

The machinery is that of Gao et al., "Network Pruning via Performance Maximization", CVPR 2021
(NPPM): fixed orthogonal inputs, a bidirectional GRU, LayerNorm, ReLU and a weight-normalised linear
layer for each coupling; an offset with which nearly all channels are there at first. Theirs hears
nobody. That agents hear each other is MGGC's (Ganjdanesh et al., 2024); what they hear,
`Decision.state`, is this project's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

CODE = 64
"""Numbers that stand for a coupling."""

HIDDEN = 128
"""Width of the GRU, in each direction."""

OFFSET = 3.0
"""Added to every logit: 95 of 100 channels are there at first."""


@dataclass(frozen=True)
class Decision:
    """What an agent wants.

    Attributes:
        logits: For every channel of every coupling, (channels,): above 0, it should stay.
        state: What the peer hears, (2 * HIDDEN,): the mean over the couplings of what the agent
            remembers of each, times the share of its channels that should stay. Both how the agent
            has come to be and how wide its network is are in it.
    """

    logits: Tensor
    state: Tensor


class PruningAgent(nn.Module):
    """Decides which channels of a network stay.

    Args:
        channels: Of each coupling of the network.
    """

    codes: Tensor
    said: Tensor

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.channels = tuple(channels)
        codes = nn.init.orthogonal_(torch.empty(len(self.channels), CODE))
        self.register_buffer("codes", codes)
        # a buffer, so that a resumed training hears what it would have heard
        self.register_buffer("said", torch.zeros(2 * HIDDEN))
        self.recurrent = nn.GRU(CODE + 2 * HIDDEN, HIDDEN, bidirectional=True)
        self.norm = nn.LayerNorm(2 * HIDDEN)
        self.heads = nn.ModuleList(
            weight_norm(nn.Linear(2 * HIDDEN, count, bias=False)) for count in self.channels
        )

    def forward(self, heard: Tensor) -> Decision:
        """Decide.

        Args:
            heard: The peer's state, (2 * HIDDEN,), without its graph; zeros where it is not heard.
        """
        with torch.autocast(self.codes.device.type, enabled=False):
            inputs = torch.cat([self.codes, heard.float().expand(len(self.codes), -1)], 1)
            states, _ = self.recurrent(inputs)  # (couplings, 2 * HIDDEN)
            features = F.relu(self.norm(states))
            wanted = [head(x) + OFFSET for head, x in zip(self.heads, features, strict=True)]
            shares = torch.stack([torch.sigmoid(logits).mean() for logits in wanted])
            return Decision(torch.cat(wanted), (shares[:, None] * states).mean(0))

    @torch.no_grad()
    def remember(self, heard: Tensor) -> None:
        """Keep the state of the decision as it is now in ``said``, for the peer to hear."""
        self.said.copy_(self(heard).state)


def draw_mask(logits: Tensor, channels: Sequence[int], *, temperature: float) -> Tensor:
    """Draw a hard mask, straight through: 0 or 1 in value, a sigmoid's gradient.

    A channel stays if its logit and the difference of two Gumbel noises are above 0 together. The
    channel of each coupling with the highest logit always stays: a network without any channels in
    a layer is none. Draws from torch's own generator, which the training loop seeds.

    Source: Maddison et al., "The Concrete Distribution", 2017 (binary case); straight through after
    Bengio et al., 2013.

    Args:
        logits: (channels of all couplings,).
        channels: Of each coupling.
        temperature: Of the sigmoid; the smaller, the fewer channels get a gradient.

    Returns:
        (channels of all couplings,).
    """
    uniform = torch.rand_like(logits).clamp(1e-6, 1 - 1e-6)
    noise = uniform.log() - (-uniform).log1p()
    soft = torch.sigmoid((logits + noise) / temperature)
    with torch.no_grad():
        hard = torch.maximum((soft >= 0.5).to(soft.dtype), _highest(logits, channels))
    return hard + (soft - soft.detach())


def resource_loss(cost: Tensor, goal: float) -> Tensor:
    """How much too expensive a network is: the logarithm of its cost over the goal, 0 below it.

    Source: NPPM (Gao et al., 2021).

    Args:
        cost: A scalar with a graph.
        goal: In the same unit.
    """
    return torch.log((cost / goal).clamp(min=1.0)).float()


def _highest(logits: Tensor, channels: Sequence[int]) -> Tensor:
    """A mask of the channel with the highest logit of each coupling."""
    parts = torch.split(logits, list(channels))
    return torch.cat([F.one_hot(part.argmax(), len(part)) for part in parts]).to(logits.dtype)
