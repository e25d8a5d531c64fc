"""What does deploy gain? Each export deployed for a profile, beside ONNX Runtime in fp32.

    .venv/bin/pocketgan compress benchmarks/recipes/resnet16.toml --device cpu   (and the others)
    .venv/bin/python benchmarks/engines.py build/*16*/cpu/export

Every figure comes from the evidence that the bundle itself holds: all engines of one deployment
take turns in one run of ten rounds, and the ratio is the median of the rounds' ratios of medians,
with its quartiles. Quality is the shipped engine's to the float student, on the golden pairs.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles

from rich.console import Console
from rich.table import Table

from deploy.artifacts import Bundle, StudentExport
from deploy.choose import engine_name
from deploy.evidence import Evidence, read_evidence
from deploy.pipeline import deploy
from deploy.show import shipped_candidate
from devices.profile import load_profile

FLOAT = "onnxruntime fp32"
PROFILES = ("cpu", str(Path(__file__).parent / "profiles" / "onnxruntime-cpu.toml"))


def main() -> None:
    """Deploy, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("exports", nargs="+", type=Path)
    parser.add_argument("--profile", action="append", help="instead of cpu and onnxruntime-cpu")
    args = parser.parse_args()
    table = Table(title="the engine that ships, beside ONNX Runtime fp32", title_justify="left")
    for column in ("student", "profile", "ships", "faster", "quartiles", "PSNR", "LPIPS", "took"):
        table.add_column(column, justify="left" if column in ("student", "ships") else "right")
    console = Console(width=140)
    for folder in args.exports:
        export = StudentExport.read(folder)
        for name in args.profile or PROFILES:
            with tempfile.TemporaryDirectory() as scratch:
                begun = time.monotonic()
                bundle = deploy(export, load_profile(name), Path(scratch) / "bundle")
                table.add_row(*row(bundle), f"{time.monotonic() - begun:.0f} s")
            console.print(f"{folder} for {bundle.manifest.profile.name}")
            for one in bundle.manifest.candidates:
                called = engine_name(one.backend, one.precision, one.quantizer, one.variant)
                lpips = "" if one.lpips is None else f", LPIPS {one.lpips:.4f}"
                db = "" if one.psnr_db is None else f", {one.psnr_db:.1f} dB{lpips}"
                ms = "" if one.p50_ms is None else f"{one.p50_ms:.1f} ms"
                console.print(f"  {called}: {ms}{db}: {one.reason}")
    console.print(table)


def row(bundle: Bundle) -> list[str]:
    """One line of the table."""
    manifest, evidence = bundle.manifest, read_evidence(bundle)
    assert evidence is not None  # deploy has just made it
    ships = shipped_candidate(manifest)
    name = engine_name(ships.backend, ships.precision, ships.quantizer, ships.variant)
    ratios = sorted(
        a / b for a, b in zip(*(medians(evidence, n) for n in (FLOAT, name)), strict=True)
    )
    low, _, high = quantiles(ratios, n=4)
    return [
        manifest.model.name,
        manifest.profile.name,
        name,
        f"{median(ratios):.2f} x",
        f"{low:.2f} to {high:.2f}",
        f"{ships.psnr_db:.1f} dB",
        "" if ships.lpips is None else f"{ships.lpips:.4f}",
    ]


def medians(evidence: Evidence, name: str) -> list[float]:
    """Median latency of an engine in each round, in milliseconds."""
    samples = evidence.samples_ms[name]
    size = len(samples) // evidence.rounds
    return [median(samples[at : at + size]) for at in range(0, len(samples), size)]


if __name__ == "__main__":
    main()
