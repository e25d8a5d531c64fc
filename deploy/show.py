"""A bundle, for a person: teacher, student and engine side by side, and what was tried."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deploy.artifacts import Bundle
from deploy.choose import AS_EXPORTED
from deploy.evidence import LayerSensitivity, read_evidence
from deploy.golden import GoldenPairs
from deploy.imaging import from_model
from deploy.manifests import Candidate, Manifest, Quality
from deploy.verify import pixel_quality
from devices.sealed import MANIFEST

NONE = "-"
WORST = 6
"""Layers that are shown of what INT8 costs."""


def unfinished(export: Path, device: str, out: Path, reasons: list[str]) -> str:
    """What finishes a bundle that this machine could not, in one sentence."""
    size = sum(path.stat().st_size for path in export.iterdir())
    copies = [f"{export} ({size_text(size)})"]
    if device.endswith(".toml"):
        copies.append(device)
    command = shlex.join(
        ["pocketgan", "deploy", str(export), "--device", device, "--out", str(out)]
    )
    return (
        f"Not compiled, because this machine is not the device ({'; '.join(reasons)}): "
        f"copy {' and '.join(copies)} to the board and run there: {command}"
    )


def working_line(stage: int, stages: int, names: Sequence[str], text: str) -> Table:
    """One line of ``pocketgan deploy``: which stage it was and what came of it."""
    line = Table.grid(padding=(0, 2))
    line.add_column(style="dim", no_wrap=True)
    line.add_column(style="bold", width=max(len(name) for name in names))
    line.add_column()
    line.add_row(f"{stage}/{stages}", names[stage - 1], plain(text))
    return line


def summarise(console: Console, bundle: Bundle) -> None:
    """Print what came of a deployment, in two lines."""
    manifest = bundle.manifest
    shipped = shipped_candidate(manifest)
    facts = [f"{manifest.backend} {manifest.precision}"]
    if manifest.latency is not None:
        size = manifest.profile.image_size
        facts.append(f"{manifest.latency.p50_ms:.1f} ms at {size} x {size}")
        eager = manifest.teacher.torch_eager_p50_ms if manifest.teacher else None
        if eager is not None:
            times = eager / manifest.latency.p50_ms
            facts.append(f"{times:.1f} x faster than the teacher in PyTorch eager")
    facts.append(f"{shipped.psnr_db:.1f} dB to the float student")
    console.print(plain(f"{manifest.model.name} for {manifest.profile.name}: {', '.join(facts)}"))
    console.print(plain(f"pocketgan inspect {shlex.quote(str(bundle.path))} says more"))


def show_bundle(console: Console, folder: Path, *, as_json: bool) -> int:
    """Print what is in a bundle, for people or as its manifest; return the exit status."""
    bundle = Bundle.read(folder)
    if as_json:
        console.file.write((folder / MANIFEST).read_text())
        return 0
    manifest = bundle.manifest
    model, profile = manifest.model, manifest.profile
    state = "compiled" if manifest.compiled else "not compiled yet, to be finished on the board"
    _facts(
        console,
        bundle=str(folder),
        model=f"{model.name}: {model.task}, {model.family}, {_pixels(model.image_size)}",
        device=f"{profile.name}: {profile.description}",
        engine=f"{manifest.engine_file}: {manifest.backend} {manifest.precision}, {state}",
    )
    _show_models(console, bundle)
    show_candidates(console, bundle)
    if manifest.latency is not None:
        latency = manifest.latency
        _facts(
            console,
            latency=f"p50 {latency.p50_ms:.2f} ms, p90 {latency.p90_ms:.2f} ms over "
            f"{latency.samples} images; load {latency.load_ms:.0f} ms, first image "
            f"{latency.first_ms:.1f} ms",
            budget=f"p50 {profile.budget.p50_ms:g}, p90 {profile.budget.p90_ms:g}, p99 "
            f"{profile.budget.p99_ms:g} ms; pocketgan check measures against it",
        )
    _show_provenance(console, bundle)
    return 0


def _show_models(console: Console, bundle: Bundle) -> None:
    manifest = bundle.manifest
    model, teacher, shipped = manifest.model, manifest.teacher, shipped_candidate(manifest)
    floats = [c for c in manifest.candidates if c.precision == "fp32" and c.engine_bytes]
    fastest = min(floats, key=lambda c: c.p50_ms or 0.0, default=None)
    title = "teacher and student" if teacher else "model and engine"
    table = _table(title, "", "teacher", "float student", "engine")
    table.add_row(
        "runs on", "PyTorch eager" if teacher else NONE, name_of(fastest), name_of(shipped)
    )
    theirs = f"{teacher.params / 1e6:.2f} M" if teacher else NONE
    table.add_row("parameters", theirs, f"{model.params / 1e6:.2f} M", "")
    for label, before, after in (
        ("MACs", teacher.macs if teacher else None, model.macs),
        ("MACs as papers count", teacher.macs_published if teacher else None, model.macs_published),
    ):
        ours = f"{after / 1e9:.2f} G"
        if before:
            ours += f", {before / after:.1f} x fewer"
        table.add_row(label, f"{before / 1e9:.2f} G" if before else NONE, ours, "")
    table.add_row(
        "size",
        size_text(4 * teacher.params if teacher else None),
        size_text(fastest.engine_bytes if fastest else None),
        size_text(shipped.engine_bytes),
    )
    eager = teacher.torch_eager_p50_ms if teacher else None
    table.add_row(
        "latency p50",
        _ms(eager),
        _ms(fastest.p50_ms if fastest else None, eager),
        _ms(shipped.p50_ms, eager),
        end_section=True,
    )
    if teacher is not None:
        table.add_row(
            "to truth, held-back images",
            _both(teacher.psnr_db, teacher.ssim),
            _quality(manifest.student),
            NONE,
        )
    _add_golden(table, bundle)
    table.add_row("to float student", NONE, NONE, _both(shipped.psnr_db, shipped.ssim))
    console.print(table)


def _add_golden(table: Table, bundle: Bundle) -> None:
    """What the bundle's own images say of teacher, float student and engine."""
    golden = GoldenPairs.read(bundle.golden)
    spec = bundle.manifest.model.pixels
    name, pixels = golden.reference(spec)
    theirs, ours = NONE, NONE
    if name == "truth" and golden.teacher is not None:
        theirs = _quality(pixel_quality(golden.teacher, pixels))
    if name != "float student":
        ours = _quality(pixel_quality(from_model(golden.student, spec), pixels))
    table.add_row(
        f"to {name}, {len(golden.source)} golden pairs",
        theirs,
        ours,
        _quality(bundle.manifest.quality),
    )


def show_candidates(console: Console, bundle: Bundle) -> None:
    """Print every engine that was tried and why it lost, and what INT8 costs layer by layer."""
    manifest = bundle.manifest
    table = _table(
        "engines tried, beside the float student", "", "engine", "p50", "PSNR", "LPIPS", "size"
    )
    table.columns[0].justify = table.columns[1].justify = "left"
    table.columns[1].ratio = 1
    table.expand = True
    for one in manifest.candidates:
        notes = [one.quantizer, None if one.variant == AS_EXPORTED else one.variant]
        if one.kernels is not None:
            notes.append("{} of {} convolutions on integers".format(*one.kernels))
        notes.append(one.reason)
        table.add_row(
            ">" if one.shipped else "",
            name_of(one),
            _ms(one.p50_ms),
            NONE if one.psnr_db is None else f"{one.psnr_db:.1f} dB",
            NONE if one.lpips is None else f"{one.lpips:.4f}",
            size_text(one.engine_bytes),
            style="bold green" if one.shipped else None,
        )
        table.add_row("", plain("\n".join(filter(None, notes))), "", "", "", "", style="dim")
    console.print(table)
    floor = manifest.floor
    most = "" if floor.lpips is None else f"; LPIPS of at most {floor.lpips:g}"
    _facts(
        console,
        floor=f"{floor.psnr_db:g} dB to the float student; at most {floor.truth_drop_db:g} dB "
        f"lost to the truth{most}; INT8 at least {floor.speedup:g} x as fast as float",
    )
    evidence = read_evidence(bundle)
    if evidence is not None and evidence.sensitivity:
        _show_layers(console, evidence.sensitivity)


def _show_layers(console: Console, layers: Sequence[LayerSensitivity]) -> None:
    table = _table(
        f"what quantizing one layer alone costs, the worst {WORST} of {len(layers)}",
        "layer",
        "operator",
        "PSNR",
        "SSIM",
        "LPIPS",
        "",
    )
    table.columns[1].justify = table.columns[5].justify = "left"
    for one in layers[:WORST]:
        table.add_row(
            plain(one.layer),
            one.operator,
            f"{one.psnr_db:.1f} dB",
            f"{one.ssim:.4f}",
            NONE if one.lpips is None else f"{one.lpips:.4f}",
            "back in float" if one.reverted else "",
        )
    console.print(table)


def _show_provenance(console: Console, bundle: Bundle) -> None:
    manifest = bundle.manifest
    _facts(
        console,
        machine=", ".join(f"{name} {fact}" for name, fact in manifest.machine.items()),
        versions=", ".join(f"{name} {version}" for name, version in manifest.versions.items()),
    )
    table = _table("digests (sha256)", "", "")
    table.columns[1].justify = "left"
    table.show_header = False
    table.add_row("this bundle", bundle.digest)
    for name, value in sorted(manifest.sha256.items()):
        table.add_row(name, value)
    for name, value in manifest.lineage.items():
        table.add_row(f"made from: {name}", value.removeprefix("sha256:"))
    console.print(table)


def _table(title: str, *headers: str) -> Table:
    table = Table(title=f"\n{title}", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for index, header in enumerate(headers):
        table.add_column(header, justify="right" if index else "left")
    return table


def _facts(console: Console, **facts: str) -> None:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", width=8)
    grid.add_column()
    for name, fact in facts.items():
        grid.add_row(name, plain(fact))
    console.print(grid)


def plain(text: str) -> str:
    """Text in which brackets are brackets, not rich's markup."""
    return escape(text)


def shipped_candidate(manifest: Manifest) -> Candidate:
    """The candidate that became the engine."""
    return next(one for one in manifest.candidates if one.shipped)


def name_of(one: Candidate | None) -> str:
    """What people call an engine."""
    return NONE if one is None else f"{one.backend} {one.precision}"


def _pixels(size: int) -> str:
    return f"{size} x {size} pixels"


def _ms(ms: float | None, eager_ms: float | None = None) -> str:
    if ms is None:
        return NONE
    times = f", {eager_ms / ms:.1f} x faster" if eager_ms else ""
    return f"{ms:.1f} ms{times}"


def _quality(quality: Quality | None) -> str:
    return NONE if quality is None else _both(quality.psnr_db, quality.ssim)


def _both(psnr_db: float | None, ssim: float | None) -> str:
    if psnr_db is None or ssim is None:
        return NONE
    return f"{psnr_db:.2f} dB, {ssim:.4f}"


def size_text(size: int | None) -> str:
    """Bytes, for people."""
    if size is None:
        return NONE
    return f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{size / 2**10:.0f} KiB"
