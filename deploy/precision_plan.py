"""``precision_plan.json``: which layers of a student run in INT8, decided where it was trained.

A student's maker may know better than any search afterwards which layers bear INT8: it can write
the file into the export, and `deploy.pipeline` then keeps the others in float.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import onnx
from pydantic import Field, PositiveFloat, ValidationError

from deploy.reverting import LAYERS
from deploy.rewiring import nearest
from devices.profile import Frozen, explain

PLAN = "precision_plan.json"
AGAIN = "make the export again with pocketgan compress"


class LayerPrecision(Frozen):
    """What one layer runs in.

    Attributes:
        layer: Name of its node in the student's ONNX file.
        precision: ``int8``, or what it needs instead.
        score: How much the plan's maker thinks it loses in INT8; larger is more, the unit its own.
    """

    layer: str
    precision: Literal["int8", "fp16", "fp32"]
    score: float


class PrecisionPlan(Frozen):
    """The face of ``precision_plan.json``.

    Attributes:
        model: ``sha256:`` and the digest of the ONNX file it is for, or None where it was written
            before that was.
        layers: Layers not named run in INT8.
        mean_bits: Bits of a weight on average, as the plan's maker counts them.
    """

    schema_version: Literal[1] = 1
    model: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")] | None = None
    layers: tuple[LayerPrecision, ...]
    mean_bits: PositiveFloat


def read_plan(path: Path, model: onnx.ModelProto, digest: str) -> PrecisionPlan:
    """Read a plan and check that it is one for this student.

    Args:
        path: ``precision_plan.json``.
        model: The float student.
        digest: SHA-256 of its file, in hex.

    Raises:
        ValueError: Not a plan, one for another student, a layer that the student has not (the
            message has the nearest that it has), or one named twice.
        OSError: The file cannot be read.
    """
    try:
        plan = PrecisionPlan.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(f"{path}: {explain(error, PrecisionPlan)}; {AGAIN}") from error
    if plan.model not in (None, f"sha256:{digest}"):
        raise ValueError(f"{path} is for {plan.model}, and the student is sha256:{digest}; {AGAIN}")
    known = [node.name for node in model.graph.node if node.op_type in LAYERS]
    seen: set[str] = set()
    for entry in plan.layers:
        if entry.layer not in known:
            raise ValueError(
                f"{path}: the student has no layer {entry.layer!r}; "
                f"{nearest(entry.layer, known)}; {AGAIN}"
            )
        if entry.layer in seen:
            raise ValueError(f"{path} names layer {entry.layer!r} twice; {AGAIN}")
        seen.add(entry.layer)
    return plan


def float_layers(plan: PrecisionPlan) -> list[str]:
    """Layers to keep out of INT8, as the plan orders them."""
    return [entry.layer for entry in plan.layers if entry.precision != "int8"]
