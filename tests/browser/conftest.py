"""A real server around a stub for a model, and the system's own Chromium to look at its page."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI, Request, Response
from pydantic import SecretStr

from deploy.manifests import Manifest
from devices.profile import LatencyBudget
from serving import problems
from serving.formats import encode_picture, read_picture
from serving.keys import CLIENT, add_keys, read_keys
from serving.latency import LatencyView, Percentiles
from serving.negotiate import MEDIA_TYPES, Output, choose_output, choose_size
from serving.page import add_page
from serving.security import add_security
from serving.sizes import Size
from serving.stream import StreamLimits, add_stream
from serving.work import Translation
from tests.pictures import encode_png
from tests.serving.conftest import manifest, photo, seal_bundle

__all__ = ["manifest", "photo", "seal_bundle"]  # fixtures of the server's own tests

MANIFEST = Path(__file__).parents[1] / "serving" / "manifest.json"
DIGEST = "sha256:" + "0123456789abcdef" * 4
KEY = "a-key-of-the-tests-1234"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
TIMES_MS = {"queue_ms": 1.0, "decode_ms": 2.0, "engine_ms": 4.0, "encode_ms": 3.0}


@dataclass
class Scene:
    """What the server behind the page does, and what it has seen; a test changes it.

    Attributes:
        error: Raised instead of a translation.
        hold: Where set, a translation waits until it is set.
        engine_p50_ms: What ``/v1/latency`` reports for the model's size.
        asked: Size, format and shape of every image that came.
        abandoned: Translations that were cancelled.
    """

    error: Exception | None = None
    hold: threading.Event | None = None
    engine_p50_ms: float | None = None
    asked: list[tuple[Size, str, tuple[int, ...]]] = field(default_factory=list)
    abandoned: int = 0

    async def translate(self, data: bytes, output: Output, size: Size, client: str) -> Translation:
        """The negative of an image."""
        picture = read_picture(data, max_pixels=4_000_000)
        self.asked.append((size, output.format, picture.pixels.shape))
        try:
            while self.hold is not None and not self.hold.is_set():
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            self.abandoned += 1
            raise
        if self.error is not None:
            raise self.error
        image = encode_picture(picture.answered(255 - picture.pixels), output)
        return Translation(image, output.format, DIGEST, picture.pixels.size // 3, 1, **TIMES_MS)

    def latency(self) -> LatencyView:
        """As the real one."""
        count = 0 if self.engine_p50_ms is None else 9
        none = Percentiles(count=0, window=0, p50_ms=None, p90_ms=None, p99_ms=None)
        seen = none.model_copy(
            update={"count": count, "window": count, "p50_ms": self.engine_p50_ms}
        )
        budget = LatencyBudget(p50_ms=5.0, p90_ms=6.0, p99_ms=7.0)
        return LatencyView(
            engine=none,
            engine_at_image_size=seen,
            request=none,
            image_size=32,
            budget=budget,
            start=None,
        )


def build(scene: Scene, keys: str | None) -> FastAPI:
    """The routes that the page asks, around a scene."""
    told_of = Manifest.model_validate_json(MANIFEST.read_text())
    app = FastAPI()
    problems.install(app)
    add_page(app)

    @app.get("/v1/model")
    def model() -> dict[str, Any]:
        told = told_of.model_dump(include={"model", "precision", "backend", "quality", "profile"})
        return told | {"digest": DIGEST}

    @app.get("/v1/latency")
    def latency() -> LatencyView:
        return scene.latency()

    @app.post("/v1/translate")
    async def translate(request: Request) -> Response:
        query = request.query_params
        data = await request.body()
        output = choose_output(request.headers.get("accept"), query)
        work = asyncio.ensure_future(scene.translate(data, output, choose_size(query), ""))
        gone = asyncio.ensure_future(request.receive())
        await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        if not work.done():
            work.cancel()
            return Response(status_code=400)
        done = work.result()
        headers = {"Server-Timing": done.server_timing, "Pocketgan-Bundle": done.digest}
        return Response(done.image, media_type=MEDIA_TYPES[done.format], headers=headers)

    add_stream(
        app,
        scene.translate,
        explain=lambda error: (422, str(error)),
        client_of=lambda scope: scope.get(CLIENT, ""),
        limits=StreamLimits(max_frame_bytes=1_000_000, idle_s=10.0, max_streams=2),
    )
    add_keys(app, read_keys(SecretStr(keys) if keys else None, None))
    add_security(app)
    return app


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """Serve a scene in a thread; gives the address of the page."""
    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(scene: Scene, keys: str | None = None) -> str:
        server = uvicorn.Server(
            uvicorn.Config(
                build(scene, keys),
                log_config=None,
                ws_per_message_deflate=False,
                timeout_graceful_shutdown=1,  # browsers keep connections
            )
        )
        listener = socket.create_server(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        end = time.monotonic() + 10
        while not server.started:
            assert time.monotonic() < end, "the server did not start"
            time.sleep(0.01)
        running.append((server, thread))
        return f"http://127.0.0.1:{listener.getsockname()[1]}/"

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join(10)


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """The browser.

    For one module and not the session: Playwright runs an event loop in this thread as long as it
    lives, and no test elsewhere could run one of its own.
    """
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="needs playwright: pip install playwright"
    )
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    flags = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    if os.geteuid() == 0:
        flags.append("--no-sandbox")  # its own would want a user that is not root
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium) -> Iterator[Callable[..., Any]]:
    """Open a page as some visitor; whatever the browser complains of fails the test."""
    contexts, complaints, hosts = [], [], set()

    def at(url: str, **visitor: Any) -> Any:
        contexts.append(
            chromium.new_context(**{"viewport": {"width": 1280, "height": 860}} | visitor)
        )
        page = contexts[-1].new_page()
        page.set_default_timeout(30_000)  # tests run beside others
        page.on("console", lambda said: complaints.append(said.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: hosts.add(urlsplit(request.url).hostname))
        page.goto(url)
        return page

    yield at
    for context in contexts:
        context.close()
    # a refused request is what some tests are about, and the browser notes each
    assert [one for one in complaints if not one.startswith("Failed to load resource")] == []
    assert hosts - {None} == {"127.0.0.1"}  # blob: has none


@pytest.fixture
def visit(open_page, serve, scene) -> Callable[..., Any]:
    """Open the page of the scene."""

    def open_scene(*, keys: str | None = None, **visitor: Any) -> Any:
        return open_page(serve(scene, keys), **visitor)

    return open_scene


@pytest.fixture
def picture(tmp_path) -> Callable[..., Path]:
    """A file with an image of one colour, of a height, a width and a name."""

    def make(height: int = 48, width: int = 96, name: str = "sea.png", level: int = 40) -> Path:
        file = tmp_path / name
        file.write_bytes(encode_png(np.full((height, width, 3), level, np.uint8)))
        return file

    return make
