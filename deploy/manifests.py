"""The JSON faces of what travels between the rooms: of a student export, and of a bundle."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import PositiveFloat, PositiveInt

from deploy.imaging import RGB, PixelSpec
from devices.profile import Backend, DeviceProfile, Frozen, Precision

EVIDENCE = "evidence.json"
"""In a bundle: what its manifest's numbers were computed from."""
SCHEMA_VERSION: Literal[1] = 1

Task = Literal["paired", "unpaired", "super_resolution", "teacher_only"]


class ModelSpec(Frozen):
    """What a generator translates, and what it costs.

    Attributes:
        name: The recipe's name.
        task: What the images mean to each other; ``unknown`` where no recipe made the model.
        family: Generator family, as in ``compress.models``, or ``adopted``.
        image_size: Height and width that MACs are counted at, in pixels.
        scale: Output height over input height.
        size_multiple: Input height and width must be multiples of this.
        params: Parameters.
        macs: True multiply-accumulates at ``image_size``.
        macs_published: The same with transposed convolutions charged at their output
            resolution, as the papers do.
        pixels: How it sees pixels.
    """

    name: str
    task: Task | Literal["unknown"]
    family: str
    image_size: PositiveInt
    scale: PositiveInt = 1
    size_multiple: PositiveInt = 4
    params: PositiveInt
    macs: PositiveInt
    macs_published: PositiveInt
    pixels: PixelSpec = RGB


class Teacher(Frozen):
    """What the student is measured against; quality is to the truth on held-back images."""

    params: PositiveInt
    macs: PositiveInt
    macs_published: PositiveInt
    torch_eager_p50_ms: float | None = None
    psnr_db: float | None = None
    ssim: float | None = None


class Quality(Frozen):
    """How good images are, beside a reference: see `GoldenPairs.reference`."""

    psnr_db: float
    ssim: float


class QualityFloor(Frozen):
    """What an engine may cost beside the float student before it is refused.

    Attributes:
        psnr_db: Lowest PSNR to the float student's images, in dB.
        truth_drop_db: Largest loss of PSNR to the truth, in dB, where there is a truth.
        lpips: Largest LPIPS (AlexNet) to the float student's images, or None for any.
        speedup: How many times as fast as the fastest float engine an INT8 one must be, to be worth
            what it loses.
    """

    psnr_db: float
    truth_drop_db: float
    lpips: float | None = None
    speedup: PositiveFloat = 1.5


class ExportManifest(Frozen):
    """The face of a student export (``export.json``).

    Attributes:
        teacher: None where no teacher is known: the model was adopted.
        student: Quality of the float student on whole held-back images.
        student_to_teacher: The same against the teacher's images.
        lineage: Digests of what the student was made from: ``teacher``, ``recipe``, ``student``.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    model: ModelSpec
    teacher: Teacher | None
    student: Quality | None
    student_to_teacher: Quality | None
    channel_multiple: PositiveInt
    floor: QualityFloor
    lineage: dict[str, str]
    versions: dict[str, str]
    sha256: dict[str, str]


class Latency(Frozen):
    """Steady latency of the shipped engine, in milliseconds at batch 1."""

    p50_ms: float
    p90_ms: float
    samples: PositiveInt
    first_ms: float
    load_ms: float


class Candidate(Frozen):
    """One engine that was tried. PSNR, SSIM and LPIPS are to the float student's images.

    Attributes:
        truth_psnr_db: PSNR to the truth on the golden crops, where there is a truth.
        quantizer: What made it INT8, and which layers it left in float.
        variant: Which of the equal graphs it was made from.
        engine_bytes: Size on disk.
        kernels: Convolutions that run on integers, and all, as the runtime itself says; None
            for float engines, and where it was not asked.
        reason: Why it was shipped or not, in a few words.
    """

    backend: Backend
    precision: Precision
    quantizer: str | None = None
    variant: str = "as exported"
    p50_ms: float | None
    psnr_db: float | None
    ssim: float | None
    lpips: float | None = None
    truth_psnr_db: float | None = None
    engine_bytes: int | None = None
    kernels: tuple[int, int] | None = None
    shipped: bool
    reason: str


class Manifest(Frozen):
    """The face of a bundle: enough to serve it, to trust it and to know where it came from.

    Attributes:
        compiled: False where the target's runtime was absent; the engine is then the quantized
            ONNX file, checked through ONNX Runtime, and is finished on the board.
        teacher: None where no teacher is known.
        quality: Of the shipped engine, beside what `GoldenPairs.reference` gives.
        latency: None where the machine is not the target.
        machine: Fingerprint of the machine that measured it, and what other processes took of it
            meanwhile.
        content_sha256: `content_digest` of this manifest: the same for the same inputs, however
            long the engines took; empty in bundles older than that.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    model: ModelSpec
    teacher: Teacher | None
    student: Quality | None
    profile: DeviceProfile
    compiled: bool
    backend: Backend
    precision: Precision
    engine_file: str
    candidates: tuple[Candidate, ...]
    floor: QualityFloor
    quality: Quality
    latency: Latency | None
    machine: dict[str, str]
    lineage: dict[str, str]
    versions: dict[str, str]
    sha256: dict[str, str]
    content_sha256: str = ""


MEASURED: dict[str, Any] = {
    "content_sha256": True,
    "latency": True,
    "machine": True,
    "quality": True,
    "teacher": {"torch_eager_p50_ms"},
    "candidates": {
        "__all__": {
            "p50_ms",
            "psnr_db",
            "ssim",
            "lpips",
            "truth_psnr_db",
            "kernels",
            "shipped",
            "reason",
        }
    },
    "sha256": {EVIDENCE},
}
"""Of a manifest: what a second run of the same inputs may find otherwise."""


def content_digest(manifest: Manifest) -> str:
    """SHA-256 of all in a manifest that was not measured: what it says of inputs, tools and files.

    Keys at their default are left out, so that a key added later changes no digest made before.
    """
    content = manifest.model_dump(mode="json", exclude=MEASURED, exclude_defaults=True)
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
