"""The one training loop.

A *method* is a few networks, one forward pass they all share, and a list of *updates* that
alternate, as GAN training does. Every paper in ``compress/methods`` is a method; the loop does
not know which one it is running.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

Losses = dict[str, Tensor]
"""Named scalar losses, already weighted. Their sum is minimised; each one is logged."""

BatchAt = Callable[[int], "Batch"]
"""The batch of a step, the same whenever it is asked for: that is what makes resuming exact."""


@dataclass(frozen=True)
class Batch:
    """Images to translate and, when the dataset is paired, their ground truth."""

    source: Tensor  # (B, C, H, W) in [-1, 1]
    target: Tensor | None = None  # (B, C, H, W) in [-1, 1]


@dataclass(frozen=True)
class Outputs:
    """One batch after the shared forward pass.

    Each image hangs on its own network's graph; an update that is not that network's own
    must ``detach`` it.
    """

    batch: Batch
    teacher: Tensor  # (B, C, H, W) in [-1, 1]
    student: Tensor  # (B, C, H, W) in [-1, 1]
    teacher_features: Mapping[str, Tensor] = field(default_factory=dict)
    student_features: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Update:
    """One network takes one optimizer step on one objective."""

    network: str
    objective: Callable[[Outputs], Losses]
    every: int = 1  # runs on steps divisible by this
    split: Literal["train", "held_out"] = "train"  # which batch it looks at
    after: Callable[[], None] | None = None  # e.g. clamp gates back into [0, 1]


@dataclass(frozen=True)
class Method:
    """Networks, the forward pass they share, and the updates that alternate."""

    networks: Mapping[str, nn.Module]
    forward: Callable[[Batch], Outputs]
    updates: Sequence[Update]


@dataclass(frozen=True)
class Schedule:
    """How long, and how fast.

    Attributes:
        steps: Batches to train on.
        learning_rate: Of Adam, until ``decay_from``.
        decay_from: Share of the steps after which the rate falls linearly to zero.
    """

    steps: int
    learning_rate: float = 2e-4
    decay_from: float = 0.5

    def rate(self, step: int) -> float:
        """The learning rate of a step, 1-based."""
        start = self.decay_from * self.steps
        if step <= start:
            return self.learning_rate
        return self.learning_rate * (self.steps + 1 - step) / (self.steps + 1 - start)


def make_optimizers(
    method: Method, betas: tuple[float, float] = (0.5, 0.999)
) -> dict[str, torch.optim.Optimizer]:
    """One Adam for each network that some update moves."""
    return {
        name: torch.optim.Adam(
            [p for p in method.networks[name].parameters() if p.requires_grad], betas=betas
        )
        for name in dict.fromkeys(update.network for update in method.updates)
    }


def train(
    method: Method,
    batch_at: BatchAt,
    schedule: Schedule,
    *,
    optimizers: Mapping[str, torch.optim.Optimizer],
    start: int = 0,
    held_out_at: BatchAt | None = None,
    autocast: bool = False,
) -> Iterator[dict[str, float]]:
    """Train from step ``start + 1`` to the last, yielding each step's losses by ``network/loss``.

    Args:
        method: What to train.
        batch_at: The batch of each step.
        schedule: Steps and learning rate.
        optimizers: From `make_optimizers`, with their state where a run is resumed.
        start: Steps already done.
        held_out_at: Batches for the updates that look at held-out images.
        autocast: Compute convolutions in bfloat16 (parameters and losses stay float32).

    Raises:
        FloatingPointError: A loss is NaN or infinite; names the step, network and loss.
        ValueError: An update wants held-out batches and none are given.
    """
    for step in range(start + 1, schedule.steps + 1):
        for optimizer in optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = schedule.rate(step)
        device = next(iter(next(iter(method.networks.values())).parameters())).device.type
        with torch.autocast(device, torch.bfloat16, enabled=autocast):
            logged = _step(method, step, batch_at, optimizers, held_out_at)
        for name, value in logged.items():
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"step {step}: {name} is {value}; lower the learning rate or that loss's weight"
                )
        yield logged


def _step(
    method: Method,
    step: int,
    batch_at: BatchAt,
    optimizers: Mapping[str, torch.optim.Optimizer],
    held_out_at: BatchAt | None,
) -> dict[str, float]:
    outputs = {"train": method.forward(batch_at(step))}
    logged: dict[str, float] = {}
    for update in method.updates:
        if step % update.every == 0:
            if update.split not in outputs:
                if held_out_at is None:
                    raise ValueError(
                        f"the update of {update.network!r} needs held-out batches; none were given"
                    )
                outputs[update.split] = method.forward(held_out_at(step))
            losses = apply_update(update, outputs[update.split], optimizers[update.network])
            logged |= {f"{update.network}/{name}": float(x) for name, x in losses.items()}
    return logged


def apply_update(update: Update, outputs: Outputs, optimizer: torch.optim.Optimizer) -> Losses:
    """Step one network. Gradients are taken for its parameters only, so no other can move."""
    losses = update.objective(outputs)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    gradients = torch.autograd.grad(
        torch.stack([loss.float() for loss in losses.values()]).sum(), parameters, allow_unused=True
    )
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    optimizer.step()
    if update.after is not None:
        update.after()
    return {name: loss.detach() for name, loss in losses.items()}
