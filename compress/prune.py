"""Structured pruning: whole channels go, weights are inherited, the graph stays dense."""

from __future__ import annotations

import copy
from typing import Literal, TypeVar

import torch
import torch_pruning as tp
from torch import nn

from compress.macs import cost

Importance = Literal["magnitude", "batchnorm"]
Network = TypeVar("Network", bound=nn.Module)


def prune_to_macs(
    generator: Network,
    *,
    macs_reduction: float,
    channel_multiple: int,
    importance: Importance = "magnitude",
    tolerance: float = 0.01,
) -> Network:
    """A pruned copy with at least ``macs_reduction`` times fewer true MACs; the original stays.

    Every layer loses the same share of its channels, found by bisection; the last convolution keeps
    its image channels. Coupled layers (a residual stream) lose the same channels.

    Args:
        generator: Takes (1, 3, H, W) images; H and W multiples of 4.
        macs_reduction: Fewest times that the MACs must fall.
        channel_multiple: Channels left are multiples of this, as the device's kernels want.
        importance: ``magnitude`` (L2 norm of a group's weights) or ``batchnorm`` (its scales).
        tolerance: Bisection stops when the share is known this well.

    Raises:
        ValueError: Even ``channel_multiple`` channels in every layer cost more than asked.
    """
    before = cost(generator, 64).macs
    low, high = 0.0, 1.0  # share of channels pruned: known too small, not yet known too large
    best: Network | None = None
    while high - low > tolerance:
        share = (low + high) / 2
        student = _prune(generator, share, channel_multiple, importance)
        if before / cost(student, 64).macs >= macs_reduction:
            best, high = student, share
        else:
            low = share
    if best is None:
        smallest = before / cost(_prune(generator, 1.0, channel_multiple, importance), 64).macs
        raise ValueError(
            f"macs_reduction {macs_reduction} is out of reach: {channel_multiple} channels in "
            f"every layer give {smallest:.1f}; ask less, or lower the profile's channel_multiple"
        )
    return best


def _prune(
    generator: Network, share: float, channel_multiple: int, importance: Importance
) -> Network:
    student = copy.deepcopy(generator).eval()
    convolutions = [m for m in student.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    ranking = (
        tp.importance.GroupMagnitudeImportance(p=2)
        if importance == "magnitude"
        else tp.importance.BNScaleImportance()
    )
    pruner = tp.pruner.BasePruner(
        student,
        torch.zeros(1, 3, 64, 64),
        importance=ranking,
        # never a whole layer: one multiple of channels stays
        pruning_ratio_dict={
            layer: min(share, 1 - channel_multiple / max(_channels(layer), channel_multiple))
            for layer in convolutions[:-1]
        },
        pruning_ratio=0.0,
        ignored_layers=[convolutions[-1]],
        round_to=channel_multiple,
        # Torch-Pruning's defaults are shared mutable dicts: always give fresh ones
        in_channel_groups={},
        out_channel_groups={},
        num_heads={},
        channel_groups={},
    )
    pruner.step()
    return student.train(generator.training)


def _channels(layer: nn.Conv2d | nn.ConvTranspose2d) -> int:
    return layer.out_channels
