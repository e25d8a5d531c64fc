"""Read pickles of numpy arrays without running what else they might hold."""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class PickleError(ValueError):
    """A pickle that is not nested dicts of numpy arrays; nothing of it was run."""


class _ArraysOnly(pickle.Unpickler):
    """Rebuilds numpy arrays in plain containers, and refuses to look up anything else."""

    def find_class(self, module: str, name: str) -> Any:
        # by what numpy itself would call it: the module has moved between its versions
        reconstruct = np.zeros(0).__reduce__()[0]
        allowed = {
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("numpy.core.multiarray", "_reconstruct"): reconstruct,
            ("numpy._core.multiarray", "_reconstruct"): reconstruct,
        }
        if (module, name) not in allowed:
            raise PickleError(
                f"the pickle asks for {module}.{name}; only numpy arrays are read from a pickle, "
                "because anything else could run code: it was not loaded"
            )
        return allowed[module, name]


def read_pickled_arrays(data: bytes) -> dict[str, NDArray[np.float32]]:
    """Nested dicts of float32 arrays from a pickle, flattened: ``{"a/b": array}``.

    Raises:
        PickleError: The pickle is broken, or holds anything else.
    """
    try:
        loaded = _ArraysOnly(io.BytesIO(data)).load()
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError) as error:
        raise PickleError(f"not a pickle of numpy arrays: {error}") from error
    return dict(_flat(loaded, ""))


def convolution_tensors(arrays: Mapping[str, NDArray[np.float32]]) -> dict[str, Tensor]:
    """Flax's names and layout to torch's: ``{trunk}/Conv_0/kernel`` (H, W, in, out) and so on.

    Returns:
        ``conv{i}.weight`` (out, in, H, W) and ``conv{i}.bias`` of the trunk, ``lin{i}.weight``
        (1, C, 1, 1) of the heads.

    Raises:
        PickleError: A name that is none of these.
    """
    found = {}
    for name, array in arrays.items():
        trunk = re.fullmatch(r"(?:AlexNet|VGG16)_0/Conv_(\d+)/(kernel|bias)", name)
        head = re.fullmatch(r"NetLinLayer_(\d+)/Conv_0/kernel", name)
        if trunk and trunk[2] == "bias":
            found[f"conv{trunk[1]}.bias"] = torch.from_numpy(array.copy())
        elif trunk or head:
            torch_name = f"conv{trunk[1]}.weight" if trunk else f"lin{head[1]}.weight"  # type: ignore[index]
            found[torch_name] = torch.from_numpy(array.transpose(3, 2, 0, 1).copy())
        else:
            raise PickleError(f"the weights hold {name!r}, which no trunk or head is called")
    return found


def _flat(node: object, path: str) -> Iterator[tuple[str, NDArray[np.float32]]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _flat(value, f"{path}/{key}" if path else str(key))
    elif isinstance(node, np.ndarray) and node.dtype == np.float32:
        yield path, node
    else:
        raise PickleError(f"the pickle holds {type(node).__name__} at {path!r}, not float32")
