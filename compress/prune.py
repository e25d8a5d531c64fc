"""Structured pruning: whole channels go, weights are inherited, the graph stays dense."""

from __future__ import annotations

import copy
from typing import Literal, TypeVar

import torch
import torch_pruning as tp
from torch import nn

from compress.macs import cost
from compress.models.generators import ResnetBlock

Importance = Literal["magnitude", "batchnorm"]
Network = TypeVar("Network", bound=nn.Module)


def prune_to_macs(
    generator: Network,
    *,
    macs_reduction: float,
    channel_multiple: int,
    importance: Importance = "magnitude",
    outer_share: float | None = None,
    tolerance: float = 0.01,
) -> Network:
    """A pruned copy with at least ``macs_reduction`` times fewer true MACs; the original stays.

    Layers lose the same share of their channels, found by bisection; the last convolution keeps
    its image channels. Coupled layers (a residual stream) lose the same channels.

    Args:
        generator: Takes (1, 3, H, W) images; H and W multiples of 4.
        macs_reduction: Fewest times that the MACs must fall.
        channel_multiple: Channels left are multiples of this, as the device's kernels want.
        importance: ``magnitude`` (L2 norm of a group's weights) or ``batchnorm`` (its scales).
        outer_share: Share that layers outside the residual blocks lose, and their stream; the
            channels inside the blocks then meet the budget alone. None: all lose the same.
        tolerance: Bisection stops when the share is known this well.

    Raises:
        ValueError: Even ``channel_multiple`` channels in every layer cost more than asked.
    """
    before = cost(generator, 64).macs

    def pruned(share: float) -> Network:
        outer = share if outer_share is None else outer_share
        return _prune(generator, share, outer, channel_multiple, importance)

    low, high = 0.0, 1.0  # share of channels pruned: known too small, not yet known too large
    best: Network | None = None
    while high - low > tolerance:
        share = (low + high) / 2
        student = pruned(share)
        if before / cost(student, 64).macs >= macs_reduction:
            best, high = student, share
        else:
            low = share
    if best is None:
        most = before / cost(pruned(1.0), 64).macs
        where = "every layer" if outer_share is None else "the residual blocks"
        raise ValueError(
            f"macs_reduction {macs_reduction} is out of reach: {channel_multiple} channels in "
            f"{where} give {most:.1f}; ask less, prune more outside the blocks (outer_share), or "
            "lower the profile's channel_multiple"
        )
    return best


def _prune(
    generator: Network,
    inner_share: float,
    outer_share: float,
    channel_multiple: int,
    importance: Importance,
) -> Network:
    student = copy.deepcopy(generator).eval()
    convolutions = [m for m in student.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    inner = {m.conv_block[1] for m in student.modules() if isinstance(m, ResnetBlock)}
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
            layer: min(
                inner_share if layer in inner else outer_share,
                1 - channel_multiple / max(layer.out_channels, channel_multiple),
            )
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
