"""From an image to the feature vector that sets of images are compared by."""

from __future__ import annotations

import hashlib
import os
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from compress import pretrained
from deploy.imaging import Pixels

INCEPTION_2015 = "inception-2015-12-05"
"""Name of the one extractor whose distances are called FID and KID."""

SIDE = 299
"""Height and width that Inception takes, in pixels."""


class Extractor(Protocol):
    """Turns images into vectors."""

    @property
    def name(self) -> str:
        """Says whose features these are; stands beside every figure made of them."""
        ...

    @property
    def protocol(self) -> str:
        """What is done to an image on the way, in a line."""
        ...

    @property
    def digest(self) -> str:
        """Changes whenever the features might: of the weights and the protocol, in hex."""
        ...

    def features(self, pixels: Pixels) -> NDArray[np.float32]:
        """(H, W, 3) of any size -> (D,)."""
        ...


@dataclass(frozen=True)
class Inception2015:
    """The network that FID is defined by; loaded, and fetched if need be, when first used.

    An image is resized as most published figures were made (pytorch-fid): bilinear without
    antialiasing, corners not aligned, on values in [0, 1] after rounding to 8 bits. In float32 on
    one image at a time, so that a figure depends on no batch size.
    """

    @property
    def name(self) -> str:
        """`INCEPTION_2015`."""
        return INCEPTION_2015

    @property
    def protocol(self) -> str:
        """Resizing and layer."""
        return f"8-bit RGB, bilinear to {SIDE} px without antialiasing, last pooling (2048)"

    @property
    def digest(self) -> str:
        """Of the weights' own hash and the protocol."""
        return hashlib.sha256(f"{pretrained.INCEPTION.sha256} {self.protocol}".encode()).hexdigest()

    def features(self, pixels: Pixels) -> NDArray[np.float32]:
        """(H, W, 3) of any size -> (2048,).

        Raises:
            PretrainedError: The weights could not be fetched.
        """
        image = torch.from_numpy(pixels.astype(np.float32) / np.float32(255)).permute(2, 0, 1)[None]
        resized = F.interpolate(image, (SIDE, SIDE), mode="bilinear", align_corners=False)
        with torch.inference_mode():
            output = cast(Tensor, self._network(2 * resized - 1))  # (1, 2048)
        return output[0].numpy()

    @cached_property
    def _network(self) -> torch.jit.ScriptModule:
        path = pretrained.fetch(pretrained.INCEPTION)
        with warnings.catch_warnings():
            # the one published form of these weights that is the original graph is TorchScript
            warnings.filterwarnings("ignore", "`torch.jit.load` is deprecated", DeprecationWarning)
            network = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
        return cast(torch.jit.ScriptModule, network.eval())


@dataclass(frozen=True)
class CachedFeatures:
    """An extractor that remembers what it saw on disk, by the image's content.

    A real set is then looked at once, whichever folder it is in and whatever it is compared with.

    Attributes:
        extractor: Does the work.
        folder: Where features are kept; shared by any number of processes.
    """

    extractor: Extractor
    folder: Path

    @property
    def name(self) -> str:
        """The extractor's."""
        return self.extractor.name

    @property
    def protocol(self) -> str:
        """The extractor's."""
        return self.extractor.protocol

    @property
    def digest(self) -> str:
        """The extractor's."""
        return self.extractor.digest

    def features(self, pixels: Pixels) -> NDArray[np.float32]:
        """(H, W, 3) of any size -> (D,)."""
        path = self.path(pixels)
        try:
            return cast(NDArray[np.float32], np.load(path, allow_pickle=False))
        except FileNotFoundError:
            pass
        except (ValueError, EOFError):  # cut short by a full disk, say
            path.unlink(missing_ok=True)
        found = self.extractor.features(pixels)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with part.open("wb") as file:
                np.save(file, found, allow_pickle=False)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
        return found

    def path(self, pixels: Pixels) -> Path:
        """Where the features of an image are kept."""
        shape = "x".join(map(str, pixels.shape)).encode()
        content = hashlib.sha256(shape + np.ascontiguousarray(pixels).tobytes()).hexdigest()
        return self.folder / self.digest[:16] / content[:2] / f"{content}.npy"


def inception() -> CachedFeatures:
    """The extractor of FID and KID, remembering in the user's cache."""
    return CachedFeatures(Inception2015(), pretrained.cache_folder() / "features")
