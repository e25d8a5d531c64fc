"""Errors as HTTP answers, in one place: problem details (RFC 9457) with one clear sentence."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from deploy.imaging import ImageError, ImageFormatError, ImageTooLargeError
from devices.profile import Frozen
from serving.models import NotReadyError
from serving.translator import BusyError, TranslationError
from serving.uploads import UploadError

MEDIA_TYPE = "application/problem+json"


class Problem(Frozen):
    """The body of every answer that is not a success.

    Attributes:
        type: Always ``about:blank``: the status says what kind of problem it is.
        title: The status in words.
        status: The HTTP status again, for logs that keep bodies only.
        detail: What was wrong and what to try, in one sentence.
    """

    type: str = "about:blank"
    title: str
    status: int
    detail: str


def describe(text: str) -> dict[str, Any]:
    """What the API description says of an answer that is a `Problem`."""
    return {"description": text, "content": {MEDIA_TYPE: {"schema": Problem.model_json_schema()}}}


def install(app: FastAPI) -> None:
    """Make ``app`` answer every error of serving as a `Problem`."""

    @app.exception_handler(UploadError)
    async def upload(_: Request, error: UploadError) -> JSONResponse:
        return _answer(error.status, str(error))

    @app.exception_handler(ImageError)
    async def image(_: Request, error: ImageError) -> JSONResponse:
        if isinstance(error, ImageTooLargeError):
            return _answer(413, str(error))
        return _answer(415 if isinstance(error, ImageFormatError) else 422, str(error))

    @app.exception_handler(BusyError)
    @app.exception_handler(NotReadyError)
    async def later(_: Request, error: BusyError | NotReadyError) -> JSONResponse:
        return _answer(503, str(error), {"Retry-After": str(error.retry_after_s)})

    @app.exception_handler(TranslationError)
    async def engine(_: Request, error: TranslationError) -> JSONResponse:
        return _answer(500, str(error))

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, __: ClientDisconnect) -> JSONResponse:
        return _answer(400, "the connection was closed before the body was complete")

    @app.exception_handler(HTTPException)
    async def routing(request: Request, error: HTTPException) -> JSONResponse:
        detail = f"{request.method} {request.url.path}: {error.detail}; /docs lists the routes"
        return _answer(error.status_code, detail, dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def unforeseen(_: Request, __: Exception) -> JSONResponse:
        # the server logs the traceback; a client is told nothing of the inside
        return _answer(500, "the server failed; its log says why")


def _answer(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    problem = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail)
    return JSONResponse(problem.model_dump(), status, headers, media_type=MEDIA_TYPE)
