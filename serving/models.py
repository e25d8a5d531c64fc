"""A bundle becomes a model that serves: verified, loaded, warmed up, checked and timed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from deploy.artifacts import Bundle
from devices.profile import Backend, DeviceProfile, Frozen, Precision
from devices.sealed import BundleError
from devices.session import DeviceError, Session
from serving.budget import Alone, BudgetWatch, StartCheck, budget_here, check_at_start
from serving.golden import check_golden
from serving.instances import best_batch
from serving.settings import ServingSettings
from serving.tiling import tiled_session
from serving.translator import Translator
from serving.trial import WatchedSession

if TYPE_CHECKING:
    from devices.signature import TrustedKeys

WARM_UP_RUNS = 3
"""The first run allocates, the second still plans memory in some runtimes."""

Size = tuple[int, int]
"""Height and width, in pixels."""

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


class ServedView(Frozen):
    """One model, for whoever operates the server.

    Attributes:
        name: Of the model.
        bundle: Name of the folder that it was read from.
        digest: SHA-256 of its manifest.
    """

    name: str
    bundle: str
    digest: str


class ModelsView(Frozen):
    """What serves, and what there is to go back to.

    Attributes:
        current: What serves; null before it is warm.
        previous: What ``rollback`` goes back to; it is still loaded.
        swaps: Bundles taken into service since start.
        refused: Bundles that were offered and refused.
        rollbacks: Times that a model was taken out again, by request or by itself.
        last: The latest of these in a sentence; empty before the first.
    """

    current: ServedView | None
    previous: ServedView | None
    swaps: int
    refused: int
    rollbacks: int
    last: str


@dataclass(frozen=True)
class LoadedModel:
    """A bundle whose engine is warm and checked.

    Whoever translates keeps a reference for as long as that takes; with the last reference the
    sessions go, and what they hold.

    Attributes:
        bundle: What was read from disk; the folder may hold something else by now.
        digest: SHA-256 of its manifest, with the algorithm's name before it.
        translator: Its sessions at work.
        check: How fast it was at start; None where that is not asked for.
        watch: How fast it is.
    """

    bundle: Bundle
    digest: str
    translator: Translator
    check: StartCheck | None
    watch: BudgetWatch

    def __str__(self) -> str:
        return f"{self.bundle.manifest.model.name} ({self.digest[:19]})"

    def view(self) -> ServedView:
        """Which one it is."""
        return ServedView(
            name=self.bundle.manifest.model.name, bundle=self.bundle.path.name, digest=self.digest
        )

    def rest(self) -> None:
        """Give back memory until it is needed again, once the images in the engine are done."""
        instances = self.translator.instances
        with ExitStack() as turns:
            for session in [turns.enter_context(instances.turn()) for _ in range(len(instances))]:
                trim = getattr(session, "trim", None)
                if trim is not None:
                    trim()


def read_bundle(path: Path, trusted: TrustedKeys | None = None) -> Bundle:
    """Open a bundle that can be served here; every digest is checked, nothing is loaded.

    Args:
        path: Its folder.
        trusted: If given, one of these keys must have signed it.

    Raises:
        BundleError: Not a bundle, damaged, not signed as it must be, or not compiled yet.
    """
    bundle = Bundle.read(path, trusted)
    manifest = bundle.manifest
    if not manifest.compiled:
        raise BundleError(
            f"{path} is not compiled for {manifest.profile.name} yet and cannot be served; "
            "finish it on the board with pocketgan deploy"
        )
    return bundle


def load_model(
    bundle: Bundle,
    settings: ServingSettings,
    opener: Opener,
    told: Callable[[bool], None] = lambda _: None,
    *,
    alone: Alone = nullcontext,
) -> LoadedModel:
    """Load a bundle's engine as often as the settings say, warm it up, check it and time it.

    Nothing of the bundle is read from its folder afterwards, which may then be replaced.

    Args:
        bundle: As `read_bundle` gives it.
        settings: Instances, sizes to warm up, limits, and what an engine that is too slow means.
        opener: Loads the engine.
        told: Called after every run of the engine from then on, with whether it gave images.
        alone: See `serving.budget.check_at_start`.

    Raises:
        DeviceError: The engine cannot be loaded on this machine, or it is too slow and the settings
            refuse that.
        BundleError: It does not reproduce the golden pairs, cannot translate a size that it is to
            be warm for, or was replaced while it was read.
    """
    manifest = bundle.manifest
    profile = manifest.profile
    sizes = warm_sizes(settings.warm_sizes or "")
    sessions = [start_session(bundle, opener, sizes) for _ in range(settings.instances)]
    tiled = [
        tiled_session(
            session,
            bundle,
            whole_pixels=settings.whole_pixels,
            map_bytes=settings.map_memory_mib * 2**20,
            map_folder=settings.map_folder,
        )
        for session in sessions
    ]
    sealed_as = _still_the_same(bundle)
    check = None
    if settings.latency_policy != "off":
        check = check_at_start(sessions[0], profile, alone=alone)
        if not check.within_budget:
            too_slow = f"{manifest.model.name} on this machine: {check.detail}"
            if settings.latency_policy == "refuse":
                raise DeviceError(
                    f"{too_slow}; serve it on the device it was made for, or set "
                    "POCKETGAN_LATENCY_POLICY=warn"
                )
            log.warning("%s", too_slow)
    watch = BudgetWatch(profile.image_size, check.budget if check else budget_here(profile)[1])
    batch = best_batch(sessions[0], profile.image_size, most=settings.max_together)
    translator = Translator(
        [WatchedSession(session, watch, told) for session in tiled],
        manifest.model,
        profile,
        digest=sealed_as,
        max_pixels=settings.max_pixels,
        fits=tiled[0].check,
        whole_pixels=settings.whole_pixels,
        batch=batch,
    )
    return LoadedModel(bundle, sealed_as, translator, check, watch)


def start_session(bundle: Bundle, opener: Opener, sizes: Iterable[Size] = ()) -> Session:
    """Load a bundle's engine, warm it up at the profile's size and others, and check it.

    Raises:
        DeviceError: The engine cannot be loaded on this machine.
        BundleError: The engine does not reproduce the golden pairs here, or does not take a size.
    """
    manifest = bundle.manifest
    session = opener(
        bundle.engine,
        manifest.profile,
        backend=manifest.backend,
        precision=manifest.precision,
    )
    side = manifest.profile.image_size
    multiple = manifest.model.size_multiple
    for height, width in dict.fromkeys([(side, side), *sizes]):
        padded = height + -height % multiple, width + -width % multiple
        try:
            for _ in range(WARM_UP_RUNS):
                session.run(np.zeros((1, 3, *padded), dtype=np.float32))
        except DeviceError as error:
            raise BundleError(
                f"{bundle.path}: the engine cannot be warmed up at {height}x{width}: {error}"
            ) from error
    check_golden(session, bundle)
    return session


def warm_sizes(text: str) -> list[Size]:
    """The sizes that ``256,512x384`` names: 256 x 256, and 512 high and 384 wide."""
    sides = [[int(side) for side in size.split("x")] for size in text.split(",") if size]
    return [(side[0], side[-1]) for side in sides]


def _still_the_same(bundle: Bundle) -> str:
    """The digest of a bundle whose files were opened after they were checked: checked again.

    Raises:
        BundleError: Somebody replaced it in between.
    """
    again = Bundle.read(bundle.path)
    if again.manifest != bundle.manifest:
        raise BundleError(f"{bundle.path} was replaced while it was read; try again")
    return f"sha256:{again.digest}"
