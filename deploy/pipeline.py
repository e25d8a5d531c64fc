"""From a student export to a sealed bundle for one device."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import onnx

from deploy import graph
from deploy.artifacts import (
    Bundle,
    Candidate,
    GoldenPairs,
    Latency,
    Manifest,
    StudentExport,
)
from deploy.choose import Tried, choose
from deploy.eager import COMMAND, EagerError, eager_teacher
from deploy.engines import Engine, as_host, build, load, plan, variant
from deploy.neighbours import cpu_use, others_cores, warning
from deploy.preflight import preflight
from deploy.provenance import NEIGHBOURS, lineage, machine_facts, up_to_date, versions
from deploy.quantize import quantize
from deploy.sealing import seal
from deploy.verify import needed_db
from devices.check import noise
from devices.latency import Runner, interleave, timed
from devices.machine import available
from devices.percentiles import percentile
from devices.profile import DeviceProfile
from devices.sealed import MANIFEST

log = logging.getLogger(__name__)

Progress = Callable[[int, str], None]
"""Told the number of the stage, from 1, and what came of it."""

STAGES = ("read", "pre-flight", "build", "verify", "measure", "choose", "seal")
ROUNDS = 10
PER_ROUND = 5
"""50 samples each: a p90 takes 44 to be bounded."""
TEACHER_SHARE = 3
"""The teacher is asked for a third of the samples: it takes most of the time, and only its median
is wanted."""
TEACHER = "teacher"


def deploy(
    export: StudentExport,
    profile: DeviceProfile,
    out: Path,
    *,
    progress: Progress = lambda stage, text: None,
    force: bool = False,
    eager: Sequence[str] | None = None,
) -> Bundle:
    """Make a bundle: the fastest engine for a device that is still the student.

    1. read: the student, its calibration set and its golden pairs.
    2. pre-flight: operators, opset and memory against the profile, before anything is built.
    3. build: every precision of the profile on every backend, float always among them.
    4. verify: each engine beside the float student on the golden pairs. A float engine that is not
       the network torch ran ends everything here.
    5. measure: all engines and the teacher in PyTorch eager, interleaved in one run.
    6. choose: the fastest that passes the recipe's floor, never one slower than float.
    7. seal: engine, golden pairs and manifest into ``out``, whole or not at all.

    Where this machine is not the profile's device there is nothing to compile or to measure with:
    the bundle then holds the quantized ONNX file, verified on this CPU, for the device to finish
    (``compiled`` is False in its manifest).

    Args:
        export: The student.
        profile: The device.
        out: The bundle's folder; replaced when the new bundle is complete.
        progress: Told what each stage came to.
        force: Make it again even if ``out`` holds a bundle of the same inputs.
        eager: Command that runs the teacher in PyTorch, as `deploy.eager.eager_teacher` says; by
            default the project's own, which wants torch.

    Raises:
        ValueError: The student cannot run there, the export is broken or its calibration set
            unfit, or no engine passes the floor; the message says which and what to do.
        OSError: A file could not be written; ``out`` is as it was.
    """
    compiled = not available(profile)
    found = None if force else up_to_date(out, export, profile, compiled=compiled)
    if found is not None:
        progress(1, f"up to date: {out} was made from this export for this device")
        return found

    student = graph.load_checked(export.model)
    golden = GoldenPairs.read(export.golden)
    spec = export.manifest.model
    progress(
        1,
        f"{spec.name}: {spec.params / 1e6:.2f} M parameters, {spec.macs / 1e9:.2f} GMACs, "
        f"{len(golden.source)} golden pairs",
    )
    student, summary = preflight(student, profile)
    progress(2, summary)
    with tempfile.TemporaryDirectory(prefix="pocketgan-") as scratch:
        enough_db = needed_db(golden, export.manifest.floor)
        built = _build_all(
            student, export, profile, Path(scratch), compiled=compiled, enough_db=enough_db
        )
        progress(3, ", ".join(one.name for one, file in built if file))
        host = profile if compiled else as_host(profile)
        loaded = [
            load(one, file, host, golden, compiled=compiled) if file else (one, None)
            for one, file in built
        ]
        engines = [engine for _, engine in loaded if engine]
        progress(4, ", ".join(_fidelity(one) for one, _ in loaded))
        samples, others = {}, None
        if compiled:
            before = cpu_use()
            samples = _measure(export, engines, profile, eager or COMMAND)
            others = others_cores(before, cpu_use())
            progress(5, _medians(samples) + warning(others, os.cpu_count() or 1))
        else:
            progress(5, "left out: this machine is not the device")
        tried = [
            replace(one, p50_ms=median(samples[one.name])) if one.name in samples else one
            for one, _ in loaded
        ]
        shipped, candidates = choose(tried, export.manifest.floor)
        progress(6, f"{tried[shipped].name}: {candidates[shipped].reason}")
        engine = loaded[shipped][1]
        assert engine is not None  # one without is never chosen
        face = _manifest(export, profile, engine, candidates, samples, others)
        _seal(out, export, engine, face)
    progress(7, str(out))
    return Bundle.read(out)


def _build_all(
    student: onnx.ModelProto,
    export: StudentExport,
    profile: DeviceProfile,
    scratch: Path,
    *,
    compiled: bool,
    enough_db: float,
) -> list[tuple[Tried, Path | None]]:
    """Every engine of the plan, or why it could not be built."""
    plans = plan(profile, compiled=compiled)
    int8 = None
    if any(precision == "int8" for _, precision in plans):
        int8 = quantize(student, export.calibration(), enough_db=enough_db)
    built = []
    for backend, precision in plans:
        one = Tried(backend, precision, int8.quantizer if int8 and precision == "int8" else None)
        model = variant(student, int8, backend, precision, profile)
        folder = scratch / f"{backend}-{precision}"
        built.append(build(one, model, profile, folder, compiled=compiled))
    return built


def _measure(
    export: StudentExport, engines: Sequence[Engine], profile: DeviceProfile, eager: Sequence[str]
) -> dict[str, list[float]]:
    """Latencies of all engines, and of the teacher where it can run, from one run."""
    image = noise(profile)
    runners: dict[str, Runner] = {one.name: timed(one.session, image) for one in engines}
    with eager_teacher(
        export.path, threads=profile.threads, image_size=profile.image_size, command=eager
    ) as teacher:
        if teacher is not None:
            runners[TEACHER] = lambda count: teacher(max(1, count // TEACHER_SHARE))
        try:
            return interleave(runners, rounds=ROUNDS, per_round=PER_ROUND)
        except EagerError as error:
            log.warning("%s; measuring without it", error)
            del runners[TEACHER]
            return interleave(runners, rounds=ROUNDS, per_round=PER_ROUND)


def _fidelity(one: Tried) -> str:
    return f"{one.name} {one.fidelity.psnr_db:.1f} dB" if one.fidelity else f"{one.name} failed"


def _medians(samples: dict[str, list[float]]) -> str:
    return ", ".join(f"{name} {median(ms):.1f} ms" for name, ms in samples.items())


def _seal(out: Path, export: StudentExport, engine: Engine, face: Manifest) -> None:
    def fill(folder: Path) -> Callable[[dict[str, str]], Manifest]:
        for path in engine.files:
            shutil.copyfile(path, folder / path.name)
        shutil.copyfile(export.golden, folder / "golden.npz")
        return lambda sha256: face.model_copy(update={"sha256": sha256})

    seal(out, MANIFEST, fill)


def _manifest(
    export: StudentExport,
    profile: DeviceProfile,
    engine: Engine,
    candidates: tuple[Candidate, ...],
    samples: dict[str, list[float]],
    others: float | None,
) -> Manifest:
    """The face of the bundle, digests still missing."""
    eager_ms = median(samples[TEACHER]) if TEACHER in samples else None
    return Manifest(
        model=export.manifest.model,
        teacher=export.manifest.teacher.model_copy(update={"torch_eager_p50_ms": eager_ms}),
        student=export.manifest.student,
        profile=profile,
        compiled=bool(samples),
        backend=engine.backend,
        precision=engine.precision,
        engine_file=engine.file.name,
        candidates=candidates,
        floor=export.manifest.floor,
        quality=engine.fidelity.quality,
        latency=_latency(engine, samples[engine.name]) if samples else None,
        machine=machine_facts() | ({} if others is None else {NEIGHBOURS: f"{others:.1f} cores"}),
        lineage=lineage(export),
        versions=versions(),
        sha256={},
    )


def _latency(engine: Engine, samples_ms: list[float]) -> Latency:
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
