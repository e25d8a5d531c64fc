"""What each layer costs when it alone is quantized.

A generator has a few layers that do not bear rounding among many that do. Which they are is not to
be guessed (the first, the last, the widest), so each is tried: the graph in which only it is
quantized, beside the float student on a few calibration images.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from pydantic import ValidationError

from deploy.evidence import LayerSensitivity
from deploy.imaging import RGB, PixelSpec, canonical
from deploy.reverting import only, quantized_layers
from deploy.running import outputs
from deploy.verify import Distance, closeness
from devices.session import Images

log = logging.getLogger(__name__)

Progress = Callable[[int, int, float | None], None]
"""Told how many steps are done, how many there are at most, and how many seconds are left; None
before the first step, when nobody knows."""


def no_progress(done: int, total: int, seconds_left: float | None) -> None:
    """Tell nobody."""


def sensitivity(
    float_model: onnx.ModelProto,
    quantized: onnx.ModelProto,
    judges: Images,
    *,
    lpips: Distance | None,
    spec: PixelSpec = RGB,
    threads: int = 1,
    resume: Path | None = None,
    progress: Progress = no_progress,
) -> tuple[LayerSensitivity, ...]:
    """Every quantized convolution by itself, the one that costs most first.

    Args:
        float_model: The student.
        quantized: The same with Q/DQ, before it is placed for a backend.
        judges: Calibration images, (N, 3, H, W) as the student sees them.
        lpips: Or None to leave LPIPS out.
        spec: How the student sees pixels; figures are of images in [-1, 1].
        threads: Of ONNX Runtime.
        resume: Folder where each layer's result is kept as soon as it is known. A run that was
            killed goes on there, and one with the same student, quantization, judges and LPIPS
            finds everything done. None keeps nothing.
        progress: Told before the first layer and after each.

    Raises:
        EngineError: A layer's images are not finite.
        OSError: ``resume`` cannot be written.
    """
    layers = quantized_layers(quantized)
    operators = {node.name: node.op_type for node in float_model.graph.node}
    kept = None
    if resume is not None:
        kept = resume / f"sensitivity-{_key(float_model, quantized, judges, lpips, spec)}.jsonl"
    known = {} if kept is None else _read(kept, layers)
    if known:
        log.info("%d of %d layers are known from %s", len(known), len(layers), kept)
    progress(len(known), len(layers), None if len(known) < len(layers) else 0.0)
    missing = [layer for layer in layers if layer not in known]
    references = judges[:0]
    if missing:
        references = canonical(outputs(float_model, judges, threads=threads), spec)
    begun = time.monotonic()
    for tried, layer in enumerate(missing, start=1):
        one = only(quantized, float_model, [layer])
        images = canonical(outputs(one, judges, threads=threads), spec)
        close = closeness(images, references, lpips)
        known[layer] = LayerSensitivity(
            layer=layer,
            operator=operators.get(layer, "Conv"),
            psnr_db=close.psnr_db,
            ssim=close.ssim,
            lpips=close.lpips,
        )
        if kept is not None:
            _append(kept, known[layer])
        pace = (time.monotonic() - begun) / tried
        progress(len(known), len(layers), pace * (len(missing) - tried))
    return worst_first(known[layer] for layer in layers)


def worst_first(layers: Iterable[LayerSensitivity]) -> tuple[LayerSensitivity, ...]:
    """In the order in which layers are best reverted.

    By PSNR: errors of layers add up in squares, so that the layer with the lowest PSNR alone is
    the one without which most is won. LPIPS decides only between equals.
    """
    return tuple(sorted(layers, key=lambda one: (one.psnr_db, -(one.lpips or 0.0), one.layer)))


def _key(
    float_model: onnx.ModelProto,
    quantized: onnx.ModelProto,
    judges: Images,
    lpips: Distance | None,
    spec: PixelSpec,
) -> str:
    """Digest of all that the figures depend on."""
    hasher = hashlib.sha256(f"1 {ort.__version__} {judges.shape} {spec}".encode())
    for model in (float_model, quantized):
        hasher.update(hashlib.sha256(model.SerializeToString(deterministic=True)).digest())
    hasher.update(np.ascontiguousarray(judges).tobytes())
    if lpips is not None:
        # a distance is a function and has no digest; what it says of one pair stands for it
        hasher.update(f"{float(lpips(judges[:1], -judges[:1])[0]):.4g}".encode())
    return hasher.hexdigest()


def _read(path: Path, layers: Sequence[str]) -> dict[str, LayerSensitivity]:
    """What is known already; a line that a kill cut short is as if it had never been written."""
    known: dict[str, LayerSensitivity] = {}
    if not path.is_file():
        return known
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line:
            continue
        try:
            one = LayerSensitivity.model_validate_json(line)
        except ValidationError:
            log.info("%s, line %d is damaged; the layer is measured again", path, number)
            continue
        if one.layer in layers:
            known[one.layer] = one
    return known


def _append(path: Path, one: LayerSensitivity) -> None:
    """Add a line, whole or recognisably not, whoever else writes to the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # the line break in front ends a line that a kill cut short
    line = b"\n" + one.model_dump_json().encode() + b"\n"
    with path.open("ab", buffering=0) as file:  # one write, at the end of the file
        file.write(line)
