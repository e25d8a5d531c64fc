"""The admin port: which model serves, and another one instead. Never open to clients."""

from __future__ import annotations

import asyncio
import hmac
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import Depends, FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from pydantic import ValidationError

from devices.profile import Frozen, explain
from serving import problems
from serving.models import ModelsView, NotReadyError
from serving.settings import ServingSettings
from serving.swap import Models, SwapError

MAX_BODY_BYTES = 4096
BODY_TIMEOUT_S = 10.0

log = logging.getLogger(__name__)


class Wanted(Frozen):
    """The body of ``POST /v1/model``.

    Attributes:
        bundle: Name of a folder in the folder of bundles; what the server was started with, read
            again, if left out.
    """

    bundle: str | None = None


class TokenError(RuntimeError):
    """Whoever asks does not know the token."""


def read_token(settings: ServingSettings) -> str:
    """The admin token.

    Raises:
        ValueError: There is none: an admin port that anybody may use is not opened.
    """
    if settings.admin_token is None:
        raise ValueError(
            "POCKETGAN_ADMIN_PORT is set and POCKETGAN_ADMIN_TOKEN is not: set it to 16 characters "
            "or more that only the operator knows, or leave the port out"
        )
    return settings.admin_token.get_secret_value()


def create_admin_app(models: Models, token: str) -> FastAPI:
    """Build the application of the admin port.

    Args:
        models: What serves.
        token: What every request must carry, as ``Authorization: Bearer TOKEN``.
    """
    expected = f"Bearer {token}".encode()

    async def authorised(request: Request) -> None:
        given = request.headers.get("authorization", "").encode()
        if not hmac.compare_digest(given, expected):
            raise TokenError("send the admin token: Authorization: Bearer TOKEN")

    app = FastAPI(
        title="pocketgan admin",
        version="1",
        # no description of it either for whoever has no token
        openapi_url=None,
        dependencies=[Depends(authorised)],
    )
    problems.install(app)

    @app.exception_handler(SwapError)
    async def refused(_: Request, error: SwapError) -> JSONResponse:
        return problems.answer(error.status, str(error))

    @app.exception_handler(TokenError)
    async def unknown(_: Request, error: TokenError) -> JSONResponse:
        return problems.answer(401, str(error), {"WWW-Authenticate": "Bearer"})

    @app.get("/v1/model")
    def view() -> ModelsView:
        """What serves, and what there is to go back to."""
        return models.view()

    @app.post("/v1/model")
    async def swap(request: Request) -> ModelsView:
        """Verify, load, warm up and check another bundle; serve it if nothing is wrong with it."""
        wanted = await _read_wanted(request)
        if wanted.bundle is None:
            return await run_in_threadpool(models.reload)
        return await run_in_threadpool(models.use, wanted.bundle)

    @app.post("/v1/model/rollback")
    def rollback() -> ModelsView:
        """Go back to the previous model, at once."""
        return models.rollback()

    return app


@contextmanager
def serve_in_thread(app: FastAPI, listener: socket.socket) -> Iterator[None]:
    """Serve an application beside the main one, on a thread and a loop of its own.

    Args:
        app: The application.
        listener: Bound and listening; closed at the end by whoever made it.
    """
    server = uvicorn.Server(
        uvicorn.Config(app, log_config=None, ws="none", lifespan="off", server_header=False)
    )
    thread = threading.Thread(
        target=server.run, kwargs={"sockets": [listener]}, name="admin", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(timeout=5)


def reload_in_background(models: Models) -> threading.Thread:
    """Serve what is at the configured path, without waiting for it: for a signal handler.

    What came of it, the log says.
    """
    thread = threading.Thread(target=_quietly, args=(models.reload,), name="reload", daemon=True)
    thread.start()
    return thread


def _quietly(change: Callable[[], ModelsView]) -> None:
    try:
        change()
    except (SwapError, NotReadyError) as error:
        log.warning("reload: %s", error)


async def _read_wanted(request: Request) -> Wanted:
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise SwapError(413, f"the body has more than {MAX_BODY_BYTES} bytes")
    except TimeoutError as error:
        raise SwapError(408, f"the body did not arrive within {BODY_TIMEOUT_S:g} s") from error
    try:
        return Wanted.model_validate_json(bytes(body) or b"{}")
    except ValidationError as error:
        raise SwapError(
            422, f'{explain(error, Wanted)}; send {{"bundle": "NAME"}}, or nothing to reload'
        ) from error
