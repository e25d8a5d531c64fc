"""Errors as HTTP answers, in one place: problem details (RFC 9457) with one clear sentence."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from deploy.imaging import ImageError, ImageFormatError, ImageTooLargeError
from devices.profile import Frozen
from serving.models import NotReadyError
from serving.negotiate import WishError
from serving.rates import RateError
from serving.scheduling import BusyError, DeadlineError
from serving.uploads import UploadError
from serving.work import GoneError, TranslationError

MEDIA_TYPE = "application/problem+json"


STATUSES: dict[type[Exception], int] = {
    ImageTooLargeError: 413,
    ImageFormatError: 415,
    ImageError: 422,
    RateError: 429,
    BusyError: 503,
    NotReadyError: 503,
    DeadlineError: 504,
    TranslationError: 500,
    GoneError: 400,
}
"""Of errors that explain themselves; of a kind and a narrower one, the narrower comes first."""


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


def explain(error: Exception) -> tuple[int, str]:
    """The HTTP status of an error, and what to say of it.

    Of what nobody foresaw nothing is said that shows the inside; who asks should log it.
    """
    if isinstance(error, UploadError | WishError):
        return error.status, str(error)
    for kind, status in STATUSES.items():
        if isinstance(error, kind):
            return status, str(error)
    if isinstance(error, ClientDisconnect):
        return 400, "the connection was closed before the body was complete"
    return 500, "the server failed; its log says why"


def install(app: FastAPI) -> None:
    """Make ``app`` answer every error of serving as a `Problem`."""

    async def known(_: Request, error: Exception) -> JSONResponse:
        retry_after_s = getattr(error, "retry_after_s", None)
        headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
        if isinstance(error, UploadError) and error.status in (408, 413):
            headers["Connection"] = "close"  # the rest of the body is waited for by nobody
        return answer(*explain(error), headers)

    # the last one's traceback is logged by the framework, as those of no other are
    kinds: list[type[Exception]] = [UploadError, WishError, *STATUSES, ClientDisconnect, Exception]
    for kind in kinds:
        app.add_exception_handler(kind, known)

    @app.exception_handler(HTTPException)
    async def routing(request: Request, error: HTTPException) -> JSONResponse:
        detail = f"{request.method} {request.url.path}: {error.detail}; /docs lists the routes"
        return answer(error.status_code, detail, dict(error.headers or {}))


def answer(status: int, detail: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """A `Problem` as an HTTP answer."""
    problem = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail)
    return JSONResponse(problem.model_dump(), status, headers, media_type=MEDIA_TYPE)
