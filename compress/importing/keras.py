"""Read Keras weights (HDF5, as ``save_weights`` of Keras 1 and 2 writes them), in torch's order."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

MAGIC = b"\x89HDF\r\n\x1a\n"

NAMES = {
    "kernel": "weight",
    "gamma": "weight",
    "alpha": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
"""What Keras calls a layer's weights, and what torch does; ``bias`` is the same."""


def read(path: Path) -> dict[str, Tensor]:
    """Read a file's layers in the order of the model.

    Returns:
        ``LAYER.weight`` and so on, in float32. Convolutions are turned to (out, in, k, k), dense
        layers to (out, in); slopes of a PReLU that shares them over the image to (C,).

    Raises:
        ValueError: Damaged, of another make (Keras 3), or h5py is not installed.
    """
    h5py = _h5py()
    try:
        with h5py.File(path, "r") as file:
            group = file.get("model_weights", file)
            if "layer_names" not in group.attrs:
                raise ValueError(
                    f"{path} is HDF5, but not as Keras 1 and 2 write it (no 'layer_names'); save "
                    "the model again with `model.save_weights('weights.h5')` of tf.keras 2"
                )
            tensors: dict[str, Tensor] = {}
            for layer in map(_text, group.attrs["layer_names"]):
                for name in map(_text, group[layer].attrs.get("weight_names", ())):
                    key, tensor = _tensor(layer, name, np.asarray(group[layer][name]))
                    tensors[key] = tensor
    except (OSError, KeyError) as error:
        raise ValueError(f"{path} is a damaged HDF5 file: {error}") from error
    if not tensors:
        raise ValueError(f"{path} has layers but no weights; it was saved without them")
    return tensors


def _tensor(layer: str, name: str, array: Any) -> tuple[str, Tensor]:
    last = name.rpartition("/")[2].partition(":")[0]
    tensor = torch.from_numpy(np.array(array, dtype=np.float32))
    if last == "kernel" and tensor.ndim == 4:
        tensor = tensor.permute(3, 2, 0, 1).contiguous()
    elif last == "kernel" and tensor.ndim == 2:
        tensor = tensor.T.contiguous()
    elif last == "alpha" and tensor.shape[:-1].numel() == 1:
        tensor = tensor.flatten()
    return f"{layer}.{NAMES.get(last, last)}", tensor


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _h5py() -> ModuleType:
    """Imported only when a Keras file is read: few people have one."""
    try:
        return importlib.import_module("h5py")
    except ModuleNotFoundError as error:
        raise ValueError(
            "reading a Keras file needs h5py: pip install 'pocketgan[keras]'"
        ) from error
