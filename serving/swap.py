"""Which model serves: start, swap under load, roll back. The one in service is one reference."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from deploy.artifacts import Bundle
from devices.profile import Frozen
from devices.sealed import PLAIN_NAME, BundleError
from devices.session import DeviceError, open_session
from serving.budget import Alone
from serving.models import (
    LoadedModel,
    ModelsView,
    NotReadyError,
    Opener,
    load_model,
    read_bundle,
)
from serving.settings import ServingSettings
from serving.trial import Trial

if TYPE_CHECKING:
    from devices.signature import TrustedKeys
    from serving.translator import Translator

log = logging.getLogger(__name__)


class SwapError(RuntimeError):
    """The model in service stays: the one that was offered is no good, or not now.

    Attributes:
        status: The HTTP status that says which: 404, 409 or 422.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Readiness(Frozen):
    """The answer of ``GET /readyz``.

    Attributes:
        status: ``degraded`` while the engine is slower than its budget.
        detail: In what it is.
    """

    status: Literal["ready", "degraded"]
    detail: str = ""


class Models:
    """The model in service, the one before it, and the way from one to the other.

    Requests take `translator` (or `current`) when they begin and finish with it, whatever serves by
    then; a model that nobody uses any more frees its engine with its last reference. The model
    before the current one stays loaded, without the memory of other sizes than the profile's: going
    back to it needs no file and cannot fail.

    Args:
        bundle: What serves first, as `read_bundle` gives it.
        settings: For every model that is loaded.
        opener: Loads engines.
        trusted: If given, one of these keys must have signed every bundle.
        path: What `reload` reads: the bundle's folder, or a link to it that is moved on to the next
            one. The bundle's own if left out.
    """

    def __init__(
        self,
        bundle: Bundle,
        settings: ServingSettings,
        opener: Opener = open_session,
        *,
        trusted: TrustedKeys | None = None,
        path: Path | None = None,
    ) -> None:
        self._first = bundle
        self._first_digest = f"sha256:{bundle.digest}"
        self._settings = settings
        self._opener = opener
        self._trusted = trusted
        self._path = path or bundle.path
        self._changing = threading.Lock()
        self._state = threading.Lock()
        self._current: LoadedModel | None = None
        self._previous: LoadedModel | None = None
        self._trial: Trial | None = None
        self._failed = False
        self._swaps = self._refused = self._rollbacks = 0
        self._last = ""

    def start(self) -> None:
        """Load the first model; from then on there is one.

        Raises:
            DeviceError: The engine cannot be loaded on this machine, or is too slow for it.
            BundleError: It does not reproduce the golden pairs.
        """
        try:
            with self._changing:
                loaded = self._load(self._first, Trial(0, self._failed_trial))
        except Exception:
            self._failed = True
            raise
        self._current = loaded

    @property
    def current(self) -> LoadedModel:
        """The model in service.

        Raises:
            NotReadyError: The first is still warming up, or it failed to.
        """
        if self._current is not None:
            return self._current
        if self._failed:
            raise NotReadyError("the engine failed its start; the server's log says why")
        raise NotReadyError("the engine is warming up; try again in a second")

    @property
    def translator(self) -> Translator:
        """The translator of the model in service.

        Raises:
            NotReadyError: As `current`.
        """
        return self.current.translator

    @property
    def bundle(self) -> Bundle:
        """The bundle in service; the first one before it is warm."""
        return self._current.bundle if self._current else self._first

    @property
    def digest(self) -> str:
        """Of the bundle in service, with the algorithm's name before it; no disk is asked."""
        return self._current.digest if self._current else self._first_digest

    def readiness(self) -> Readiness:
        """Whether images are translated, and fast enough.

        Raises:
            NotReadyError: No engine is warm, or it is too slow and the settings call that unready.
        """
        degraded = self.current.watch.degraded
        if degraded and self._settings.degraded_policy == "unready":
            raise NotReadyError(f"the engine is slower than its budget: {degraded}")
        return Readiness(status="degraded" if degraded else "ready", detail=degraded)

    def view(self) -> ModelsView:
        """What serves, and what there is to go back to."""
        with self._state:
            return ModelsView(
                current=self._current.view() if self._current else None,
                previous=self._previous.view() if self._previous else None,
                swaps=self._swaps,
                refused=self._refused,
                rollbacks=self._rollbacks,
                last=self._last,
            )

    def reload(self) -> ModelsView:
        """Serve what is at the path that the server was started with.

        Raises:
            SwapError: It is no good (422), or another change is under way (409).
        """
        return self._swap(self._path)

    def use(self, name: str) -> ModelsView:
        """Serve a bundle of the folder of bundles.

        Args:
            name: Of the folder: no path, nothing hidden.

        Raises:
            SwapError: There is none of that name (404), it is no good (422), or another change is
                under way (409).
        """
        folder = self._settings.bundles_dir
        if folder is None:
            raise SwapError(
                409, "no folder of bundles is configured: set POCKETGAN_BUNDLES_DIR, or reload"
            )
        if not PLAIN_NAME.fullmatch(name) or not (folder / name).is_dir():
            there_are = ", ".join(_bundles(folder)[:20]) or "none"
            raise SwapError(404, f"no bundle {name[:128]!r}; there are: {there_are}")
        return self._swap(folder / name)

    def rollback(self) -> ModelsView:
        """Go back to the previous model, at once; what served becomes the previous one.

        Raises:
            SwapError: There is none, or another change is under way (409).
        """
        with self._change():
            with self._state:
                if self._previous is None or self._current is None:
                    raise SwapError(409, "there is no previous model to go back to")
                retired, self._current = self._current, self._previous
                self._previous, self._trial = retired, None
                self._rollbacks += 1
                self._last = f"rolled back to {self._current}"
            log.warning("%s", self._last)
        retired.rest()
        return self.view()

    @contextmanager
    def _change(self) -> Iterator[None]:
        """One change at a time: two models beside the one in service, never more."""
        if not self._changing.acquire(blocking=False):
            raise SwapError(409, "another change of the model is under way; try again in a moment")
        try:
            yield
        finally:
            self._changing.release()

    def _swap(self, path: Path) -> ModelsView:
        with self._change():
            retired = self._replace(path)
        if retired is not None:
            retired.rest()
        return self.view()

    def _replace(self, path: Path) -> LoadedModel | None:
        """Put what is at a path into service; give what served, or None where it is the same."""
        serving = self.current  # before the first is warm there is nothing to fall back on
        refusal = None
        trial = Trial(self._settings.probation_images, self._failed_trial)
        try:
            bundle = read_bundle(path.resolve(), self._trusted)
            if f"sha256:{bundle.digest}" == serving.digest:
                self._last = f"{serving} serves already"
                return None
            loaded = self._load(bundle, trial, serving.translator.instances.turn)
        except Exception as error:  # whatever it is, what serves goes on serving
            refusal = self._refuse(error)
        if refusal is not None:  # raised out here, where no traceback holds half an engine
            raise refusal
        with self._state:
            retired, self._current, self._trial = self._current, loaded, trial
            self._previous = retired
            self._swaps += 1
            self._last = f"swapped to {loaded}"
        log.info("%s", self._last)
        return retired

    def _load(self, bundle: Bundle, trial: Trial, alone: Alone = nullcontext) -> LoadedModel:
        started = time.perf_counter()
        loaded = load_model(bundle, self._settings, self._opener, trial.told, alone=alone)
        log.info("%s is warm after %.2f s", loaded, time.perf_counter() - started)
        return loaded

    def _failed_trial(self, trial: Trial) -> None:
        """A new engine fails: go back to the previous one, and do not keep this one."""
        with self._state:
            if trial is not self._trial or self._previous is None or self._current is None:
                return
            failing, self._current, self._previous = self._current, self._previous, None
            self._trial = None
            self._rollbacks += 1
            self._last = (
                f"{failing} failed on too many of its first images, rolled back to {self._current}"
            )
        log.error("%s", self._last)

    def _refuse(self, error: Exception) -> SwapError:
        sentence = f"refused, and nothing changed: {error or type(error).__name__}"
        with self._state:
            self._refused += 1
            self._last = sentence
        foreseen = isinstance(error, BundleError | DeviceError)
        log.warning("%s", sentence, exc_info=None if foreseen else error)
        return SwapError(422, sentence)


def _bundles(folder: Path) -> list[str]:
    """Names in a folder that can be asked for, sorted."""
    if not folder.is_dir():
        return []
    names = (path.name for path in folder.iterdir() if path.is_dir())
    return sorted(name for name in names if PLAIN_NAME.fullmatch(name))
