"""Batches of random squares: a function of the seed and the step, whoever asks and how often."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from compress.data.dataset import Dataset, Example
from compress.loop import Batch, BatchAt
from deploy import imaging
from deploy.imaging import Pixels

REDRAWS = 100


def batches(
    dataset: Dataset, *, size: int, batch_size: int, seed: int, workers: int = 0
) -> BatchAt:
    """Batches of random squares, drawn from ``(seed, step)`` alone.

    Several processes draw the same batch and each takes its share (`compress.distributed`): every
    square continues the random numbers of the one before.

    Args:
        dataset: Where squares come from.
        size: Height and width of a source, in pixels.
        batch_size: Squares.
        seed: Of everything random.
        workers: Threads that prepare the steps after the one that is asked for; 0: none. They
            change how long a batch takes, not what is in it.

    Raises:
        ValueError: While drawing: all crops are of one colour.
    """

    def batch_at(step: int) -> Batch:
        rng = np.random.default_rng([seed, step])
        squares = [_textured(dataset, rng, size) for _ in range(batch_size)]
        targets = [target for _, target in squares if target is not None]
        return Batch(
            to_tensor(np.stack([source for source, _ in squares])),
            to_tensor(np.stack(targets)) if targets else None,
        )

    return batch_at if workers == 0 else _prefetched(batch_at, workers)


def _textured(dataset: Dataset, rng: np.random.Generator, size: int) -> Example:
    """A square that is not of one colour.

    InstanceNorm divides by the deviation: a dozen of them on a white sky overflow the gradient.
    """
    for _ in range(REDRAWS):
        source, target = dataset.crop(rng, size)
        if np.ptp(source, axis=(0, 1)).any():
            return source, target
    raise ValueError(
        f"{REDRAWS} crops of {size} pixels in a row are of one colour: are these the right images?"
    )


def _prefetched(batch_at: BatchAt, workers: int) -> BatchAt:
    """The same batches, the next ``workers`` steps made in threads meanwhile."""
    threads = ThreadPoolExecutor(workers, thread_name_prefix="ahead")
    ahead: dict[int, Future[Batch]] = {}
    lock = threading.Lock()

    def prefetched_at(step: int) -> Batch:
        with lock:
            wanted = range(step, step + workers + 1)
            for stale in ahead.keys() - set(wanted):
                ahead.pop(stale).cancel()
            for soon in wanted:
                if soon not in ahead:
                    ahead[soon] = threads.submit(batch_at, soon)
            asked = ahead.pop(step)
        return asked.result()

    return prefetched_at


def to_tensor(pixels: Pixels) -> Tensor:
    """``(N, H, W, 3)`` or ``(H, W, 3)`` uint8 -> (N, 3, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(imaging.to_model(pixels))
