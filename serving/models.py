"""Which bundle serves: verified before it is loaded, warmed up and checked before it answers."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Protocol

import numpy as np

from deploy.artifacts import Bundle, GoldenPairs
from deploy.verify import EngineError, verify
from devices.profile import Backend, DeviceProfile, Precision
from devices.sealed import BundleError
from devices.session import Session
from serving.settings import ServingSettings
from serving.translator import Translator

WARM_UP_RUNS = 3
"""The first run allocates, the second still plans memory in some runtimes."""

GOLDEN_TOLERANCE_DB = 1.0
"""How far below its sealed PSNR an engine may be before the log says so: other processors round
INT8 products elsewhere."""

log = logging.getLogger(__name__)


class NotReadyError(RuntimeError):
    """The engine does not answer yet.

    Attributes:
        retry_after_s: When to come back, in whole seconds.
    """

    retry_after_s = 1


class Opener(Protocol):
    """How an engine becomes a session; `devices.session.open_session` is one."""

    def __call__(
        self, engine: Path, profile: DeviceProfile, *, backend: Backend, precision: Precision
    ) -> Session:
        """Load ``engine``."""
        ...


def read_bundle(path: Path) -> Bundle:
    """Open a bundle that can be served here; every digest is checked, nothing is loaded.

    Raises:
        BundleError: Not a bundle, damaged, or not compiled yet.
    """
    bundle = Bundle.read(path)
    manifest = bundle.manifest
    if not manifest.compiled:
        raise BundleError(
            f"{path} is not compiled for {manifest.profile.name} yet and cannot be served; "
            "finish it on the board with pocketgan deploy"
        )
    return bundle


def start_session(bundle: Bundle, opener: Opener) -> Session:
    """Load a bundle's engine, warm it up at the profile's size and check it.

    Raises:
        DeviceError: The engine cannot be loaded on this machine.
        BundleError: The engine does not reproduce the golden pairs here.
    """
    manifest = bundle.manifest
    session = opener(
        bundle.engine,
        manifest.profile,
        backend=manifest.backend,
        precision=manifest.precision,
    )
    side = manifest.profile.image_size
    for _ in range(WARM_UP_RUNS):
        session.run(np.zeros((1, 3, side, side), dtype=np.float32))
    check_golden(session, bundle)
    return session


def check_golden(session: Session, bundle: Bundle) -> None:
    """Run the golden pairs once and hold them to the rule that the engine was shipped by.

    Raises:
        BundleError: The images are below the floor that the bundle was sealed with.
    """
    try:
        fidelity = verify(session, GoldenPairs.read(bundle.golden))
        shortfall = fidelity.shortfall(bundle.manifest.floor)
    except EngineError as error:
        shortfall = str(error)
    if shortfall:
        raise BundleError(
            f"{bundle.path}: on this machine the engine does not reproduce the golden pairs "
            f"({shortfall}); make the bundle here with pocketgan deploy"
        )
    sealed_db = next((c.psnr_db for c in bundle.manifest.candidates if c.shipped), None)
    if sealed_db is not None and fidelity.psnr_db < sealed_db - GOLDEN_TOLERANCE_DB:
        log.warning(
            "the golden pairs come out at %.1f dB here, at %.1f dB where the bundle was made",
            fidelity.psnr_db,
            sealed_db,
        )


class ServedModel:
    """The bundle that is served, and its translator once the engine is warm.

    Attributes:
        bundle: The bundle, its digests checked.
        digest: SHA-256 of its manifest, with the algorithm's name before it.

    Args:
        bundle: As `read_bundle` gives it.
        settings: Limits for the translator.
        opener: Loads the engine.
    """

    def __init__(self, bundle: Bundle, settings: ServingSettings, opener: Opener) -> None:
        self.bundle = bundle
        self.digest = f"sha256:{bundle.digest}"
        self._settings = settings
        self._opener = opener
        self._translator: Translator | None = None
        self._failed = False

    def warm_up(self) -> None:
        """Load, warm up and check the engine; from then on there is a translator.

        Raises:
            DeviceError: The engine cannot be loaded on this machine.
            BundleError: It does not reproduce the golden pairs.
        """
        try:
            session = start_session(self.bundle, self._opener)
        except Exception:
            self._failed = True
            raise
        self._translator = Translator(
            session,
            self.bundle.manifest.model,
            self.bundle.manifest.profile,
            max_pixels=self._settings.max_pixels,
            max_queue=self._settings.max_queue,
            wait_timeout_s=self._settings.wait_timeout_s,
        )

    @property
    def translator(self) -> Translator:
        """The translator.

        Raises:
            NotReadyError: The engine is still warming up, or it failed to.
        """
        if self._translator is not None:
            return self._translator
        if self._failed:
            raise NotReadyError("the engine failed its start; the server's log says why")
        raise NotReadyError("the engine is warming up; try again in a second")
