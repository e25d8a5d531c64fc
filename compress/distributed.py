"""Several processes, one training: ``torchrun`` starts them, here they agree.

Each process computes a share of every batch; `average` makes one gradient of what they find, so all
take the same step and hold the same weights. Alone, every function here does nothing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from compress.device import choose_device

PATIENCE = timedelta(hours=2)
"""How long processes wait for each other: the first one evaluates and exports alone."""


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Join the processes that ``torchrun`` started, until the block is left."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    device = choose_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if _together() else 0


def processes() -> int:
    """How many train together."""
    return dist.get_world_size() if _together() else 1


def is_first() -> bool:
    """Whether this process is the one that writes files and talks to people."""
    return rank() == 0


@contextlib.contextmanager
def first_alone() -> Iterator[None]:
    """The first process goes through the block alone; the others follow when it is through."""
    if _together() and not is_first():
        dist.barrier()
    yield
    if _together() and is_first():
        dist.barrier()


def share(images: int, parts: int) -> list[slice]:
    """Which images of a batch this process computes, in equally large parts.

    Args:
        images: In the whole batch.
        parts: That each process cuts its share in.

    Raises:
        ValueError: They cannot be shared evenly.
    """
    cuts = processes() * parts
    size, rest = divmod(images, cuts)
    if rest:
        raise ValueError(
            f"a batch of {images} cannot be shared evenly by {processes()} processes in {parts} "
            f"parts each: make batch_size a multiple of {cuts}"
        )
    first = rank() * parts
    return [slice(size * part, size * (part + 1)) for part in range(first, first + parts)]


def average(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Means over the processes, in one flat all_reduce; the tensors themselves where it is alone.

    Args:
        tensors: As many and as large on every process, of one type.
    """
    if processes() == 1:
        return list(tensors)
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    flat /= processes()
    return [
        piece.view(tensor.shape)
        for piece, tensor in zip(_split(flat, tensors), tensors, strict=True)
    ]


def take_from_first(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors with those of the first process, in one broadcast for each type."""
    if processes() == 1:
        return
    by_type: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        by_type.setdefault(tensor.dtype, []).append(tensor.detach())
    for group in by_type.values():
        flat = torch.cat([tensor.reshape(-1) for tensor in group])
        dist.broadcast(flat, src=0)
        for tensor, piece in zip(group, _split(flat, group), strict=True):
            tensor.copy_(piece.view(tensor.shape))


def statistics(networks: Iterable[nn.Module]) -> list[Tensor]:
    """Running means and variances: no gradient moves them, so every process has its own."""
    return [
        value
        for network in networks
        for module in network.modules()
        for name in ("running_mean", "running_var")
        if isinstance(value := getattr(module, name, None), Tensor)
    ]


def _split(flat: Tensor, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return torch.split(flat, [tensor.numel() for tensor in tensors])


def _together() -> bool:
    return dist.is_available() and dist.is_initialized()
