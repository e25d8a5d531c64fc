"""A tiny sealed bundle, and the application around it with a stub for an engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from deploy.golden import GoldenPairs
from deploy.imaging import Pixels, to_model
from deploy.manifests import Manifest
from deploy.sealing import seal
from devices.session import Session, StubSession
from serving.app import create_app
from serving.models import Opener, read_bundle
from serving.settings import ServingSettings
from serving.swap import Models
from tests.pictures import encode_png

SAMPLE = Path(__file__).with_name("manifest.json")
NEGATIVE = StubSession(lambda images: -images)


@pytest.fixture
def photo() -> Callable[[int, int], Pixels]:
    """Pixels of a height and a width, always the same."""
    return lambda height, width: np.random.default_rng(0).integers(
        0, 256, (height, width, 3), dtype=np.uint8
    )


@pytest.fixture
def png(photo) -> bytes:
    return encode_png(photo(32, 32))


@pytest.fixture
def manifest() -> Manifest:
    """A manifest that names no digest yet."""
    return Manifest.model_validate_json(SAMPLE.read_text())


@pytest.fixture
def seal_bundle(tmp_path, photo, manifest) -> Callable[..., Path]:
    """Seal a bundle whose float student makes the negative of an image."""

    def make(engine: bytes = b"engine", **changes: Any) -> Path:
        source = photo(64, 32).reshape(2, 32, 32, 3)
        golden = GoldenPairs(source, -to_model(source), None, source)

        def fill(folder: Path) -> Callable[[dict[str, str]], Manifest]:
            (folder / "engine.onnx").write_bytes(engine)
            golden.write(folder / "golden.npz")
            return lambda sha256: manifest.model_copy(update={"sha256": sha256} | changes)

        seal(tmp_path / "bundle", "manifest.json", fill)
        return tmp_path / "bundle"

    return make


@pytest.fixture
def serve(seal_bundle) -> Callable[..., AbstractContextManager[TestClient]]:
    """Serve a bundle with a stub session, ready on entry."""

    @contextmanager
    def start(
        session: Session = NEGATIVE, *, changes: dict[str, Any] | None = None, **settings: Any
    ) -> Iterator[TestClient]:
        limits = ServingSettings(**settings)
        bundle = read_bundle(seal_bundle(**changes or {}))
        app = create_app(Models(bundle, limits, opener_of(session)), limits)
        with TestClient(app) as client:
            end = time.monotonic() + 20
            while client.get("/readyz").status_code != 200:
                assert time.monotonic() < end, "the stub never got ready"
                time.sleep(0.005)
            yield client

    return start


def opener_of(session: Session) -> Opener:
    """An opener that always gives ``session``."""

    def opener(engine, profile, *, backend, precision):
        return session

    return opener
