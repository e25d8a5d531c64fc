"""Read ncnn's two files: ``.param``, a graph as text, and ``.bin``, its weights one after another.

Only the layers that the super-resolution networks published in this format are made of.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MAGIC = b"7767517"

HALF = 0x01306B47
"""Before weights that are stored in 16 bits; 0 stands before those in 32."""

WEIGHTLESS = frozenset(
    [
        "Input",
        "Split",
        "Concat",
        "Eltwise",
        "BinaryOp",
        "Interp",
        "PixelShuffle",
        "ReLU",
        "Noop",
        "Clip",
        "Padding",
    ]
)


@dataclass(frozen=True)
class Layer:
    """One line of a ``.param`` file: ``Convolution conv1 1 1 in out 0=64 1=3``."""

    kind: str
    name: str
    settings: Mapping[int, str]

    def number(self, key: int, default: float = 0) -> float:
        """A setting.

        Raises:
            ValueError: It is no number.
        """
        text = self.settings.get(key, str(default))
        try:
            return float(text)
        except ValueError as error:
            raise ValueError(f"the .param is damaged: {self.name} has {key}={text}") from error

    def integer(self, key: int, default: int = 0) -> int:
        """A setting that is a whole number; see `number`."""
        return int(self.number(key, default))


def read(param: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Read a graph and the weights beside it.

    Args:
        param: The ``.param``; the ``.bin`` lies beside it.

    Returns:
        ``LAYER.weight`` (out, in, k, k) and ``LAYER.bias`` in the order of the graph, in float32;
        and what a user should know about the graph.

    Raises:
        ValueError: No ``.bin``, a layer or a storage that is not read here, or sizes that differ.
    """
    layers = _layers(param)
    binary = param.with_suffix(".bin")
    if not binary.is_file():
        raise ValueError(f"{param} is a graph without weights: there is no {binary.name} beside it")
    strange = sorted({layer.kind for layer in layers} - WEIGHTLESS - {"Convolution", "PReLU"})
    if strange:
        raise ValueError(
            f"{param} has layers that are not read here: {', '.join(strange)}; only Convolution "
            "and PReLU may have weights"
        )
    weights = _Weights(binary)
    tensors: dict[str, Tensor] = {}
    for layer in layers:
        if layer.kind == "PReLU":
            tensors[f"{layer.name}.weight"] = weights.floats(layer.integer(0))
        elif layer.kind == "Convolution":
            tensors |= _convolution(layer, weights)
    if weights.left:
        raise ValueError(
            f"{binary} has {weights.left} bytes more than {param.name} tells of; the two do not "
            "belong together"
        )
    return tensors, _notes(layers)


def _convolution(layer: Layer, weights: _Weights) -> dict[str, Tensor]:
    if layer.integer(8):
        raise ValueError(f"{weights.path}: {layer.name} is quantized; import the float file")
    out, width = layer.integer(0), layer.integer(1)
    height = layer.integer(11, width)
    per_input = out * height * width
    count = layer.integer(6)
    if not per_input or count % per_input:
        raise ValueError(
            f"{weights.path}: {layer.name} has {count} weights, no multiple of its size"
        )
    read = {f"{layer.name}.weight": weights.stored(count).view(out, -1, height, width)}
    if layer.integer(5):
        read[f"{layer.name}.bias"] = weights.floats(out)
    return read


def _notes(layers: list[Layer]) -> tuple[str, ...]:
    last = layers[-1]
    if last.kind != "Interp":
        return ()
    return (
        f"the file's graph ends in a resize by {last.number(1, 1):g}, which is no "
        "part of the network: images come out larger than from that graph",
    )


def _layers(param: Path) -> list[Layer]:
    lines = param.read_text(encoding="utf-8", errors="replace").splitlines()[2:]
    layers = []
    try:
        for line in filter(str.strip, lines):
            kind, name, inputs, outputs, *rest = line.split()
            settings = (item.split("=", 1) for item in rest[int(inputs) + int(outputs) :])
            layers.append(Layer(kind, name, {int(key): value for key, value in settings}))
    except ValueError as error:
        raise ValueError(f"{param} is damaged at the line {line!r}") from error
    if not layers:
        raise ValueError(f"{param} has no layers")
    return layers


class _Weights:
    """The ``.bin`` file, read from front to back."""

    def __init__(self, path: Path) -> None:
        self.path, self._data, self._at = path, path.read_bytes(), 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def stored(self, count: int) -> Tensor:
        """Weights that a storage flag stands before."""
        (flag,) = self._take(1, np.dtype("<u4"))
        if flag == HALF:
            half = self._take(count, np.dtype("<f2"))
            self._at += -self._at % 4
            return torch.from_numpy(half.astype(np.float32))
        if flag == 0:
            return self.floats(count)
        raise ValueError(
            f"{self.path} stores weights in a way that is not read here (flag {int(flag):#x}); "
            "import a file with 16- or 32-bit floats"
        )

    def floats(self, count: int) -> Tensor:
        """Weights that are always 32-bit floats: biases, slopes."""
        return torch.from_numpy(self._take(count, np.dtype("<f4")).astype(np.float32))

    def _take(self, count: int, kind: np.dtype[np.generic]) -> NDArray[np.generic]:
        if count * kind.itemsize > self.left:
            raise ValueError(
                f"{self.path} ends too early: {count * kind.itemsize} bytes wanted at "
                f"{self._at}, {self.left} left"
            )
        taken = np.frombuffer(self._data, kind, count, self._at)
        self._at += count * kind.itemsize
        return taken
