"""The HTTP face: every route on one screen."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Literal

from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from fastapi_offline import FastAPIOffline
from starlette.routing import Route
from starlette.types import Scope

from deploy.manifests import ModelSpec, Quality
from devices.profile import Backend, DeviceProfile, Frozen, Precision
from serving import batch, description, problems
from serving.batch import Answer, zip_answers
from serving.keys import CLIENT, add_keys, read_keys
from serving.latency import LatencyView
from serving.metrics import Metrics, add_metrics
from serving.multipart import Part, is_form, one_image, read_multipart
from serving.negotiate import MEDIA_TYPES, Output, check_query, choose_output, choose_size
from serving.page import add_page
from serving.rates import RateError
from serving.security import DOCS, DOCS_FILES, add_security, read_origins
from serving.service import Service
from serving.settings import ServingSettings
from serving.sizes import Size, plan_size
from serving.stream import StreamLimits, add_stream
from serving.swap import Models, Readiness
from serving.uploads import check_content_type, place, read_body, read_timeout, until_gone
from serving.work import Job, Translation

WISHES = ("format", "quality", "size")

log = logging.getLogger(__name__)


class Status(Frozen):
    """The answer of ``GET /healthz``."""

    status: Literal["ok"]


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
    models: Models,
    settings: ServingSettings,
    *,
    on_ready: Callable[[], None] | None = None,
    on_failure: Callable[[Exception], None] | None = None,
) -> FastAPI:
    """Build the application around what serves; tests pass models with an opener of stubs.

    Args:
        models: The bundle to serve, digests checked, nothing loaded yet.
        settings: Limits; host, port, drain time and log level are the business of the program.
        on_ready: Called when the engine is loaded, warm and checked.
        on_failure: Told when the engine cannot start, else the log is; the application then
            stays not ready.

    Raises:
        ValueError: API keys or origins in the settings that cannot be read.
    """
    metrics = Metrics()
    service = Service(lambda: models.translator, settings, observer=metrics)
    uploads = threading.BoundedSemaphore(settings.max_uploads)

    async def warm_up() -> None:
        try:
            await run_in_threadpool(models.start)
            if on_ready:
                on_ready()
        except Exception as error:
            if on_failure:
                on_failure(error)
            else:
                log.exception("the engine could not start")

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        # beside the server, not before it: /healthz answers while a large engine loads
        task = asyncio.create_task(warm_up())
        service.start()
        yield
        await service.drain(settings.drain_timeout_s)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    # a board may have no way out of its network, and no key is typed beside a script of others
    app = FastAPIOffline(
        docs_url=DOCS,
        redoc_url=None,
        static_url=DOCS_FILES,
        favicon_url="/static/icon.svg",
        title="pocketgan",
        version="1",
        lifespan=lifespan,
    )
    problems.install(app)

    @app.get("/healthz")
    async def healthz() -> Status:
        """Whether the process lives."""
        return Status(status="ok")

    @app.get("/readyz", responses=description.NOT_READY)
    async def readyz() -> Readiness:
        """Whether images are translated: the engine is loaded, warm, checked and fast enough."""
        return models.readiness()

    @app.get("/v1/model", responses={401: description.COMMON[401]})
    async def model() -> ModelView:
        """What is served."""
        manifest = models.bundle.manifest
        return ModelView(
            model=manifest.model,
            precision=manifest.precision,
            backend=manifest.backend,
            digest=models.digest,
            quality=manifest.quality,
            profile=manifest.profile,
        )

    @app.get("/v1/latency", responses=description.NOT_READY)
    def latency() -> LatencyView:
        """How fast it was at start and has been since, beside the profile's budget."""
        current = models.current
        return current.translator.latency(current.check)

    @app.post(
        "/v1/translate",
        response_class=Response,
        responses=description.TRANSLATE_ANSWERS,
        openapi_extra=description.TRANSLATE,
    )
    async def translate(request: Request) -> Response:
        """Translate one image."""
        arrived = time.perf_counter()
        client, output, size, timeout_s = asked(request)
        content_type = request.headers.get("content-type")
        if is_form(content_type):
            data = one_image(await parts_of(request, content_type, most=1))
        else:
            check_content_type(content_type)
            with place(uploads, settings.max_uploads):
                data = await read_body(
                    request.stream(),
                    max_bytes=settings.max_body_bytes,
                    timeout_s=settings.body_timeout_s,
                )
        done = await service.translate(
            job_of(data, output, size),
            client=client,
            timeout_s=timeout_s - (time.perf_counter() - arrived),
            gone=lambda: until_gone(request.receive),
        )
        return Response(
            done.image,
            media_type=MEDIA_TYPES[done.format],
            headers={"Server-Timing": done.server_timing, "Pocketgan-Bundle": done.digest},
        )

    @app.post(
        "/v1/translate/batch",
        response_class=Response,
        responses=description.BATCH_ANSWERS,
        openapi_extra=description.TRANSLATE_BATCH,
    )
    async def translate_batch(request: Request) -> Response:
        """Translate the images of a form, each by itself; one that fails fails alone."""
        client, output, size, timeout_s = asked(request)
        content_type = request.headers.get("content-type")
        parts = await parts_of(request, content_type, most=settings.max_images)
        answers = answers_of(parts, output, size, client, timeout_s)
        return StreamingResponse(
            zip_answers(answers, output.format),
            media_type=batch.MEDIA_TYPE,
            headers={"Pocketgan-Bundle": models.digest},
        )

    def asked(request: Request) -> tuple[str, Output, Size, float]:
        """Whose request it is, and what it wants; nothing is read before there is an engine."""
        _ = models.translator
        client, headers, query = client_of(request.scope), request.headers, request.query_params
        spend(client)
        check_query(query, WISHES)
        timeout_s = read_timeout(headers.get("x-timeout-ms"), settings.wait_timeout_s)
        return client, choose_output(headers.get("accept"), query), choose_size(query), timeout_s

    def spend(client: str) -> None:
        try:
            service.rates.spend(client)
        except RateError:
            metrics.refused("rate")
            raise

    async def parts_of(request: Request, content_type: str | None, *, most: int) -> list[Part]:
        with place(uploads, settings.max_uploads):
            return await read_multipart(
                request.stream(),
                content_type,
                max_bytes=settings.max_body_bytes,
                max_parts=most,
                timeout_s=settings.body_timeout_s,
            )

    async def answers_of(
        parts: Sequence[Part], output: Output, size: Size, client: str, timeout_s: float
    ) -> AsyncIterator[Answer]:
        for part in parts:
            job = job_of(part.data, output, size)
            try:
                done = await service.translate(job, client=client, timeout_s=timeout_s)
            except Exception as error:
                status, detail = problems.explain(error)
                if status == 500:
                    log.exception("an image of a batch failed")
                yield Answer(part.filename or part.field, None, status, detail)
            else:
                yield Answer(part.filename or part.field, done.image)

    async def frame(data: bytes, output: Output, size: Size, client: str) -> Translation:
        spend(client)
        return await service.translate(job_of(data, output, size), client=client)

    def job_of(data: bytes, output: Output, size: Size) -> Job:
        if size == "native":
            return Job(data, output)
        side, most = models.bundle.manifest.profile.image_size, settings.max_pixels
        plan = partial(plan_size, wanted=size, image_size=side, max_pixels=most)
        return Job(data, output, plan, max_decoded_pixels=settings.max_decode_pixels)

    # FastAPI describes it and Starlette's router, which comes first, answers: what FastAPI does
    # around a route that declares nothing costs a tenth of a request's time outside the engine
    app.router.routes.insert(0, Route("/v1/translate", translate, methods=["POST"]))
    metrics.watch(models, lambda: service.scheduler.waiting)
    add_page(app)
    add_stream(
        app,
        frame,
        explain=problems.explain,
        client_of=client_of,
        limits=StreamLimits(
            settings.max_body_bytes, settings.stream_timeout_s, settings.max_streams
        ),
    )
    add_metrics(app, metrics)
    add_keys(app, read_keys(settings.api_keys, settings.api_keys_file))
    add_security(app, origins=read_origins(settings.cors_origins))  # the last is the outermost
    return app


def client_of(scope: Scope) -> str:
    """Whose request it is: what authentication put into the scope, else the address it is from.

    A key that nobody checked is no client: whoever makes keys up would be many.
    """
    known: str | None = scope.get(CLIENT)
    return known or (scope["client"] or ("",))[0]
