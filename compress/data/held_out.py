"""Some training images set aside, for what must not learn from those that all else learns from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from compress.data.cache import PixelCache
from compress.data.dataset import Dataset
from compress.data.folders import Folder
from compress.data.pairs import Pair, Pairs
from compress.data.photos import Photos, Restoration
from compress.data.superresolution import SuperResolution
from compress.data.unpaired import Unpaired

Item = TypeVar("Item")


def set_aside(dataset: Dataset, share: float, *, cache_mib: float) -> tuple[Dataset, Dataset]:
    """Two data sets of a kind, without an image in common: what stays, and what was set aside.

    Images are taken evenly spaced in the order of their names, one at least; the same ones in
    every run.

    Args:
        dataset: A split to learn from.
        share: Of its images to set aside, between 0 and 1.
        cache_mib: Memory for the decoded images of both, MiB.

    Raises:
        ValueError: There are not two images (of a domain), or no rule for this kind of data.
    """
    return (
        _part(dataset, share, aside=False, cache_mib=cache_mib * (1 - share)),
        _part(dataset, share, aside=True, cache_mib=cache_mib * share),
    )


def _part(dataset: Dataset, share: float, *, aside: bool, cache_mib: float) -> Dataset:
    if isinstance(dataset, Restoration | Photos):
        # their caches know files, not numbers: both parts can share one
        return replace(dataset, folder=_folder(dataset.folder, share, aside))
    if isinstance(dataset, Unpaired):
        return replace(
            dataset,
            sources=_folder(dataset.sources, share, aside),
            targets=_folder(dataset.targets, share, aside),
        )
    if isinstance(dataset, SuperResolution):
        return replace(
            dataset,
            high=_chosen(dataset.high, share, aside),
            low=None if dataset.low is None else _chosen(dataset.low, share, aside),
            cache=PixelCache(cache_mib),
        )
    if isinstance(dataset, Pairs):
        numbers, whole = _chosen(range(len(dataset)), share, aside), dataset

        def read(index: int) -> Pair:
            return whole.read(numbers[index])

        which = f"{whole.fingerprint} {numbers}"
        return replace(
            whole,
            names=_chosen(whole.names, share, aside),
            read=read,
            cache=PixelCache(cache_mib),
            fingerprint=hashlib.sha256(which.encode()).hexdigest(),
        )
    raise ValueError(f"no image of {type(dataset).__name__} can be set aside: there is no rule yet")


def _folder(folder: Folder, share: float, aside: bool) -> Folder:
    return replace(folder, files=_chosen(folder.files, share, aside))


def _chosen(items: Sequence[Item], share: float, aside: bool) -> tuple[Item, ...]:
    count = max(1, round(share * len(items)))
    if count >= len(items):
        raise ValueError(
            f"{share:g} of {len(items)} training images set aside leaves none to learn from: add "
            "images, or set aside a smaller share"
        )
    # the middles of as many equal stretches
    numbers = {(2 * k + 1) * len(items) // (2 * count) for k in range(count)}
    return tuple(item for n, item in enumerate(items) if (n in numbers) == aside)
