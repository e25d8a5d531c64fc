"""Does an engine make the images that it was shipped for, on this machine?"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import numpy as np

from deploy.artifacts import Bundle
from deploy.golden import GoldenPairs
from deploy.imaging import canonical, from_model, to_model
from deploy.verify import psnr
from devices.sealed import BundleError
from devices.session import Session

GOLDEN_TOLERANCE_DB = 1.0
"""How far below its sealed PSNR an engine may be before the log says so: other processors round
INT8 products elsewhere."""

log = logging.getLogger(__name__)


def check_golden(session: Session, bundle: Bundle) -> None:
    """Run the golden pairs once and hold them to the rule that the engine was shipped by.

    As `deploy.verify` does, without what takes a second (SSIM) or other models (LPIPS): those were
    judged where the bundle was made, and here it is the same engine, or it is not.

    Raises:
        BundleError: The images are below the floor that the bundle was sealed with.
    """
    manifest = bundle.manifest
    golden, floor, spec = GoldenPairs.read(bundle.golden), manifest.floor, manifest.model.pixels
    errors_db, drops_db = [], []
    for index, source in enumerate(golden.source):
        student = golden.student[index : index + 1]
        image = session.run(to_model(source, spec))
        if image.shape != student.shape:
            raise _unlike(
                bundle,
                f"golden image {index} came out as {image.shape}, the student made {student.shape}",
            )
        if not np.isfinite(image).all():
            raise _unlike(bundle, f"golden image {index} came out with values that are not finite")
        errors_db.append(psnr(canonical(image, spec), canonical(student, spec), data_range=2.0))
        if golden.target is not None:
            truth = golden.target[index : index + 1].astype(np.float32)
            ours, theirs = (
                psnr(from_model(one, spec).astype(np.float32), truth, data_range=255.0)
                for one in (image, student)
            )
            drops_db.append(theirs - ours)
    error_db, drop_db = _mean(errors_db), _mean(drops_db)
    if error_db < floor.psnr_db:
        raise _unlike(bundle, f"{error_db:.1f} dB to the float student, floor {floor.psnr_db:g}")
    if drop_db > floor.truth_drop_db:
        raise _unlike(bundle, f"loses {drop_db:.2f} dB to the truth, floor {floor.truth_drop_db:g}")
    sealed_db = next((c.psnr_db for c in manifest.candidates if c.shipped), None)
    if sealed_db is not None and error_db < sealed_db - GOLDEN_TOLERANCE_DB:
        log.warning(
            "the golden pairs come out at %.1f dB here, at %.1f dB where the bundle was made",
            error_db,
            sealed_db,
        )


def _unlike(bundle: Bundle, why: str) -> BundleError:
    return BundleError(
        f"{bundle.path}: on this machine the engine does not reproduce the golden pairs "
        f"({why}); make the bundle here with pocketgan deploy"
    )


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0
