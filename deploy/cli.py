"""``pocketgan deploy | inspect``: light at import, the work is in the room's other files."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from deploy.artifacts import Bundle, Candidate, Manifest, Quality

NONE = "-"
SHEET = "sheet.png"
"""Drawn beside the bundle, not in it: pictures of somebody's photos should not travel unasked."""


def add_arguments(name: str, parser: argparse.ArgumentParser) -> None:
    """Declare what a verb takes."""
    if name == "inspect":
        parser.add_argument("bundle", type=Path, help="the bundle to look into")
        parser.add_argument("--json", action="store_true", help="print the manifest as it is")
        return
    parser.add_argument("export", type=Path, help="what pocketgan compress wrote")
    parser.add_argument(
        "--device", required=True, help="name of a device profile, or path of a .toml file"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the bundle")
    parser.add_argument(
        "--force", action="store_true", help="make it again even if it is up to date"
    )


def run(name: str, args: argparse.Namespace) -> int:
    """Run a verb; return its exit status.

    Raises:
        ValueError, OSError, RuntimeError: What a user can mend.
    """
    from rich.console import Console

    console = Console(highlight=False)
    if name == "inspect":
        return _inspect(console, args.bundle, as_json=args.json)
    return _deploy(console, args.export, args.device, args.out, force=args.force)


def _deploy(console: Console, folder: Path, device: str, out: Path, *, force: bool) -> int:
    from rich.table import Table

    from deploy.artifacts import StudentExport
    from devices.machine import available
    from devices.profile import load_profile

    profile = load_profile(device)
    export = StudentExport.read(folder)
    from deploy.pipeline import STAGES, deploy
    from deploy.sheet import write_sheet

    def progress(stage: int, text: str) -> None:
        line = Table.grid(padding=(0, 2))
        line.add_column(style="dim", no_wrap=True)
        line.add_column(style="bold", width=max(len(name) for name in STAGES))
        line.add_column()
        line.add_row(f"{stage}/{len(STAGES)}", STAGES[stage - 1], _plain(text))
        console.print(line)

    bundle = deploy(export, profile, out, progress=progress, force=force)
    sheet = bundle.path.with_name(SHEET)
    write_sheet(bundle, sheet)
    _summarise(console, bundle)
    console.print(_plain(f"{sheet} shows it"))
    if not bundle.manifest.compiled:
        console.print(
            unfinished(folder, device, out, available(profile)),
            style="yellow",
            markup=False,
            soft_wrap=True,  # so that the command can be copied
        )
    return 0


def unfinished(export: Path, device: str, out: Path, reasons: list[str]) -> str:
    """What finishes a bundle that this machine could not, in one sentence."""
    size = sum(path.stat().st_size for path in export.iterdir())
    copies = [f"{export} ({_size(size)})"]
    if device.endswith(".toml"):
        copies.append(device)
    command = shlex.join(
        ["pocketgan", "deploy", str(export), "--device", device, "--out", str(out)]
    )
    return (
        f"Not compiled, because this machine is not the device ({'; '.join(reasons)}): "
        f"copy {' and '.join(copies)} to the board and run there: {command}"
    )


def _summarise(console: Console, bundle: Bundle) -> None:
    manifest = bundle.manifest
    shipped = _shipped(manifest)
    facts = [f"{manifest.backend} {manifest.precision}"]
    if manifest.latency is not None:
        size = manifest.profile.image_size
        facts.append(f"{manifest.latency.p50_ms:.1f} ms at {size} x {size}")
        eager = manifest.teacher.torch_eager_p50_ms
        if eager is not None:
            times = eager / manifest.latency.p50_ms
            facts.append(f"{times:.1f} x faster than the teacher in PyTorch eager")
    facts.append(f"{shipped.psnr_db:.1f} dB to the float student")
    console.print(_plain(f"{manifest.model.name} for {manifest.profile.name}: {', '.join(facts)}"))
    console.print(_plain(f"pocketgan inspect {shlex.quote(str(bundle.path))} says more"))


def _inspect(console: Console, folder: Path, *, as_json: bool) -> int:
    from deploy.artifacts import Bundle
    from devices.sealed import MANIFEST

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
    _show_candidates(console, manifest)
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
    model, teacher, shipped = manifest.model, manifest.teacher, _shipped(manifest)
    floats = [c for c in manifest.candidates if c.precision == "fp32" and c.engine_bytes]
    fastest = min(floats, key=lambda c: c.p50_ms or 0.0, default=None)
    table = _table("teacher and student", "", "teacher", "float student", "engine")
    table.add_row("runs on", "PyTorch eager", _name(fastest), _name(shipped))
    table.add_row("parameters", f"{teacher.params / 1e6:.2f} M", f"{model.params / 1e6:.2f} M", "")
    for label, theirs, ours in (
        ("MACs", teacher.macs, model.macs),
        ("MACs as papers count", teacher.macs_published, model.macs_published),
    ):
        fewer = f"{ours / 1e9:.2f} G, {theirs / ours:.1f} x fewer"
        table.add_row(label, f"{theirs / 1e9:.2f} G", fewer, "")
    table.add_row(
        "size",
        _size(4 * teacher.params),
        _size(fastest.engine_bytes if fastest else None),
        _size(shipped.engine_bytes),
    )
    eager = teacher.torch_eager_p50_ms
    table.add_row(
        "latency p50",
        _ms(eager),
        _ms(fastest.p50_ms if fastest else None, eager),
        _ms(shipped.p50_ms, eager),
        end_section=True,
    )
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
    from deploy.artifacts import GoldenPairs
    from deploy.imaging import from_model
    from deploy.verify import pixel_quality

    golden = GoldenPairs.read(bundle.golden)
    student = from_model(golden.student)
    if golden.target is None:
        reference, name, theirs = golden.teacher, "teacher", NONE
    else:
        reference, name = golden.target, "truth"
        theirs = _quality(pixel_quality(golden.teacher, reference))
    table.add_row(
        f"to {name}, {len(golden.source)} golden pairs",
        theirs,
        _quality(pixel_quality(student, reference)),
        _quality(bundle.manifest.quality),
    )


def _show_candidates(console: Console, manifest: Manifest) -> None:
    table = _table(
        "engines tried, beside the float student",
        "",
        "engine",
        "p50",
        "PSNR",
        "SSIM",
        "size",
        "why",
    )
    table.columns[0].justify = table.columns[1].justify = table.columns[6].justify = "left"
    for one in manifest.candidates:
        table.add_row(
            ">" if one.shipped else "",
            _name(one) + (f"\n{one.quantizer}" if one.quantizer else ""),
            _ms(one.p50_ms),
            NONE if one.psnr_db is None else f"{one.psnr_db:.1f} dB",
            NONE if one.ssim is None else f"{one.ssim:.4f}",
            _size(one.engine_bytes),
            _plain(one.reason),
            style="bold green" if one.shipped else None,
        )
    console.print(table)
    floor = manifest.floor
    _facts(
        console,
        floor=f"{floor.psnr_db:g} dB to the float student; at most {floor.truth_drop_db:g} dB "
        "lost to the truth",
    )


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
    from rich import box
    from rich.table import Table

    table = Table(title=f"\n{title}", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for index, header in enumerate(headers):
        table.add_column(header, justify="right" if index else "left")
    return table


def _facts(console: Console, **facts: str) -> None:
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", width=8)
    grid.add_column()
    for name, fact in facts.items():
        grid.add_row(name, _plain(fact))
    console.print(grid)


def _plain(text: str) -> str:
    """Text in which brackets are brackets, not rich's markup."""
    from rich.markup import escape

    return escape(text)


def _shipped(manifest: Manifest) -> Candidate:
    return next(one for one in manifest.candidates if one.shipped)


def _name(one: Candidate | None) -> str:
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


def _size(size: int | None) -> str:
    if size is None:
        return NONE
    return f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{size / 2**10:.0f} KiB"
