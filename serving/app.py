"""The HTTP face: every route on one screen."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Literal

from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool

from deploy.artifacts import Bundle, ModelSpec, Quality
from devices.profile import Backend, DeviceProfile, Frozen, Precision
from devices.session import open_session
from serving import problems
from serving.latency import LatencyView
from serving.models import Opener, ServedModel
from serving.settings import ServingSettings
from serving.translator import BusyError, place
from serving.uploads import check_content_type, read_body

IMAGE_BODY: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
TRANSLATE_DOCS: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "The bytes of one JPEG, PNG or WebP image.",
        "content": dict.fromkeys(("image/jpeg", "image/png", "image/webp"), IMAGE_BODY)
        | {"application/octet-stream": IMAGE_BODY},
    }
}
TRANSLATE_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The translated image.", "content": {"image/png": IMAGE_BODY}},
    400: problems.describe("The body is empty."),
    408: problems.describe("The body did not arrive in time."),
    413: problems.describe("Too many bytes or pixels."),
    415: problems.describe("Not a JPEG, PNG or WebP image."),
    422: problems.describe("The image is damaged."),
    500: problems.describe("The engine failed."),
    503: problems.describe("Warming up, or too many images wait; see Retry-After."),
}
NOT_READY: dict[int | str, dict[str, Any]] = {503: problems.describe("The engine is not warm yet.")}

log = logging.getLogger(__name__)


class Status(Frozen):
    """The answer of the two probes."""

    status: Literal["ok", "ready"]


class ModelView(Frozen):
    """The answer of ``GET /v1/model``: what is served.

    Attributes:
        digest: SHA-256 of the bundle's manifest; ``/v1/translate`` repeats it with every image.
        quality: To the truth where there is one, else to the teacher's images.
    """

    model: ModelSpec
    precision: Precision
    backend: Backend
    digest: str
    quality: Quality
    profile: DeviceProfile


def create_app(
    bundle: Bundle,
    settings: ServingSettings,
    *,
    opener: Opener = open_session,
    on_failure: Callable[[Exception], None] | None = None,
) -> FastAPI:
    """Build the application around a bundle; tests pass an opener of stub sessions.

    Args:
        bundle: As `serving.models.read_bundle` gives it: digests checked, nothing loaded.
        settings: Limits; host, port, drain time and log level are the business of the program.
        opener: Loads the engine when the application starts.
        on_failure: Told when the engine cannot start, else the log is; the application then
            stays not ready.
    """
    served = ServedModel(bundle, settings, opener)
    uploads = threading.BoundedSemaphore(settings.max_uploads)

    async def warm_up() -> None:
        try:
            await run_in_threadpool(served.warm_up)
        except Exception as error:
            if on_failure:
                on_failure(error)
            else:
                log.exception("the engine could not start")

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        # beside the server, not before it: /healthz answers while a large engine loads
        task = asyncio.create_task(warm_up())
        yield
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    app = FastAPI(title="pocketgan", version="1", lifespan=lifespan)
    problems.install(app)

    @app.get("/healthz")
    async def healthz() -> Status:
        """Whether the process lives."""
        return Status(status="ok")

    @app.get("/readyz", responses=NOT_READY)
    async def readyz() -> Status:
        """Whether images are translated: the engine is loaded, warm and checked."""
        _ = served.translator
        return Status(status="ready")

    @app.get("/v1/model")
    async def model() -> ModelView:
        """What is served."""
        manifest = bundle.manifest
        return ModelView(
            model=manifest.model,
            precision=manifest.precision,
            backend=manifest.backend,
            digest=served.digest,
            quality=manifest.quality,
            profile=manifest.profile,
        )

    @app.get("/v1/latency", responses=NOT_READY)
    def latency() -> LatencyView:
        """How fast it has been, beside the profile's budget."""
        return served.translator.latency()

    @app.post(
        "/v1/translate",
        response_class=Response,
        responses=TRANSLATE_RESPONSES,
        openapi_extra=TRANSLATE_DOCS,
    )
    async def translate(request: Request) -> Response:
        """Translate one image at its own size."""
        translator = served.translator
        check_content_type(request.headers.get("content-type"))
        with place(uploads, lambda: too_many_uploads(settings)):
            data = await read_body(
                request.stream(),
                max_bytes=settings.max_body_bytes,
                timeout_s=settings.body_timeout_s,
            )
        done = await run_in_threadpool(translator.translate, data)
        timing = {
            "decode": done.decode_ms,
            "wait": done.wait_ms,
            "engine": done.engine_ms,
            "encode": done.encode_ms,
        }
        headers = {
            "Server-Timing": ", ".join(f"{part};dur={ms:.2f}" for part, ms in timing.items()),
            "Pocketgan-Bundle": served.digest,
        }
        return Response(done.png, media_type="image/png", headers=headers)

    return app


def too_many_uploads(settings: ServingSettings) -> BusyError:
    """What a client is told when as many bodies as allowed are arriving."""
    return BusyError(
        f"{settings.max_uploads} images are arriving already; try again later", retry_after_s=1
    )
