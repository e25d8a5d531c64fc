"""The page at ``/``: a few files of the package, served from memory."""

from __future__ import annotations

import hashlib
from importlib.resources import files

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

INDEX = "index.html"
FILES = {
    INDEX: "text/html; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "app.js": "text/javascript; charset=utf-8",
    "server.js": "text/javascript; charset=utf-8",
    "stage.js": "text/javascript; charset=utf-8",
    "live.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
"""Everything there is, and what it is; a name from a client is only looked up here."""

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # asked for every time and answered with 304: a new version is never mixed with an old one
    "Cache-Control": "no-cache",
}


def read_static() -> dict[str, bytes]:
    """The files of the page, by name."""
    folder = files("serving") / "static"
    return {name: (folder / name).read_bytes() for name in FILES}


def add_page(app: FastAPI) -> None:
    """Serve the page at ``/`` and its files below ``/static/``."""
    contents = read_static()
    tags = {
        name: f'"{hashlib.sha256(content).hexdigest()[:32]}"' for name, content in contents.items()
    }

    def answer(name: str, request: Request) -> Response:
        headers = HEADERS | {"ETag": tags[name]}
        known = request.headers.get("if-none-match", "")
        if tags[name] in (tag.strip().removeprefix("W/") for tag in known.split(",")):
            return Response(status_code=304, headers=headers)
        return Response(contents[name], media_type=FILES[name], headers=headers)

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def page(request: Request) -> Response:
        return answer(INDEX, request)

    @app.api_route("/static/{name}", methods=["GET", "HEAD"], include_in_schema=False)
    async def static(name: str, request: Request) -> Response:
        if name not in contents:
            raise HTTPException(404, "Not Found")
        return answer(name, request)
