"""What every answer says to a browser, and which pages of others may ask."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from serving.problems import answer

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Of an answer that says nothing else of its own: it is data, for whoever asked, now."""

DOCS = "/docs"
DOCS_FILES = "/static/docs"
DOCS_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "connect-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'"
)
"""FastAPI's own page starts its script with a few lines of its own."""


def _raw(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """As they go over the wire; names in small letters."""
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]


RAW = _raw(HEADERS)
DOCS_RAW = _raw({**HEADERS, "Content-Security-Policy": DOCS_POLICY})
READING = ("GET", "HEAD", "OPTIONS")
ORIGIN = re.compile(r"https?://[a-z0-9.-]+(:\d{1,5})?|https?://\[[0-9a-f:]+\](:\d{1,5})?")
ANY = "*"

ASKED = ["Authorization", "Content-Type", "X-API-Key", "X-Timeout-Ms"]
ANSWERED = ["Pocketgan-Bundle", "Retry-After", "Server-Timing"]
PREFLIGHT_S = 600


class SecurityHeaders:
    """Middleware that adds `HEADERS` where a route has not set them itself."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on, and add to what comes back."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        wanted = DOCS_RAW if scope["path"] == DOCS else RAW

        async def send_more(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {name.lower() for name, _ in message["headers"]}
                own = [(name, value) for name, value in wanted if name not in given]
                message = {**message, "headers": [*message["headers"], *own]}
            await send(message)

        await self._app(scope, receive, send_more)


class OwnPagesOnly:
    """Middleware that refuses what a browser sends for a page of somebody else.

    CORS keeps such a page from reading an answer; it neither keeps it from making the server work
    (a form needs no permission) nor from opening a websocket.
    """

    def __init__(self, app: ASGIApp, *, origins: Sequence[str]) -> None:
        self._app = app
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what `may_ask`, and answer everything else with 403."""
        matters = scope["type"] == "websocket" or (
            scope["type"] == "http" and scope["method"] not in READING
        )
        if matters and not may_ask(Headers(scope=scope), self._origins):
            origin = Headers(scope=scope)["origin"]
            await refuse(
                scope,
                receive,
                send,
                403,
                f"a page of {origin[:200]} may not ask this server; POCKETGAN_CORS_ORIGINS lists "
                "those that may (and a proxy has to pass on the Host header)",
            )
            return
        await self._app(scope, receive, send)


def may_ask(headers: Headers, origins: Sequence[str]) -> bool:
    """Whether the page that a request comes from may ask: our own, or one that is listed.

    What is no browser names no origin, and may.
    """
    origin = headers.get("origin")
    if origin is None or origin in origins or ANY in origins:
        return True
    # set by the browser alone, and true behind a proxy that renames us too
    if headers.get("sec-fetch-site") == "same-origin":
        return True
    return urlsplit(origin).netloc == headers.get("host")


def read_origins(listed: str | None) -> tuple[str, ...]:
    """Read the setting ``cors_origins``.

    Args:
        listed: Origins between commas, as ``https://example.org`` or ``http://127.0.0.1:3000``;
            ``*`` for every page there is.

    Raises:
        ValueError: One of them is no origin.
    """
    if listed is None:
        return ()
    origins = tuple(text.strip() for text in listed.split(","))
    for origin in origins:
        if origin != ANY and not ORIGIN.fullmatch(origin):
            raise ValueError(
                f"POCKETGAN_CORS_ORIGINS: {origin!r} is no origin: it is a scheme and a host in "
                "small letters, with a port if need be, as https://example.org, and no path"
            )
    return origins


def add_security(app: FastAPI, *, origins: Sequence[str] = ()) -> None:
    """Add the headers, and let pages of ``origins`` ask; of no others.

    Call it after everything that adds middleware: it has to be the outermost.
    """
    app.add_middleware(OwnPagesOnly, origins=origins)
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST"],
            allow_headers=ASKED,
            expose_headers=ANSWERED,
            max_age=PREFLIGHT_S,
        )
    app.add_middleware(SecurityHeaders)


async def refuse(
    scope: Scope,
    receive: Receive,
    send: Send,
    status: int,
    detail: str,
    headers: Mapping[str, str] | None = None,
) -> None:
    """Answer a request, or the handshake of a websocket, with a problem from a middleware."""
    refusal = answer(status, detail, headers)
    if scope["type"] == "websocket":
        await WebSocket(scope, receive, send).send_denial_response(refusal)
    else:
        await refusal(scope, receive, send)
