"""The engine cache: what took a compiler minutes is built once, and is never another's engine.

A folder of entries, each named by the digest of its `deploy.cache_key.EngineKey` and sealed by the
digests of its files. An entry appears by a rename, so a kill leaves none that is half written; a
lock per key, which ends with its holder, lets one process build while another waits for it.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from deploy.cache_entry import ENGINE, FACE, SEAL, Entry, Face, damage, read_entry
from deploy.cache_key import SHORT, EngineKey, explain
from deploy.cache_lock import hold
from devices.cache_folder import CACHE_VARIABLE, cache_folder
from devices.sealed import digest, seal_text

log = logging.getLogger(__name__)

LIMIT_BYTES = 2 << 30

BUILDING = ".building"
LOCK = ".lock"

Fill = Callable[[Path], Path]
"""Writes an engine into the folder it is given and returns the file that a session opens."""


def default_root() -> Path:
    """Where the engines are kept: ``engines`` in the folder that ``POCKETGAN_CACHE`` names."""
    return cache_folder() / "engines"


@dataclass(frozen=True)
class EngineCache:
    """Engines on disk, shared by all processes of a user.

    Attributes:
        root: The folder; made when the first engine is kept.
        limit_bytes: Above it the engines that were not used for longest go.
    """

    root: Path
    limit_bytes: int = LIMIT_BYTES

    def build(self, key: EngineKey, fill: Fill, out: Path, *, name: str) -> Path:
        """Put an engine into a folder: the cached one, else a new one, which is then kept.

        Of two processes that want one key, one builds and the other waits and copies. A cache that
        cannot be written is no reason to fail: the engine is built and a warning says why it is
        not kept.

        Args:
            key: What the engine depends on.
            fill: Builds it; called at most once. What it raises is passed on and nothing is kept.
            out: The folder, empty or yet to be made. Sub-folders that ``fill`` makes are not kept.
            name: What the model is called, for people.

        Returns:
            The file in ``out`` that a session opens.

        Raises:
            ValueError: ``out`` holds something, or ``fill`` returned a file elsewhere.
        """
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise ValueError(f"{out} is not empty; give the engine a folder of its own")
        with ExitStack() as stack:
            try:
                self.root.mkdir(parents=True, exist_ok=True)
                stack.enter_context(hold(self._lock(key.digest), wait=True))
            except OSError as error:
                log.warning(
                    "no engine cache: %s cannot be used (%s); set %s to a folder that can",
                    self.root,
                    error,
                    CACHE_VARIABLE,
                )
                return _inside(out, fill(out))
            if cached := self._take(key, out):
                return cached
            there = sorted(self.entries(), key=lambda entry: -entry.used_at)
            keys = [entry.face.key for entry in there if entry.face]
            what = f"{key.backend} {key.precision} of {name}"
            log.info("building %s: in the engine cache %s", what, explain(key, keys))
            start = time.perf_counter()
            engine = _inside(out, fill(out))
            seconds = time.perf_counter() - start
            self._keep(key, engine, name=name, seconds=seconds)
        self._trim()
        return engine

    def entries(self) -> list[Entry]:
        """What is there, by digest; readable or not, whole or not."""
        if not self.root.is_dir():
            return []
        found = []
        for path in sorted(self.root.iterdir()):
            if not path.name.startswith(".") and path.is_dir():
                with suppress(FileNotFoundError):  # another process removed it meanwhile
                    found.append(read_entry(path))
        return found

    def remove(self, digest: str) -> bool:
        """Remove an entry; False where a process is using it, which leaves it as it is.

        Raises:
            OSError: It cannot be removed.
        """
        with hold(self._lock(digest), wait=False) as held:
            if held:
                self._discard(digest)
                self._unlock_for_good(digest)
        return held

    def sweep(self) -> None:
        """Remove what killed processes left: half-written folders, and locks that guard nothing.

        Raises:
            OSError: Something cannot be removed.
        """
        for path in sorted(self.root.glob(".*")):
            digest = path.name[1:].partition(".")[0]
            if path.suffix not in (BUILDING, LOCK):
                continue
            with hold(self._lock(digest), wait=False) as held:
                if held:
                    shutil.rmtree(self._scratch(digest), ignore_errors=True)
                if held and not (self.root / digest).exists():
                    self._unlock_for_good(digest)

    def _take(self, key: EngineKey, out: Path) -> Path | None:
        """Copy a whole entry to ``out``; one that is damaged is removed."""
        path = self.root / key.digest
        if not path.is_dir():
            return None
        entry = read_entry(path)
        wrong = damage(entry)
        if wrong is None and entry.face is not None:
            for file in entry.face.sha256:
                shutil.copyfile(path / ENGINE / file, out / file)
            with suppress(OSError):
                os.utime(path / FACE)  # when it was last used
            log.info(
                "%s %s of %s from the engine cache (%s), %.1f s saved",
                key.backend,
                key.precision,
                entry.face.name,
                key.digest[:SHORT],
                entry.face.build_seconds,
            )
            return out / entry.face.engine_file
        log.warning("damaged in the engine cache, so built again: %s", wrong)
        with suppress(OSError):
            self._discard(key.digest)
        return None

    def _keep(self, key: EngineKey, engine: Path, *, name: str, seconds: float) -> None:
        """Copy an engine beside its place, write it through to the disk, and move it there."""
        files = sorted(path for path in engine.parent.iterdir() if path.is_file())
        size = sum(path.stat().st_size for path in files)
        if size > self.limit_bytes:
            log.info("not kept: %d MiB, over the cache's %d", size >> 20, self.limit_bytes >> 20)
            return
        scratch = self._scratch(key.digest)
        face = Face(
            key=key,
            name=name,
            engine_file=engine.name,
            build_seconds=seconds,
            built_at=time.time(),
            sha256={path.name: digest(path) for path in files},
        )
        try:
            shutil.rmtree(scratch, ignore_errors=True)  # of a process that was killed
            (scratch / ENGINE).mkdir(parents=True)
            for path in files:
                shutil.copyfile(path, scratch / ENGINE / path.name)
            (scratch / FACE).write_text(face.model_dump_json(indent=2) + "\n")
            seal = seal_text(digest(scratch / FACE), FACE)
            (scratch / SEAL).write_text(seal)
            for path in (*scratch.rglob("*"), scratch):
                _to_disk(path)
            os.replace(scratch, self.root / key.digest)
            _to_disk(self.root)
        except OSError as error:
            log.warning("not kept in the engine cache, and built again next time: %s", error)
            shutil.rmtree(scratch, ignore_errors=True)

    def _trim(self) -> None:
        """Remove the engines that were not used for longest until the rest is within the limit."""
        try:
            self.sweep()
            entries = sorted(self.entries(), key=lambda entry: entry.used_at)
            excess = sum(entry.bytes for entry in entries) - self.limit_bytes
            for entry in entries:
                if excess > 0 and self.remove(entry.digest):
                    excess -= entry.bytes
                    log.info("engine cache over its limit: %s removed", entry.digest[:SHORT])
        except OSError as error:
            log.warning("the engine cache could not be tidied: %s", error)

    def _discard(self, digest: str) -> None:
        """Remove an entry and its scratch folder; the lock is held. First out of sight, whole."""
        scratch = self._scratch(digest)
        if scratch.exists():
            shutil.rmtree(scratch)
        if (self.root / digest).exists():
            os.replace(self.root / digest, scratch)
            shutil.rmtree(scratch)

    def _unlock_for_good(self, digest: str) -> None:
        """Remove the lock of nothing; it is held."""
        if sys.platform != "win32":  # there, no file goes while it is open
            self._lock(digest).unlink()

    def _scratch(self, digest: str) -> Path:
        return self.root / f".{digest}{BUILDING}"

    def _lock(self, digest: str) -> Path:
        return self.root / f".{digest}{LOCK}"


def _inside(out: Path, engine: Path) -> Path:
    if engine.parent != out or not engine.is_file():
        raise ValueError(f"the engine {engine} is not a file of {out}, where it was to be built")
    return engine


def _to_disk(path: Path) -> None:
    """Wait until a file or folder is on the disk: a rename may otherwise outlive its contents."""
    if sys.platform == "win32" and path.is_dir():
        return  # folders cannot be opened there
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
