"""The one training loop.

A *method* is a few networks, one forward pass they all share, and a list of *updates* that
alternate, as GAN training does. Every paper in ``compress/methods`` is a method; the loop does
not know which one it is running.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from compress.device import mover
from compress.distributed import average, rank, share, statistics, take_from_first

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

    Attributes:
        batch: What went in.
        teacher: The teacher's images, (B, C, H, W) in [-1, 1].
        student: The student's images, the same shape.
        teacher_features: Feature maps of the teacher's pass, in the order of its taps.
        student_features: The student's at the same places.
        images: Images of other passes by name, e.g. a second teacher's.
    """

    batch: Batch
    teacher: Tensor
    student: Tensor
    teacher_features: tuple[Tensor, ...] = ()
    student_features: tuple[Tensor, ...] = ()
    images: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Update:
    """One network takes one optimizer step on one objective."""

    network: str
    objective: Callable[[Outputs], Losses]
    every: int = 1  # runs on steps divisible by this
    split: Literal["train", "held_out"] = "train"  # which batch it looks at
    after: Callable[[], None] | None = None  # e.g. clamp gates back into [0, 1]
    pace: float = 1.0  # this network's learning rate over the schedule's
    watch: Callable[[], Losses] | None = None  # numbers to log beside the losses; none minimised


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
    optimizers: dict[str, torch.optim.Optimizer] = {}
    for name in dict.fromkeys(update.network for update in method.updates):
        parameters = [p for p in method.networks[name].parameters() if p.requires_grad]
        # one kernel instead of hundreds on a GPU; on a CPU it would round otherwise than the rest
        fused = all(p.is_cuda for p in parameters)
        optimizers[name] = torch.optim.Adam(parameters, betas=betas, fused=fused or None)
    return optimizers


def train(
    method: Method,
    batch_at: BatchAt,
    schedule: Schedule,
    *,
    optimizers: Mapping[str, torch.optim.Optimizer],
    start: int = 0,
    held_out_at: BatchAt | None = None,
    channels_last: bool = False,
    accumulate: int = 1,
    seed: int = 0,
) -> Iterator[dict[str, float]]:
    """Train from step ``start + 1`` to the last, yielding each step's losses by ``network/loss``.

    Batches go to the device that the networks are on. Where several processes train together
    (`compress.distributed`), each computes its share of every batch, and the losses are those of
    the whole batch on all of them.

    Args:
        method: What to train.
        batch_at: The batch of each step, on the CPU.
        schedule: Steps and learning rate.
        optimizers: From `make_optimizers`, with their state where a run is resumed.
        start: Steps already done.
        held_out_at: Batches for the updates that look at held-out images.
        channels_last: Give the networks batches in that format.
        accumulate: Parts that a batch (or a process's share of it) is computed in, one after the
            other: memory is that of one part. Each update makes its own passes then.
        seed: What a method draws at random (dropout) follows from it and the step alone.

    Raises:
        FloatingPointError: A loss is NaN or infinite; names the step, network and loss.
        ValueError: An update wants held-out batches and none are given, or a batch cannot be cut
            into so many parts.
    """
    device = next(iter(next(iter(method.networks.values())).parameters())).device
    move = mover(device, channels_last=channels_last)
    sources = {"train": batch_at, "held_out": held_out_at}
    running = statistics(method.networks.values())
    paces = {update.network: update.pace for update in method.updates}

    def batches_of(step: int) -> dict[str, list[Batch]]:
        made: dict[str, list[Batch]] = {}
        for update in _due(method, step):
            at = sources[update.split]
            if at is None:
                raise ValueError(
                    f"the update of {update.network!r} needs held-out batches; none were given"
                )
            if update.split not in made:
                made[update.split] = _shares(at(step), accumulate, move)
        return made

    for step in range(start + 1, schedule.steps + 1):
        for name, optimizer in optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = paces[name] * schedule.rate(step)
        # dropout has no generator of its own
        torch.manual_seed(int(np.random.SeedSequence([seed, step, rank()]).generate_state(1)[0]))
        losses = _step(method, _due(method, step), batches_of(step), optimizers)
        take_from_first(running)
        yield _finite(losses, step)


def apply_update(update: Update, outputs: Outputs, optimizer: torch.optim.Optimizer) -> Losses:
    """Step one network. Gradients are taken for its parameters only, so no other can move."""
    return apply_to_parts(update, (outputs,), optimizer)


def apply_to_parts(
    update: Update, parts: Iterable[Outputs], optimizer: torch.optim.Optimizer
) -> Losses:
    """Step one network once, by the mean gradient over parts of a batch (and over processes).

    Args:
        update: Whose network moves.
        parts: Outputs of equally large parts; each is asked for when the one before is done with.
        optimizer: That network's.

    Returns:
        The update's losses, their means over the parts and processes.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    names: list[str] = []
    total: list[Tensor | None] = []
    count = 0
    for outputs in parts:
        losses = update.objective(outputs)
        names, values = list(losses), torch.stack([loss.float() for loss in losses.values()])
        found = torch.autograd.grad(values.sum(), parameters, allow_unused=True)
        total = _add(total, [*found, values.detach()])
        count += 1
        del outputs, losses, values, found  # one part in memory at a time
    if count > 1:
        total = [None if x is None else x / count for x in total]
    means = iter(average([x for x in total if x is not None]))
    *gradients, logged = [None if x is None else next(means) for x in total]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    optimizer.step()
    if update.after is not None:
        update.after()
    assert logged is not None
    return dict(zip(names, logged.unbind(), strict=True))


def _add(total: list[Tensor | None], more: list[Tensor | None]) -> list[Tensor | None]:
    if not total:
        return more
    return [a if b is None else b if a is None else a + b for a, b in zip(total, more, strict=True)]


def _due(method: Method, step: int) -> list[Update]:
    return [update for update in method.updates if step % update.every == 0]


def _shares(batch: Batch, parts: int, move: Callable[[Tensor], Tensor]) -> list[Batch]:
    def cut(where: slice) -> Batch:
        values = {f.name: getattr(batch, f.name) for f in fields(batch)}
        return replace(
            batch, **{name: move(x[where]) for name, x in values.items() if x is not None}
        )

    return [cut(where) for where in share(len(batch.source), parts)]


def _step(
    method: Method,
    due: Sequence[Update],
    batches: Mapping[str, Sequence[Batch]],
    optimizers: Mapping[str, torch.optim.Optimizer],
) -> Losses:
    """The updates of a step, in their order; those of a split share the pass of the first."""
    shared: dict[str, Outputs] = {}
    # where a batch is computed in parts, passes are made again: with the weights of the first
    found: dict[str, dict[nn.Parameter, Tensor]] = {}
    losses: Losses = {}
    for update in due:
        parts, optimizer = batches[update.split], optimizers[update.network]
        with _unmoved(method) if update.split == "held_out" else contextlib.nullcontext():
            if len(parts) == 1:
                if update.split not in shared:
                    shared[update.split] = method.forward(parts[0])
                applied = apply_update(update, shared[update.split], optimizer)
            else:
                passes = _passes(method, parts, dict(found.setdefault(update.split, {})))
                if update is not due[-1]:
                    moving = (p for group in optimizer.param_groups for p in group["params"])
                    for parameter in moving:
                        for weights in found.values():
                            weights.setdefault(parameter, parameter.detach().clone())
                applied = apply_to_parts(update, passes, optimizer)
        logged = applied if update.watch is None else applied | update.watch()
        losses |= {f"{update.network}/{name}": number for name, number in logged.items()}
    return losses


@contextlib.contextmanager
def _unmoved(method: Method) -> Iterator[None]:
    """Held-out batches leave no trace in running means and variances."""
    norms = [
        module
        for network in method.networks.values()
        for module in network.modules()
        if isinstance(module, _NormBase)
    ]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum


def _passes(
    method: Method, parts: Sequence[Batch], found: Mapping[nn.Parameter, Tensor]
) -> Iterator[Outputs]:
    """The shared pass on one part after the other, with some weights as they were found."""
    for part in parts:
        now = [parameter.data for parameter in found]
        for parameter, weights in found.items():
            parameter.data = weights
        try:
            outputs = method.forward(part)
        finally:
            for parameter, weights in zip(found, now, strict=True):
                parameter.data = weights
        yield outputs


def _finite(losses: Losses, step: int) -> dict[str, float]:
    # all at once: a GPU is waited for a single time
    values = torch.stack(list(losses.values())).tolist() if losses else []
    for name, value in zip(losses, values, strict=True):
        if not math.isfinite(value):
            raise FloatingPointError(
                f"step {step}: {name} is {value}; lower the learning rate or that loss's weight"
            )
    return dict(zip(losses, values, strict=True))
