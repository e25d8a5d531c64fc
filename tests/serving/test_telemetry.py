import subprocess
import sys
from contextlib import contextmanager

import pytest
from fastapi import FastAPI, Response
from fastapi.testclient import TestClient

from serving.telemetry import TraceRequests, find_tracer

trace = pytest.importorskip("opentelemetry.trace")


class Span:
    def __init__(self, name):
        self.name = name
        self.attributes = {}

    def set_attribute(self, name, value):
        self.attributes[name] = value

    def update_name(self, name):
        self.name = name


class Tracer:
    """Keeps its spans, and the span each is below."""

    def __init__(self):
        self.spans = []

    @contextmanager
    def start_as_current_span(self, name, context, kind):
        assert kind is trace.SpanKind.SERVER
        span = Span(name)
        span.parent = trace.get_current_span(context).get_span_context().span_id
        self.spans.append(span)
        yield span


@pytest.fixture
def tracer():
    return Tracer()


@pytest.fixture
def client(tracer):
    app = FastAPI()
    app.add_middleware(TraceRequests, tracer=tracer)

    @app.post("/v1/translate")
    def translate():
        timing = "queue;dur=0.50, decode;dur=2.00, engine;dur=4.25, encode;dur=1.00"
        return Response(headers={"Server-Timing": timing, "Pocketgan-Bundle": "sha256:0"})

    @app.get("/v1/thing/{name}")
    def thing(name: str):
        return name

    @app.get("/readyz")
    def readyz():
        return {}

    return TestClient(app)


def test_a_request_is_one_span_with_its_stages(client, tracer):
    client.post("/v1/translate")
    (span,) = tracer.spans
    assert span.name == "POST /v1/translate"
    assert span.attributes == {
        "http.request.method": "POST",
        "http.route": "/v1/translate",
        "url.path": "/v1/translate",
        "http.response.status_code": 200,
        "pocketgan.queue_ms": 0.5,
        "pocketgan.decode_ms": 2.0,
        "pocketgan.engine_ms": 4.25,
        "pocketgan.encode_ms": 1.0,
        "pocketgan.bundle": "sha256:0",
    }
    assert span.parent == 0


def test_it_hangs_below_the_span_of_whoever_asks(client, tracer):
    parent = f"00-{'ab' * 16}-{'cd' * 8}-01"
    client.post("/v1/translate", headers={"traceparent": parent})
    assert tracer.spans[0].parent == int("cd" * 8, 16)


def test_spans_are_named_by_route_and_probes_have_none(client, tracer):
    client.get("/v1/thing/anything")
    client.get("/nowhere/at/all")
    client.get("/readyz")
    assert [span.name for span in tracer.spans] == ["GET /v1/thing/{name}", "GET"]
    assert tracer.spans[1].attributes["http.response.status_code"] == 404


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_SDK_DISABLED": "true"},
    ],
)
def test_off_unless_asked_for(environ):
    assert find_tracer(environ) is None


def test_on_where_traces_have_somewhere_to_go():
    tracer = find_tracer({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"})
    assert isinstance(tracer, trace.Tracer)


def test_what_is_missing_is_named_with_its_cure(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", None)
    with pytest.raises(ValueError, match=r"OTEL_TRACES_EXPORTER asks .*pocketgan\[telemetry\]"):
        find_tracer({"OTEL_TRACES_EXPORTER": "otlp"})


def test_nothing_is_imported_where_it_is_off():
    code = (
        "import sys; from serving.telemetry import find_tracer; find_tracer({}); "
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
