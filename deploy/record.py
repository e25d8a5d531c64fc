"""What a bundle says of itself: its manifest, its evidence and its bill of materials."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

from deploy.artifacts import SBOM, StudentExport
from deploy.engines import Engine
from deploy.evidence import Calibration, Evidence, LayerSensitivity
from deploy.manifests import EVIDENCE, Candidate, Latency, Manifest, content_digest
from deploy.measuring import ROUNDS, TEACHER, Measured
from deploy.provenance import NEIGHBOURS, lineage, machine_facts, versions
from deploy.sbom import sbom
from deploy.sealing import seal
from deploy.tiling.prepare import write_tiling
from devices.machine import this_machine
from devices.percentiles import percentile
from devices.profile import DeviceProfile
from devices.sealed import MANIFEST, digest


def seal_bundle(
    out: Path,
    export: StudentExport,
    profile: DeviceProfile,
    engine: Engine,
    candidates: tuple[Candidate, ...],
    measured: Measured,
    sensitivity: tuple[LayerSensitivity, ...],
    calibration: Calibration | None,
) -> None:
    """Write the bundle of one engine, whole or not at all.

    Args:
        out: The bundle's folder; replaced when the new one is complete.
        export: What the engine was made from.
        profile: The device.
        engine: What ships.
        candidates: What was tried.
        measured: Latencies, or nothing where this machine is not the device.
        sensitivity: What each layer loses in INT8, worst first.
        calibration: What INT8 ranges were taken from.

    Raises:
        OSError: A file could not be written; ``out`` is as it was.
    """
    face = _manifest(export, profile, engine, candidates, measured)

    def fill(folder: Path) -> Callable[[dict[str, str]], Manifest]:
        for path in engine.files:
            shutil.copyfile(path, folder / path.name)
        shutil.copyfile(export.golden, folder / export.golden.name)
        multiple = export.manifest.model.size_multiple
        write_tiling(engine.making.model, folder, size_multiple=multiple)
        evidence = Evidence(
            samples_ms={name: tuple(ms) for name, ms in measured.samples_ms.items()},
            rounds=ROUNDS if measured.samples_ms else 0,
            sensitivity=sensitivity,
            calibration=calibration,
            machine=this_machine(),
        )
        (folder / EVIDENCE).write_text(evidence.model_dump_json(indent=1) + "\n")
        (folder / SBOM).write_text(sbom(face, engine.files))

        def finish(sha256: dict[str, str]) -> Manifest:
            whole = face.model_copy(update={"sha256": sha256})
            return whole.model_copy(update={"content_sha256": content_digest(whole)})

        return finish

    seal(out, MANIFEST, fill)


def _manifest(
    export: StudentExport,
    profile: DeviceProfile,
    engine: Engine,
    candidates: tuple[Candidate, ...],
    measured: Measured,
) -> Manifest:
    """The face of the bundle, digests still missing."""
    teacher = export.manifest.teacher
    if teacher is not None:
        update = {"torch_eager_p50_ms": measured.p50_ms(TEACHER)}
        teacher = teacher.model_copy(update=update)
    neighbours = {}
    if measured.others is not None:
        neighbours = {NEIGHBOURS: f"{measured.others:.1f} cores"}
    return Manifest(
        model=export.manifest.model,
        teacher=teacher,
        student=export.manifest.student,
        profile=profile,
        compiled=bool(measured.samples_ms),
        backend=engine.making.backend,
        precision=engine.making.precision,
        engine_file=engine.file.name,
        candidates=candidates,
        floor=export.manifest.floor,
        quality=engine.fidelity.quality,
        latency=_latency(engine, measured),
        machine=machine_facts() | neighbours,
        lineage=lineage(
            export,
            quantization_sha256=_quantization(engine),
            engine_sha256=digest(engine.file),
        ),
        versions=versions(),
        sha256={},
    )


def _latency(engine: Engine, measured: Measured) -> Latency | None:
    samples_ms = measured.samples_ms.get(engine.name)
    if samples_ms is None:
        return None
    p50, p90 = percentile(samples_ms, 50), percentile(samples_ms, 90)
    assert p50 is not None  # ROUNDS x PER_ROUND is enough for both
    assert p90 is not None
    return Latency(
        p50_ms=p50.value_ms,
        p90_ms=p90.value_ms,
        samples=len(samples_ms),
        first_ms=engine.first_ms,
        load_ms=engine.load_ms,
    )


def _quantization(engine: Engine) -> str | None:
    """Digest of the INT8 graph that an engine was compiled from; None for a float engine."""
    if engine.making.precision != "int8":
        return None
    return hashlib.sha256(engine.making.model.SerializeToString(deterministic=True)).hexdigest()
