"""How different two images look: LPIPS on ONNX Runtime, from an export or from fetched weights."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from deploy.lpips_graph import SMALLEST, build_lpips
from devices.cache_folder import cache_folder
from devices.session import Images

log = logging.getLogger(__name__)

WEIGHTS = "lpips-alexnet.safetensors"
"""Name of the weights in the cache, where ``compress`` puts what it fetches."""
TENSORS_SHA256 = "7b4e1a6d6bbb001663b1a4ae2deff30d5d9d2cb1c9233fc1131a4f640addb1ca"
"""Of these weights, by `tensors_digest`."""


@dataclass(frozen=True)
class Lpips:
    """LPIPS on ONNX Runtime; a `deploy.verify.Distance`. `open_lpips` and `lpips_of` make one."""

    session: ort.InferenceSession

    def __call__(self, images: Images, references: Images) -> NDArray[np.float32]:
        """Distances of pairs, (N, 3, H, W) in [-1, 1] each -> (N,); 0 is the same image.

        Raises:
            ValueError: The shapes differ, or the images are too small.
        """
        if images.shape != references.shape:
            raise ValueError(
                f"images of one size have a distance, not {images.shape} and {references.shape}"
            )
        if min(images.shape[-2:]) < SMALLEST:
            raise ValueError(
                f"LPIPS takes images of at least {SMALLEST} x {SMALLEST} pixels, "
                f"got {images.shape[-1]} x {images.shape[-2]}"
            )
        # pair by pair: the feature maps of many large images are a lot of memory
        distances = [
            self.session.run(None, {"images": a[None], "references": b[None]})[0]
            for a, b in zip(images, references, strict=True)
        ]
        return np.concatenate([np.zeros(0, np.float32), *distances])


def find_lpips(exported: Path | None, *, threads: int = 1) -> Lpips | None:
    """LPIPS from an export, else from the weights in the cache, else none.

    Args:
        exported: An export's ``lpips.onnx``, if it has one.
        threads: Of ONNX Runtime.

    Raises:
        ValueError: The export's file is not LPIPS. (Weights in the cache that are damaged are as if
            there were none, and a warning says so.)
    """
    if exported is not None:
        return open_lpips(exported, threads=threads)
    cached = cached_weights()
    if cached is None:
        return None
    try:
        return lpips_of(read_weights(cached), threads=threads)
    except ValueError as error:
        log.warning("going on without LPIPS: %s", error)
        return None


def open_lpips(path: Path, *, threads: int = 1) -> Lpips:
    """LPIPS from a file that `build_lpips` made: an export's ``lpips.onnx``.

    Raises:
        ValueError: Not such a file.
    """
    return _open(path.read_bytes(), str(path), threads)


def lpips_of(weights: Mapping[str, NDArray[np.float32]], *, threads: int = 1) -> Lpips:
    """LPIPS from its weights, as `build_lpips` takes them."""
    model = build_lpips(weights)
    return _open(model.SerializeToString(deterministic=True), "LPIPS", threads)


def read_weights(path: Path) -> dict[str, NDArray[np.float32]]:
    """The weights in a file, checked against their known digest.

    Raises:
        ValueError: They are damaged, or others.
    """
    try:
        tensors = load_file(path)
        found = tensors_digest(tensors)
    except SafetensorError as error:
        found = str(error)
    if found != TENSORS_SHA256:
        raise ValueError(
            f"{path} does not hold the weights of LPIPS (found {found}, not {TENSORS_SHA256}): "
            "delete it; pocketgan evaluate fetches it again"
        )
    return tensors


def cached_weights() -> Path | None:
    """The weights where ``compress`` keeps what it fetched, or None where it fetched none."""
    path = cache_folder() / "weights" / WEIGHTS
    return path if path.is_file() else None


def tensors_digest(tensors: Mapping[str, NDArray[np.float32]]) -> str:
    """SHA-256 over names, shapes and values: the same whichever library wrote the file."""
    hasher = hashlib.sha256()
    for name in sorted(tensors):
        hasher.update(f"{name}{tensors[name].shape}".encode())
        hasher.update(tensors[name].tobytes())
    return hasher.hexdigest()


def _open(model: bytes, name: str, threads: int) -> Lpips:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # a spinning pool would slow the engines that are measured next
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # one class per error code, with no base of their own
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"{name} is not an ONNX model of LPIPS ({reason}); make the export again with "
            "pocketgan compress"
        ) from error
    if [value.name for value in session.get_inputs()] != ["images", "references"]:
        raise ValueError(
            f"{name} is not LPIPS: it takes {[v.name for v in session.get_inputs()]}, not images "
            "and references; make the export again with pocketgan compress"
        )
    return Lpips(session)
