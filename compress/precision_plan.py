"""Which layers of a student bear INT8, told by their weights alone; and the plan that deploy reads.

The hybrid quantization of GHOST (Zhang et al., "Guided Hybrid Quantization for Object Detection in
Remote Sensing Imagery via One-to-One Self-Teaching", 2023): a layer gets the fewest bits with which
k-means represents its weights closely enough. The paper's measure of "closely enough" is a number
that depends on how large a network's weights are; here weights are measured by their own variance,
and the threshold is the lowest that a budget of bits allows. The bits are those that devices have:
8, 16 and 32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from torch import nn

from compress.fake_quant import Layer, channel_axis, quantizable
from compress.kmeans import distortion
from deploy.precision_plan import PLAN, LayerPrecision, PrecisionPlan
from deploy.reverting import LAYERS
from devices.sealed import digest

Precision = Literal["int8", "fp16", "fp32"]

BITS: dict[Precision, int] = {"int8": 8, "fp16": 16, "fp32": 32}
"""Of a weight."""

BETTER: tuple[Precision, ...] = ("fp16", "fp32")
"""What a layer is raised to that does not bear INT8, one after the other."""

WEIGHT = ".weight"
"""Ends the name of a layer's weights, in torch and in the ONNX file."""


@dataclass(frozen=True)
class Choice:
    """What one layer runs in.

    Attributes:
        precision: As chosen.
        score: What its weights lose in 8 bits, see `compress.kmeans.distortion`; 0 is nothing.
    """

    precision: Precision
    score: float


@dataclass(frozen=True)
class Precisions:
    """What every layer of a student runs in.

    Attributes:
        layers: By the names of the student's modules, in their order.
        mean_bits: Bits of a weight on average; those of biases and norms are not counted.
    """

    layers: Mapping[str, Choice]
    mean_bits: float

    @property
    def int8(self) -> tuple[str, ...]:
        """Names of the layers in INT8."""
        return tuple(name for name, one in self.layers.items() if one.precision == "int8")


def choose_precisions(student: nn.Module, *, mean_bits: float) -> Precisions:
    """The precision of every layer: the first that loses less than a threshold.

    The threshold is the lowest at which the weights have no more bits than the budget: the layers
    that lose most are raised one after the other, until the next no longer fits. A smaller one
    further down that would fit is not, because it loses less.

    Args:
        student: Its convolutions; trained, since it is their weights that are looked at.
        mean_bits: Bits of a weight on average, at most: 8 leaves all in INT8, 16 none.

    Raises:
        ValueError: A budget outside 8 to 32, or nothing to quantize.
    """
    if not BITS["int8"] <= mean_bits <= BITS["fp32"]:
        raise ValueError(f"mean_bits = {mean_bits:g} is not between 8 (INT8) and 32 (float)")
    found = quantizable(student)
    if not found:
        raise ValueError(f"{type(student).__name__} has no convolution that could run in INT8")
    size = {name: layer.weight.numel() for name, layer in found.items()}
    losses = {name: _losses(layer) for name, layer in found.items()}
    chosen: dict[str, Precision] = dict.fromkeys(found, "int8")
    weights = sum(size.values())
    bits, most = BITS["int8"] * weights, round(mean_bits * weights)
    for _, name, better in _raises(losses):
        more = (BITS[better] - BITS[chosen[name]]) * size[name]
        if bits + more > most:
            break
        chosen[name] = better
        bits += more
    return Precisions(
        {name: Choice(chosen[name], losses[name]["int8"]) for name in found},
        bits / weights,
    )


def precision_plan(precisions: Precisions, student: Path) -> PrecisionPlan:
    """The plan for a student that has left torch, worst layer first.

    An ONNX node has a name of the exporter's own making, but its weights keep the name of the
    module's parameter, also where a norm was folded into them. A module that runs twice has two
    nodes.

    Args:
        precisions: By the names of the student's modules.
        student: The ONNX file that `compress.export.to_onnx` wrote of it.

    Raises:
        ValueError: A layer whose weights belong to no module that has a precision.
    """
    graph = onnx.load(student).graph
    stored = {tensor.name for tensor in graph.initializer}
    entries = []
    for node in graph.node:
        if node.op_type not in LAYERS or node.input[1] not in stored:
            continue
        name = node.input[1].removesuffix(WEIGHT)
        if name not in precisions.layers:
            raise ValueError(
                f"{student}: the weights of {node.name!r} are called {node.input[1]!r}, and the "
                f"student has no convolution of that name; it has {', '.join(precisions.layers)}"
            )
        one = precisions.layers[name]
        entries.append(LayerPrecision(layer=node.name, precision=one.precision, score=one.score))
    return PrecisionPlan(
        model=f"sha256:{digest(student)}",
        layers=tuple(sorted(entries, key=lambda entry: -entry.score)),
        mean_bits=precisions.mean_bits,
    )


def write_plan(precisions: Precisions, student: Path) -> None:
    """Write ``precision_plan.json`` beside an ONNX file; see `precision_plan`."""
    plan = precision_plan(precisions, student)
    student.with_name(PLAN).write_text(plan.model_dump_json(indent=1) + "\n")


def _raises(
    losses: Mapping[str, Mapping[Precision, float]],
) -> list[tuple[float, str, Precision]]:
    """What a layer loses, the layer, and what is next better for it; the largest loss first."""
    found: list[tuple[float, str, Precision]] = []
    for name, loss in losses.items():
        now: Precision = "int8"
        for better in BETTER:
            if loss[better] < loss[now]:
                found.append((loss[now], name, better))
                now = better
    return sorted(found, key=lambda one: -one[0])


def _losses(layer: Layer) -> dict[Precision, float]:
    """What a layer's weights lose in each precision, as shares of their variance.

    Each output channel is divided by its root mean square before. INT8 has a scale for each
    channel, and the norm that is folded into a layer multiplies channels: both must not matter.
    """
    weights = layer.weight.detach().double().cpu().numpy()
    channels = np.moveaxis(weights, channel_axis(layer), 0)
    channels = channels.reshape(len(channels), -1)  # (O, I * kH * kW)
    size = np.sqrt(np.square(channels).mean(axis=1, keepdims=True))
    size[size == 0] = 1.0
    even = channels / size
    with np.errstate(over="ignore"):  # what float16 cannot hold loses infinitely much
        halves = channels.astype(np.float16).astype(np.float64)
    return {
        "int8": distortion(even.ravel(), BITS["int8"]),
        "fp16": _share(even - halves / size, even),
        "fp32": 0.0,
    }


def _share(error: NDArray[np.float64], values: NDArray[np.float64]) -> float:
    spread = float(values.var())
    return float(np.square(error).mean()) / spread if spread else 0.0
