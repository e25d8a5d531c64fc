"""A moving average of the student's weights: steadier than the last step's."""

from __future__ import annotations

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def average_of(network: nn.Module, decay: float) -> AveragedModel:
    """An average that starts with the weights of the first ``update_parameters(network)``.

    From then on ``average = decay * average + (1 - decay) * weights`` (Polyak averaging with
    forgetting, as BigGAN's); buffers, such as BatchNorm's statistics, are those of the last update.

    Args:
        network: Copied; its later weights come by ``update_parameters``.
        decay: Share of the average that stays, in (0, 1).
    """
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]
    average.requires_grad_(False)
    return average


def settle(network: nn.Module, average: AveragedModel) -> None:
    """Give a network the average's weights and buffers."""
    network.load_state_dict(average.module.state_dict())
