"""INT8 graphs of one student: every quantizer that pays on a backend, each scored.

Which ranges hurt a generator least depends on the student (dB to the float student, symmetric means
against asymmetric extremes: 31.0 and 45.1 on one with outliers, 52.1 and 50.9 on one without), so
all are made and the judges, calibration images, order them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from deploy.imaging import RGB, Pixels, PixelSpec, canonical, to_model
from deploy.islands import PERCENTILE, close_islands, open_outputs
from deploy.qdq import (
    collapse_activations,
    sink_pads,
    symmetric_activations,
    unsigned_activations,
)
from deploy.quantizers.nncf import by_nncf
from deploy.quantizers.ort import METHODS, by_onnxruntime
from deploy.ranges import tensor_ranges
from deploy.reverting import LAYERS, quantized_layers
from deploy.rewiring import nearest
from deploy.running import outputs
from deploy.verify import psnr
from devices.profile import Backend
from devices.session import Images

JUDGES = 8
"""Calibration images that order the quantized graphs."""


@dataclass(frozen=True)
class Quantized:
    """A quantized graph, and how it came about.

    Attributes:
        model: ONNX in Q/DQ form as its quantizer made it; `deploy.qdq.for_backend` places it.
        quantizer: What made it, for people.
        family: What is in INT8 and what is not; of graphs that share it the first is good enough
            to build, because they are equally fast.
        psnr_db: To the float student on judges, in dB, in the form for the first of ``backends``.
        kept: Layers left in float on demand.
        backends: What may fuse it.
    """

    model: onnx.ModelProto
    quantizer: str
    family: str
    psnr_db: float
    kept: tuple[str, ...]
    backends: tuple[Backend, ...]


def quantize_candidates(
    model: onnx.ModelProto,
    calibration: Pixels,
    backends: Sequence[Backend],
    *,
    keep: Sequence[str] = (),
    spec: PixelSpec = RGB,
) -> tuple[Quantized, ...]:
    """Quantize a float student in every way that pays; the same inputs give the same bytes.

    By NNCF with averaged and with true extremes, sums in float: for every backend. For TensorRT
    also both with sums in INT8, which it fuses. For ONNX Runtime also both with their islands
    closed where they have any, and the better of its own quantizer's two ranges.

    Args:
        model: Float ONNX; not changed. Its nodes get names where they have none.
        calibration: Inputs as the student will see them, (N, H, W, 3), checked by
            `deploy.calibration.check_calibration` before.
        backends: What will run them. ONNX Runtime that works through TensorRT counts as
            ``tensorrt`` here: it fuses what TensorRT fuses.
        keep: Names of layers left in float.
        spec: How the student sees pixels.

    Returns:
        Best first. None where all layers are kept, or where there is no layer at all.

    Raises:
        ValueError: A name in ``keep`` that is no layer; the message has the nearest that is.
        ModuleNotFoundError: NNCF is not installed.
    """
    model = named(model)
    layers = [node.name for node in model.graph.node if node.op_type in LAYERS]
    for name in keep:
        if name not in layers:
            raise ValueError(f"there is no layer {name!r} to keep; {nearest(name, layers)}")
    if set(layers) <= set(keep) or not backends:
        return ()
    judges = judges_of(calibration, spec)
    reference = canonical(outputs(model, judges), spec)

    def scored(
        made: onnx.ModelProto, quantizer: str, family: str, takers: Sequence[Backend]
    ) -> Quantized:
        images = canonical(outputs(_as_run(made, takers[0]), judges), spec)
        fidelity = psnr(images, reference, data_range=2.0)
        return Quantized(made, quantizer, family, fidelity, tuple(keep), tuple(takers))

    found = []
    summing = "tensorrt" in backends and any(node.op_type == "Add" for node in model.graph.node)
    for sums in (False, True) if summing else (False,):
        note, takers = (", sums too", ("tensorrt",)) if sums else ("", tuple(backends))
        for name, extremes in (("performance, mean", False), ("mixed, extremes", True)):
            made = by_nncf(model, calibration, extremes=extremes, sums=sums, keep=keep, spec=spec)
            found.append(scored(made, f"nncf {name}{note}", f"nncf{note}", takers))
    if "onnxruntime" in backends:
        for one in found[:2]:
            closed = _closed(one.model, model, calibration, spec)
            if closed is not None:
                note = ", islands closed"
                found.append(
                    scored(closed, one.quantizer + note, one.family + note, ("onnxruntime",))
                )
        own = []
        for method in METHODS:
            made = by_onnxruntime(model, calibration, method=method, keep=keep, spec=spec)
            title = f"onnxruntime, {method}"
            own.append(scored(made, title, "onnxruntime", ("onnxruntime",)))
        found.append(max(own, key=lambda quantized: quantized.psnr_db))
    usable = [one for one in found if quantized_layers(one.model)]
    return tuple(sorted(usable, key=lambda quantized: -quantized.psnr_db))


def judges_of(calibration: Pixels, spec: PixelSpec) -> Images:
    """`JUDGES` images, evenly through a calibration set: (N, 3, H, W)."""
    return to_model(calibration[:: max(1, len(calibration) // JUDGES)][:JUDGES], spec)


def named(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with a name of its own for every node; the same model where it has them."""
    names = [str(node.name) for node in model.graph.node]
    if all(names) and len(set(names)) == len(names):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    taken = set(names)
    seen: set[str] = set()
    for index, node in enumerate(copy.graph.node):
        if not node.name or node.name in seen:
            node.name = _free(node.name or f"{node.op_type}_{index}", taken)
        taken.add(node.name)
        seen.add(node.name)
    return copy


def _free(name: str, taken: set[str]) -> str:
    free, count = name, 1
    while free in taken:
        count += 1
        free = f"{name}_{count}"
    return free


def _closed(
    quantized: onnx.ModelProto, model: onnx.ModelProto, calibration: Pixels, spec: PixelSpec
) -> onnx.ModelProto | None:
    """The graph with its float islands closed, or None where it has none."""
    opened = open_outputs(quantized)
    if not opened:
        return None
    ranges = tensor_ranges(model, opened, calibration, percentile=PERCENTILE, spec=spec)
    return close_islands(quantized, ranges)


def _as_run(model: onnx.ModelProto, backend: Backend) -> onnx.ModelProto:
    """The numbers a backend will give, in the form that ONNX Runtime is fast at."""
    if backend == "tensorrt":
        model = symmetric_activations(collapse_activations(model))
    elif backend == "onnxruntime":
        model = collapse_activations(model)
    return sink_pads(unsigned_activations(model))
