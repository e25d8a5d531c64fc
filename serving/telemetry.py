"""OpenTelemetry: one span for each request, with the time of its stages. Off unless asked for."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Message, Receive, Scope, Send

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

ASKED_BY = (
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_TRACES_EXPORTER",
)
"""Environment variables of which one says where traces go."""

UNTRACED = ("/metrics", "/healthz", "/readyz")

STAGE = re.compile(r"([a-z]+);dur=([0-9.]+)")


def find_tracer(environ: Mapping[str, str]) -> Tracer | None:
    """The tracer of whatever set OpenTelemetry up, such as ``opentelemetry-instrument``.

    Args:
        environ: Usually ``os.environ``.

    Returns:
        None where no variable asks for traces; then nothing of OpenTelemetry is imported.

    Raises:
        ValueError: Traces are asked for, and OpenTelemetry is not installed.
    """
    off = environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    asked = [name for name in ASKED_BY if environ.get(name, "none") not in ("none", "")]
    if off or not asked:
        return None
    try:
        trace = importlib.import_module("opentelemetry.trace")
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{asked[0]} asks for traces and OpenTelemetry is not installed: "
            "pip install 'pocketgan[telemetry]', or unset it"
        ) from error
    tracer: Tracer = trace.get_tracer("pocketgan.serving")
    return tracer


class TraceRequests:
    """ASGI: a span for each HTTP request, below the one its ``traceparent`` names.

    The stages are those of the answer's ``Server-Timing``, so tracing asks nothing of the inside.

    Args:
        app: What answers.
        tracer: As `find_tracer` gives it.
    """

    def __init__(self, app: ASGIApp, tracer: Tracer) -> None:
        self._app = app
        self._tracer = tracer
        self._propagate = importlib.import_module("opentelemetry.propagate")
        self._kind = importlib.import_module("opentelemetry.trace").SpanKind.SERVER

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, and tell."""
        if scope["type"] != "http" or scope["path"] in UNTRACED:
            await self._app(scope, receive, send)
            return
        headers = {
            name.decode("latin-1"): text.decode("latin-1") for name, text in scope["headers"]
        }
        with self._tracer.start_as_current_span(
            scope["method"], context=self._propagate.extract(headers), kind=self._kind
        ) as span:
            span.set_attribute("http.request.method", scope["method"])
            span.set_attribute("url.path", scope["path"])

            async def watched(message: Message) -> None:
                if message["type"] == "http.response.start":
                    span.set_attribute("http.response.status_code", message["status"])
                    said = dict(message.get("headers", ()))
                    for stage, ms in STAGE.findall(said.get(b"server-timing", b"").decode()):
                        span.set_attribute(f"pocketgan.{stage}_ms", float(ms))
                    if bundle := said.get(b"pocketgan-bundle"):
                        span.set_attribute("pocketgan.bundle", bundle.decode())
                await send(message)

            await self._app(scope, receive, watched)
            # routes are few, paths are not: the name is the route's, known once it has answered
            route = getattr(scope.get("route"), "path", None)
            if route is not None:
                span.update_name(f"{scope['method']} {route}")
                span.set_attribute("http.route", route)
