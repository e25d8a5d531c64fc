"""Are a candidate's images worse than its baseline's, on the baseline's golden inputs?"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from deploy.artifacts import Bundle
from deploy.golden import GoldenPairs
from deploy.imaging import Pixels, from_model, to_model
from deploy.verify import PSNR_CEILING_DB, Distance, EngineError, psnr
from devices.check import loader
from devices.gate.report import Images
from devices.profile import DeviceProfile
from devices.sealed import SealedEngine, read_sealed
from devices.session import Images as Tensor

GOLDEN = "golden.npz"

TRUTH_DROP_DB = 0.3
"""PSNR to the truth, or the teacher, that may be lost. Of the recipe `restore`, INT8 engines that
held its floor lie within 0.09 dB of each other and 0.2 to 0.3 dB below the float engine, and those
that did not at least 0.95 dB below them (one deployment, 5 and 5 engines; as all figures here)."""

STUDENT_DROP_DB = 1.0
"""The same to the float student, where PSNR is of the engine's own small error: those that held the
floor lie within 0.8 dB of each other (41.1 to 41.9), the others 6.3 dB or more below."""

GOOD_DB = {"truth": 48.0, "teacher": 48.0, "float student": 40.0}
"""What a baseline has above this need not be kept: beside the truth, errors below one level of 255;
beside the float student, what float engines have and good INT8 engines never will."""

LPIPS_GROWTH = 0.01
"""LPIPS that may be added: those that held the floor lie within 0.005 of each other, the best of
the others 0.0115 above the best of them."""

TWINS_DB = 30.0
"""PSNR of bare engines to each other at least: the floor of most recipes to the float student."""

BARE_IMAGES = 4

NEEDED_FOR_LPIPS = ("onnx", "onnxruntime", "safetensors")

log = logging.getLogger(__name__)


def compare_images(baseline: Path, candidate: Path) -> Images | None:
    """Run both engines once over the baseline's golden inputs, beside the best reference known.

    That is the truth; where there is none the teacher's images. Where both are unknown it is the
    float student, and then each engine is held to its own student on its own golden inputs if they
    are not the same ones: how far an engine is from another network says nothing of its quality.
    Bare engines, which have no golden pairs, are compared with each other on made-up images.

    Images are worse when they lose more PSNR than `TRUTH_DROP_DB` (or `STUDENT_DROP_DB`), when
    LPIPS grows by more than `LPIPS_GROWTH` (where its weights are in the cache), or when they are
    of another shape or not finite.

    Args:
        baseline: A bundle, or a sealed folder of a bare engine.
        candidate: Another one.

    Returns:
        What was found; None where both hold the same engine, whose images are the same.

    Raises:
        BundleError: One of them is damaged.
        DeviceError: An engine cannot be opened or run on this machine.
        ValueError: The baseline's own images are none, so nothing can be worse than they are.
    """
    before, after = read_sealed(baseline), read_sealed(candidate)
    if GOLDEN not in before.sha256 or GOLDEN not in after.sha256:
        return None if _same(before, after) else _beside_each_other(baseline, candidate)
    old, new = Bundle.read(baseline), Bundle.read(candidate)
    if _same(before, after) and old.manifest.model.pixels == new.manifest.model.pixels:
        return None
    return _beside_a_reference(old, new)


def _same(before: SealedEngine, after: SealedEngine) -> bool:
    """Whether both run the same file in the same way."""
    first, second = (
        (one.sha256[one.engine_file], one.backend, one.precision) for one in (before, after)
    )
    return first == second


def _beside_a_reference(old: Bundle, new: Bundle) -> Images:
    golden = GoldenPairs.read(old.golden)
    against, reference = golden.reference(old.manifest.model.pixels)
    source, theirs, name = golden.source, reference, str(against)
    if against == "float student" and old.manifest.sha256[GOLDEN] != new.manifest.sha256[GOLDEN]:
        own = GoldenPairs.read(new.golden)
        source, theirs = own.source, from_model(own.student, new.manifest.model.pixels)
        name = "float student of each"
    allowed_db = STUDENT_DROP_DB if against == "float student" else TRUTH_DROP_DB
    lpips = _lpips(old.manifest.profile.threads)
    try:
        before_db, before_lpips = _quality(_levels(old, golden.source, reference), reference, lpips)
    except EngineError as error:
        raise ValueError(f"{old.path} cannot be a baseline: {error}") from error
    try:
        after_db, after_lpips = _quality(_levels(new, source, theirs), theirs, lpips)
    except EngineError as error:
        return Images(
            against=name,
            images=len(golden.source),
            baseline_psnr_db=before_db,
            candidate_psnr_db=None,
            baseline_lpips=before_lpips,
            worse=str(error),
        )
    losses = [
        _lost(min(before_db, GOOD_DB[against]), after_db, allowed_db, name),
        _grown(before_lpips, after_lpips, name),
    ]
    return Images(
        against=name,
        images=len(golden.source),
        baseline_psnr_db=before_db,
        candidate_psnr_db=after_db,
        baseline_lpips=before_lpips,
        candidate_lpips=after_lpips,
        worse="; ".join(filter(None, losses)),
    )


def _lost(wanted_db: float, after_db: float, allowed_db: float, against: str) -> str:
    if wanted_db - after_db <= allowed_db:
        return ""
    return (
        f"images lose {wanted_db - after_db:.2f} dB of PSNR to the {against} ({wanted_db:.2f} to "
        f"{after_db:.2f}), allowed are {allowed_db:g}"
    )


def _grown(before: float | None, after: float | None, against: str) -> str:
    if before is None or after is None or after - before <= LPIPS_GROWTH:
        return ""
    return (
        f"LPIPS of images to the {against} grows by {after - before:.4f} ({before:.4f} to "
        f"{after:.4f}), allowed are {LPIPS_GROWTH:g}"
    )


def _levels(bundle: Bundle, source: Pixels, reference: Pixels) -> Pixels:
    """What a bundle makes of golden inputs, as 8-bit levels: (N, H, W, 3).

    Raises:
        EngineError: They are not finite, or not of the reference's shape.
    """
    session = loader(bundle.path, read_sealed(bundle.path))()
    spec = bundle.manifest.model.pixels
    made = []
    for number, (image, wanted) in enumerate(zip(source, reference, strict=True)):
        values = _finite(session.run(to_model(image, spec)), f"golden image {number}")
        shape = (1, 3, *wanted.shape[:2])
        if values.shape != shape:
            raise EngineError(f"golden image {number} comes out as {values.shape}, not {shape}")
        made.append(from_model(values, spec)[0])
    return np.stack(made)


def _finite(values: Tensor, name: str) -> Tensor:
    if not np.isfinite(values).all():
        raise EngineError(f"{name} comes out with values that are not finite")
    return values


def _quality(
    levels: Pixels, reference: Pixels, lpips: Distance | None
) -> tuple[float, float | None]:
    """Means of PSNR, in dB, and of LPIPS where it can be asked: (N, H, W, 3) each."""
    ours, theirs = (one.astype(np.float32) for one in (levels, reference))
    mean_db = _mean([psnr(a, b, data_range=255.0) for a, b in zip(ours, theirs, strict=True)])
    if lpips is None:
        return mean_db, None
    ours, theirs = ((one / 127.5 - 1).transpose(0, 3, 1, 2) for one in (ours, theirs))
    try:
        return mean_db, _mean([float(one) for one in lpips(ours, theirs)])
    except ValueError as error:
        log.info("going on without LPIPS: %s", error)
        return mean_db, None


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _lpips(threads: int) -> Distance | None:
    """LPIPS, where its weights are in the cache and what it runs on is installed: not on a board.

    Its module needs packages that measuring a bundle does not, so it is opened only here.
    """
    if any(importlib.util.find_spec(name) is None for name in NEEDED_FOR_LPIPS):
        return None
    found: Distance | None = importlib.import_module("deploy.lpips").find_lpips(
        None, threads=threads
    )
    return found


def _beside_each_other(baseline: Path, candidate: Path) -> Images:
    """Compare engines of which nothing else is known: the baseline's images are the reference."""
    before, after = read_sealed(baseline), read_sealed(candidate)
    source = _smooth(before.profile)
    sessions = loader(baseline, before)(), loader(candidate, after)()
    scores = []
    worse = ""
    for number, image in enumerate(source):
        name = f"made-up image {number}"
        try:
            wanted = _finite(sessions[0].run(image), name)
        except EngineError as error:
            raise ValueError(f"{baseline} cannot be a baseline: {error}") from error
        try:
            values = _finite(sessions[1].run(image), name)
        except EngineError as error:
            worse = str(error)
            break
        if values.shape != wanted.shape:
            worse = f"{name} comes out as {values.shape}, the baseline's as {wanted.shape}"
            break
        data_range = float(np.ptp(wanted)) or 1.0  # one colour everywhere has no range of its own
        scores.append(psnr(values, wanted, data_range=data_range))
    after_db = None if worse else _mean(scores)
    if after_db is not None and after_db < TWINS_DB:
        worse = (
            f"images are {after_db:.1f} dB from the baseline's, {TWINS_DB:g} at least are asked "
            "of engines without golden pairs; compare bundles, which have them"
        )
    return Images(
        against="baseline's images",
        images=len(source),
        baseline_psnr_db=PSNR_CEILING_DB,
        candidate_psnr_db=after_db,
        worse=worse,
    )


def _smooth(profile: DeviceProfile) -> list[Tensor]:
    """Made-up images with large and small forms, (1, 3, S, S) in [-1, 1]; the same every time."""
    rng = np.random.default_rng(0)
    size = profile.image_size
    images = []
    for _ in range(BARE_IMAGES):
        image = np.zeros((1, 3, size, size))
        for cells in (2, 8, 32):
            coarse = rng.uniform(-1, 1, (1, 3, cells, cells))
            side = -(-size // cells)
            image += coarse.repeat(side, axis=2).repeat(side, axis=3)[..., :size, :size] / cells
        images.append((image / np.abs(image).max()).astype(np.float32))
    return images
