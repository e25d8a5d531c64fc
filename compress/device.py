"""Where a stage computes: the device, the memory format, and the way there and back."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn


def choose_device() -> torch.device:
    """CUDA where this process may see a GPU, else the CPU.

    ``CUDA_VISIBLE_DEVICES``, the driver's own variable, chooses: empty hides every GPU. Of several
    processes that ``torchrun`` started, each takes the GPU of its number on this machine.

    Raises:
        ValueError: There are more processes than GPUs.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    local, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local >= count:
        raise ValueError(
            f"process {local + 1} of this machine has no GPU left, there are {count}: start "
            f"torchrun with --nproc-per-node {count}, or set CUDA_VISIBLE_DEVICES= (empty) to "
            "train on the CPU"
        )
    return torch.device("cuda", local)


def batch_threads() -> int:
    """Threads that prepare batches while a GPU computes; a CPU has no hands free."""
    return 2 if choose_device().type == "cuda" else 0


@contextlib.contextmanager
def placed(
    networks: Iterable[nn.Module], device: torch.device, *, channels_last: bool = False
) -> Iterator[bool]:
    """Networks on a device, in the format they compute in; back on the CPU, contiguous, after.

    The context is whether images should be channels-last, too.

    Args:
        networks: Changed in place; one that is given twice is moved once.
        device: Where they go.
        channels_last: Convert those that gain by it, see `gains_by_channels_last`.
    """
    networks = tuple(dict.fromkeys(networks))
    gaining = [n for n in networks if channels_last and gains_by_channels_last(n)]
    for network in networks:
        network.to(device)
    for network in gaining:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    try:
        yield bool(gaining)
    finally:
        for network in networks:
            network.to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def gains_by_channels_last(network: nn.Module) -> bool:
    """Whether channels-last saves a network time.

    InstanceNorm computes on contiguous images only: around each one they would be copied back and
    forth, which costs more than the convolutions gain (`benchmarks/training.py`).
    """
    return not any(isinstance(module, nn.InstanceNorm2d) for module in network.modules())


def mover(device: torch.device, *, channels_last: bool = False) -> Callable[[Tensor], Tensor]:
    """A function that takes images, (B, C, H, W) on the CPU, to a device without waiting for it."""
    layout = torch.channels_last if channels_last else torch.preserve_format

    def move(images: Tensor) -> Tensor:
        pinned = images.pin_memory() if device.type == "cuda" else images
        return pinned.to(device, non_blocking=True, memory_format=layout)

    return move


@contextlib.contextmanager
def reproducible(device: torch.device) -> Iterator[None]:
    """Only algorithms that give the same bits every time, where they cost nothing: on the CPU.

    On a GPU some have no such form (reflection padding adds its gradients in any order), so runs
    there agree to rounding.
    """
    before = torch.are_deterministic_algorithms_enabled()
    settings: Any = torch.utils.deterministic  # a module whose attributes torch makes at import
    filling = settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(before or device.type == "cpu")
    # a debugging aid: it writes NaN into all new memory
    settings.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        settings.fill_uninitialized_memory = filling
