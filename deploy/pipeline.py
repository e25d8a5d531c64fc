"""From a student export to a sealed bundle for one device."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from deploy import graph
from deploy.artifacts import Bundle, StudentExport
from deploy.cache import EngineCache
from deploy.calibration import describe_calibration
from deploy.choose import Tried, choose, spans
from deploy.control import marked
from deploy.eager import COMMAND
from deploy.engines import Making, as_host, build, load, plan, wants_half
from deploy.evidence import Calibration, LayerSensitivity
from deploy.golden import GoldenPairs
from deploy.int8 import Int8Graph, Quantizing, judges_floor
from deploy.lpips import find_lpips
from deploy.measuring import Measured, measure_all
from deploy.memory import free_mib
from deploy.passes.folding import fold
from deploy.passes.padding import merge_pads
from deploy.passes.precision import half
from deploy.passes.rewrites import variants
from deploy.precision_plan import PLAN, float_layers, read_plan
from deploy.preflight import preflight
from deploy.provenance import up_to_date
from deploy.quantize import named
from deploy.record import seal_bundle
from deploy.verify import Distance, needed_db
from devices.machine import available
from devices.profile import DeviceProfile

log = logging.getLogger(__name__)

Progress = Callable[[int, str], None]
"""Told the number of the stage, from 1, and what came of it."""
Working = Callable[[str], None]
"""Told what goes on inside a stage, for as long as it does."""

STAGES = ("read", "pre-flight", "quantize", "build", "verify", "measure", "choose", "seal")


def deploy(
    export: StudentExport,
    profile: DeviceProfile,
    out: Path,
    *,
    progress: Progress = lambda stage, text: None,
    working: Working = lambda text: None,
    force: bool = False,
    eager: Sequence[str] | None = None,
    cache: EngineCache | None = None,
) -> Bundle:
    """Make a bundle: the fastest engine for a device that is still the student.

    1. read: the student, its calibration set and its golden pairs.
    2. pre-flight: operators, opset and memory against the profile, before anything is built; what
       the device cannot run is replaced where there is an equal graph without it.
    3. quantize: INT8 by every quantizer that a backend fuses, led back to the recipe's floor.
    4. build: every precision of the profile on every backend, float always among them.
    5. verify: each engine beside the float student on the golden pairs. A float engine that is not
       the network torch ran ends everything here.
    6. measure: all engines and the teacher in PyTorch eager, interleaved in one run.
    7. choose: the fastest that passes the recipe's floor, never one slower than float.
    8. seal: engine, golden pairs, evidence and manifest into ``out``, whole or not at all.

    Where this machine is not the profile's device there is nothing to compile or to measure with:
    the bundle then holds the quantized ONNX file, verified on this CPU, for the device to finish
    (``compiled`` is False in its manifest).

    Args:
        export: The student.
        profile: The device.
        out: The bundle's folder; replaced when the new bundle is complete. Beside it lies, until
            then, what a run that is killed needs not measure again.
        progress: Told what each stage came to.
        working: Told how far a long stage is.
        force: Make it again even if ``out`` holds a bundle of the same inputs.
        eager: Command that runs the teacher in PyTorch, as `deploy.eager.eager_teacher` says; by
            default the project's own, which wants torch.
        cache: Where engines of earlier runs lie, or None to compile all.

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
    student = named(merge_pads(fold(student)))
    checked = preflight(student, profile, free_mib=free_mib() if compiled else None)
    progress(2, checked.said)
    host = profile if compiled else as_host(profile)
    lpips = find_lpips(export.lpips, threads=host.threads)
    resume = out.with_name(f".{out.name}-resume")
    with tempfile.TemporaryDirectory(prefix="pocketgan-") as scratch:
        graphs = variants(checked.model, profile)
        int8 = _quantize(
            export, graphs, profile, golden, lpips, resume, working, host.threads, compiled=compiled
        )
        progress(3, int8.said)
        makings = _makings(graphs, int8, profile, compiled=compiled)
        built = []
        for at, one in enumerate(makings):
            working(f"building {one.tried.name}")
            folder = Path(scratch) / f"{at}"
            made = build(one, profile, folder, cache, name=spec.name, compiled=compiled)
            built.append((one, *made))
        progress(4, _built(built))
        loaded = []
        for one, tried, file in built:
            working(f"verifying {one.tried.name}")
            loaded.append(
                load(one, file, host, golden, lpips, spec=spec.pixels, compiled=compiled)
                if file
                else (tried, None)
            )
        engines = [engine for _, engine in loaded if engine]
        progress(5, _verified([one for one, _ in loaded]))
        measured = Measured()
        if compiled:
            working("measuring")
            measured = measure_all(export, engines, profile, eager or COMMAND)
        progress(6, measured.said({one.name: one.kind for one, _ in loaded}))
        every = [replace(one, p50_ms=measured.p50_ms(one.name)) for one, _ in loaded]
        shipped, candidates = choose(every, export.manifest.floor)
        progress(7, f"{every[shipped].name}: {candidates[shipped].reason}")
        engine = loaded[shipped][1]
        assert engine is not None  # one without is never chosen
        layers = marked(int8.layers, engine.making.reverted)
        seal_bundle(out, export, profile, engine, candidates, measured, layers, int8.calibration)
    shutil.rmtree(resume, ignore_errors=True)
    progress(8, str(out))
    return Bundle.read(out)


@dataclass(frozen=True)
class _Int8:
    """INT8 graphs by variant, what is known of the layers of the first, and what ranges are of."""

    graphs: dict[str, list[Int8Graph]]
    layers: tuple[LayerSensitivity, ...] = ()
    calibration: Calibration | None = None

    @property
    def said(self) -> str:
        """What came of it, for people."""
        if self.calibration is None:
            return "left out: the profile wants no INT8"
        lines = [f"{self.calibration.images} calibration images", *self.calibration.warnings]
        if self.layers:
            worst = self.layers[0]
            lines[0] += (
                f", {len(self.layers)} layers, the most sensitive {worst.layer} "
                f"({worst.psnr_db:.1f} dB alone)"
            )
        return "\n".join(lines)


def _quantize(
    export: StudentExport,
    graphs: Sequence[tuple[str, onnx.ModelProto]],
    profile: DeviceProfile,
    golden: GoldenPairs,
    lpips: Distance | None,
    resume: Path,
    working: Working,
    threads: int,
    *,
    compiled: bool,
) -> _Int8:
    """INT8 graphs of every variant."""
    backends = [b for b, precision in plan(profile, compiled=compiled) if precision == "int8"]
    if not backends:
        return _Int8({})
    pixels = export.calibration()
    calibration = describe_calibration(pixels)
    keep: list[str] = []
    if PLAN in export.manifest.sha256:
        digest = export.manifest.sha256[export.model.name]
        keep = float_layers(read_plan(export.path / PLAN, graphs[0][1], digest))
    floor, spec = export.manifest.floor, export.manifest.model.pixels
    quantizing = Quantizing(
        calibration=pixels,
        spec=spec,
        floor=judges_floor(floor, needed_db(golden, floor, spec=spec)),
        keep=keep,
        lpips=lpips,
        threads=threads,
        resume=resume,
        working=working,
    )
    made = {name: quantizing.graphs(model, profile, backends) for name, model in graphs}
    layers = made[graphs[0][0]][1]
    return _Int8({name: found for name, (found, _) in made.items()}, layers(), calibration)


def _makings(
    graphs: Sequence[tuple[str, onnx.ModelProto]],
    int8: _Int8,
    profile: DeviceProfile,
    *,
    compiled: bool,
) -> list[Making]:
    """Every engine of the plan, of every variant."""
    makings = []
    sha256 = int8.calibration.sha256 if int8.calibration else None
    for backend, precision in plan(profile, compiled=compiled):
        for variant, model in graphs:
            if precision != "int8":
                made = Making(backend, precision, model, variant=variant)
                # fp16 is in the graph; the others are the same graph, computed otherwise
                makings.append(_in_half(made, profile) if precision == "fp16" else made)
                continue
            for one in int8.graphs.get(variant, ()):
                if one.backend == backend:
                    made = Making(
                        backend, precision, one.model, one.quantizer, variant, sha256, one.reverted
                    )
                    in_half = wants_half(backend, profile)
                    makings.append(_in_half(made, profile) if in_half else made)
    return makings


def _in_half(making: Making, profile: DeviceProfile) -> Making:
    """With what is not integer in fp16, or the reason why that cannot be."""
    try:
        model = half(making.model)
    except ValueError as error:
        return replace(making, failure=str(error))
    if graph.opset(model) > profile.opset:
        needs = f"in fp16 it is opset {graph.opset(model)}, {profile.name} reads {profile.opset}"
        return replace(making, failure=needs)
    return replace(making, model=model)


def _built(built: Sequence[tuple[Making, Tried, Path | None]]) -> str:
    counts = Counter(tried.kind for _, tried, file in built if file)
    return ", ".join(kind + (f" ({n} kinds)" if n > 1 else "") for kind, n in counts.items())


def _verified(tried: Sequence[Tried]) -> str:
    """How close to the float student they are, kind by kind, and which failed."""
    close = [(one.kind, one.fidelity.psnr_db) for one in tried if one.fidelity]
    failed = [f"{one.name} failed" for one in tried if not one.fidelity]
    return ", ".join(filter(None, [*failed, spans(close, "dB")]))
