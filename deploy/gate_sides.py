"""What a gate compares: bundles, folders of bundles, bare engines, or two revisions of the code."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.artifacts import Bundle
from deploy.revisions import PREFIX, install, measure_with, try_out
from deploy.sealing import seal
from devices.check import ready
from devices.gate.rounds import Measure, Pair
from devices.machine import Machine
from devices.profile import Backend, DeviceProfile, Precision
from devices.sealed import MANIFEST, SealedEngine, read_sealed
from devices.signature import TrustedKeys

QUANTIZED = (b"QuantizeLinear", b"DequantizeLinear", b"QLinearConv", b"ConvInteger")
"""Operators of which an ONNX file with integers has at least one, as they stand in the file."""


@dataclass(frozen=True)
class Sides:
    """What to compare, and how.

    Attributes:
        pairs: Two sealed folders each.
        measure: Measures one of them in a fresh process.
        notes: What a person should know of the choice, a sentence each.
        engines: Whether the engines are what differs; with revisions it is the code.
    """

    pairs: tuple[Pair, ...]
    measure: Measure
    notes: tuple[str, ...] = ()
    engines: bool = True


def of_paths(
    baseline: Path,
    candidate: Path,
    measure: Measure,
    *,
    working: Path,
    trusted: TrustedKeys | None = None,
    device: DeviceProfile | None = None,
) -> Sides:
    """Two bundles, two folders of bundles, or two bare engines.

    Args:
        baseline: What is good enough.
        candidate: What may be slower.
        measure: Measures a bundle in a fresh process.
        working: An empty folder for what has to be written.
        trusted: If given, one of these keys must have signed each bundle.
        device: What bare engines run as; needed for them and for nothing else.

    Raises:
        BundleError: A bundle is damaged, not signed as it must be, or not compiled.
        ValueError: Nothing is there, the two are of different kinds, or their names do not match.
    """
    for path in (baseline, candidate):
        if not path.exists():
            raise ValueError(
                f"nothing is at {path}; give a bundle, a folder of them or an .onnx file"
            )
    if baseline.is_file() != candidate.is_file():
        raise ValueError(
            f"{baseline} and {candidate} are a file and a folder; give two bundles or two engines"
        )
    if baseline.is_file():
        return Sides(_bare((baseline, candidate), device, trusted, working), measure)
    if device is not None:
        raise ValueError("--device is for bare engines; a bundle says itself what it is for")
    before, after = _bundles(baseline, trusted), _bundles(candidate, trusted)
    if "" in before and "" in after:
        return Sides((Pair(_title(after[""]), before[""].path, after[""].path),), measure)
    gone = sorted(set(before) - set(after))
    if gone:
        raise ValueError(
            f"{candidate} has no bundle {', '.join(map(repr, gone))} as {baseline} has: "
            "put it there, or take it out of the baseline"
        )
    pairs = [Pair(_named(at, after[at]), before[at].path, after[at].path) for at in sorted(before)]
    new = sorted(set(after) - set(before))
    notes = [f"{at} has no baseline in {baseline}; it was not compared" for at in new]
    return Sides(tuple(pairs), measure, tuple(notes))


def of_revisions(
    baseline: str,
    candidate: str,
    bundle: Path,
    *,
    working: Path,
    trusted: TrustedKeys | None = None,
    repository: Path = Path(),
) -> Sides:
    """One bundle, measured with the code of two revisions.

    Args:
        baseline: The revision that is good enough, behind ``rev:`` or not.
        candidate: The one whose code may be slower.
        bundle: What to measure with both.
        working: An empty folder for wheels and copies.
        trusted: If given, one of these keys must have signed the bundle.
        repository: The checkout.

    Raises:
        BundleError: The bundle is damaged, not signed as it must be, or not compiled.
        ValueError: A revision is not there, cannot be built, or cannot be measured.
    """
    title = _title(Bundle.read(bundle, trusted))
    ready(bundle)
    revisions = {}
    for side, revision in (("baseline", baseline), ("candidate", candidate)):
        folder = working / side
        folder.mkdir()
        copy = folder / "bundle"
        # each has a copy: a folder tells which code to measure it with
        shutil.copytree(bundle, copy)
        revisions[copy] = install(revision.removeprefix(PREFIX), folder, repository)
    measure = measure_with(revisions)
    try_out(revisions, measure)
    notes = [
        f"{side} is {installed.revision}, {installed.commit[:12]}"
        for side, installed in zip(("baseline", "candidate"), revisions.values(), strict=True)
    ]
    old, new = revisions
    return Sides((Pair(title, old, new),), measure, tuple(notes), engines=False)


def require_ready(pairs: Sequence[Pair], machine: Machine) -> None:
    """Check that everything can be measured here, before anything is.

    Raises:
        BundleError: A bundle is damaged, or not compiled yet.
        DeviceError: This machine is not the one that a bundle is for.
    """
    for pair in pairs:
        for bundle in (pair.baseline, pair.candidate):
            ready(bundle, machine)


def _bundles(folder: Path, trusted: TrustedKeys | None) -> dict[str, Bundle]:
    """Bundles by where they lie in a folder; by nothing where the folder is one itself."""
    if (folder / MANIFEST).is_file():
        return {"": Bundle.read(folder, trusted)}
    found = {path.parent.relative_to(folder) for path in folder.rglob(MANIFEST)}
    # what a killed deploy left behind, or a store keeps for itself
    at = sorted(one for one in found if not any(part.startswith(".") for part in one.parts))
    if not at:
        raise ValueError(f"{folder} is no bundle and holds none; pocketgan deploy makes them")
    return {one.as_posix(): Bundle.read(folder / one, trusted) for one in at}


def _title(bundle: Bundle) -> str:
    return f"{bundle.manifest.model.name} on {bundle.manifest.profile.name}"


def _named(at: str, bundle: Bundle) -> str:
    return f"{at} on {bundle.manifest.profile.name}"


def _bare(
    engines: tuple[Path, Path],
    device: DeviceProfile | None,
    trusted: TrustedKeys | None,
    working: Path,
) -> tuple[Pair, ...]:
    """Two engine files in sealed folders of their own."""
    for engine in engines:
        if engine.suffix != ".onnx":
            raise ValueError(
                f"{engine} is not an .onnx file; compare bundles, which say what runs them"
            )
        if trusted is not None:
            raise ValueError(
                f"{engine} is a bare engine, which carries no signature: give bundles, or leave "
                "out --key and POCKETGAN_TRUSTED_KEYS"
            )
    if device is None:
        raise ValueError(f"{engines[0]} does not say what device it is for: name one with --device")
    before, after = (
        _sealed(engine, device, working / side)
        for engine, side in zip(engines, ("baseline", "candidate"), strict=True)
    )
    return (Pair(f"{engines[1].stem} on {device.name}", before, after),)


def _sealed(engine: Path, profile: DeviceProfile, folder: Path) -> Path:
    """A folder as a stopwatch reads it, with nothing in it but an engine."""
    data = engine.read_bytes()
    precision: Precision = "int8" if any(name in data for name in QUANTIZED) else "fp32"

    def fill(inside: Path) -> Callable[[dict[str, str]], SealedEngine]:
        (inside / "engine.onnx").write_bytes(data)
        return lambda sha256: SealedEngine(
            schema_version=1,
            engine_file="engine.onnx",
            compiled=True,
            backend=_backend(profile),
            precision=precision,
            profile=profile,
            sha256=sha256,
        )

    seal(folder, MANIFEST, fill)
    read_sealed(folder)
    return folder


def _backend(profile: DeviceProfile) -> Backend:
    """The runtime that the profile prefers, of those that read ONNX files and are here."""
    reading: list[Backend] = [name for name in profile.backends if name != "tensorrt"]
    if not reading:
        raise ValueError(
            f"{profile.name} runs engines of TensorRT only, which .onnx files are not: "
            "compare bundles made by pocketgan deploy"
        )
    return next((name for name in reading if importlib.util.find_spec(name)), reading[0])
