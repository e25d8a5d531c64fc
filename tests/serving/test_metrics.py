import re
from dataclasses import replace

import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from deploy.imaging import ImageTooLargeError
from devices.session import StubSession
from serving.lines import Load
from serving.metrics import Metrics, add_metrics
from serving.models import read_bundle
from serving.observer import Observer
from serving.settings import ServingSettings
from serving.swap import Models, SwapError
from serving.work import Job, Translation, TranslationError

DONE = Translation(
    image=b"",
    format="png",
    digest="sha256:0",
    pixels=1024,
    batch=1,
    queue_ms=1.5,
    decode_ms=2.0,
    engine_ms=4.0,
    encode_ms=80.0,
)


def opener(engine, profile, *, backend, precision):
    return StubSession()


@pytest.fixture
def metrics():
    return Metrics()


@pytest.fixture
def models(seal_bundle):
    settings = ServingSettings(latency_policy="off", max_together=1)
    return Models(read_bundle(seal_bundle()), settings, opener)


@pytest.fixture
def app(metrics):
    app = FastAPI()
    add_metrics(app, metrics)

    @app.get("/v1/model")
    def model():
        return {}

    @app.get("/v1/translate")
    def fails():
        raise RuntimeError("no")

    @app.get("/")
    def page():
        return StreamingResponse(iter([b"a", b"b"]))

    return app


def scraped(app):
    """Every sample, by name and labels."""
    with TestClient(app) as client:
        answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def value(samples, name, /, **labels):
    return samples[f"pocketgan_{name}", tuple(sorted(labels.items()))]


def test_images_are_counted_by_what_became_of_them(app, metrics):
    observer: Observer = metrics
    for _ in range(5):
        observer.accepted(1024)
    observer.finished(DONE)
    observer.finished(replace(DONE, pixels=76))
    observer.refused("full")
    observer.abandoned()
    observer.failed(ImageTooLargeError("too large"))
    observer.failed(TranslationError("no"))
    observer.failed(KeyError("a mistake of ours"))

    seen = scraped(app)
    assert value(seen, "images_accepted_total") == 5
    assert value(seen, "images_total") == 2
    assert value(seen, "pixels_total") == 1100
    assert value(seen, "images_refused_total", reason="full") == 1
    assert value(seen, "images_refused_total", reason="deadline") == 0
    assert value(seen, "images_abandoned_total") == 1
    assert value(seen, "images_failed_total", fault="image") == 1
    assert value(seen, "images_failed_total", fault="engine") == 2


def test_the_time_of_each_stage_is_in_seconds(app, metrics):
    metrics.finished(DONE)
    seen = scraped(app)
    for stage, seconds in (("queue", 0.0015), ("decode", 0.002), ("engine", 0.004)):
        assert value(seen, "stage_seconds_sum", stage=stage) == pytest.approx(seconds)
    assert value(seen, "stage_seconds_bucket", stage="encode", le="0.05") == 0
    assert value(seen, "stage_seconds_bucket", stage="encode", le="0.1") == 1


def test_answers_are_counted_by_route_and_class(app):
    with TestClient(app, raise_server_exceptions=False) as client:
        client.get("/v1/model")
        client.get("/v1/translate")
        client.get("/")
        for n in range(50):
            client.get(f"/v1/translate/{n}?{n}")
        client.get("/healthz")
    seen = scraped(app)
    assert value(seen, "requests_total", route="/v1/model", status="2xx") == 1
    assert value(seen, "requests_total", route="/v1/translate", status="5xx") == 1
    assert value(seen, "requests_total", route="/", status="2xx") == 1
    assert value(seen, "requests_total", route="other", status="4xx") == 50
    assert value(seen, "request_seconds_count", route="other") == 50
    assert len([name for name, _ in seen if name == "pocketgan_requests_total"]) == 4


def test_the_queue_and_the_model_are_as_they_are_now(app, metrics, models, png):
    load = Load()
    metrics.watch(models, lambda: load)
    assert value(scraped(app), "ready") == 0

    models.start()
    load.images, load.pixels, load.size_bytes = 3, 3072, 999
    for _ in range(60):
        models.translator.translate(Job(png))
    seen = scraped(app)

    assert value(seen, "ready") == 1
    assert value(seen, "queue_images") == 3
    assert value(seen, "queue_pixels") == 3072
    assert value(seen, "queue_bytes") == 999
    assert value(seen, "resident_memory_bytes") > 2**20
    assert value(seen, "degraded") == 0
    assert value(seen, "engine_budget_seconds", quantile="0.9") == pytest.approx(0.006)
    assert 0 < value(seen, "engine_at_image_size_seconds", quantile="0.9") < 1
    assert ("pocketgan_engine_at_image_size_seconds", (("quantile", "0.99"),)) not in seen
    info = {
        "digest": models.digest,
        "name": "negative",
        "precision": "fp32",
        "backend": "onnxruntime",
        "profile": "bench",
    }
    assert value(seen, "bundle_info", **info) == 1


def test_changes_of_the_model_are_counted_and_one_bundle_is_told_of(app, metrics, models):
    metrics.watch(models, Load)
    models.start()
    (models.bundle.path / "engine.onnx").write_bytes(b"damaged")
    with pytest.raises(SwapError):
        models.reload()
    for _ in range(60):
        models.current.watch.ran((1, 3, 32, 32), 50.0)
    seen = scraped(app)
    assert value(seen, "model_changes_total", outcome="refused") == 1
    assert value(seen, "model_changes_total", outcome="swaps") == 0
    assert value(seen, "degraded") == 1
    assert len([name for name, _ in seen if name == "pocketgan_bundle_info"]) == 1


def test_servers_in_one_process_have_figures_of_their_own(app, metrics):
    Metrics().finished(DONE)
    assert value(scraped(app), "images_total") == 0


def test_every_figure_says_what_it_is(app, metrics, models):
    metrics.watch(models, Load)
    models.start()
    with TestClient(app) as client:
        text = client.get("/metrics").text
    names = re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)
    assert names
    for name in names:
        assert name.startswith("pocketgan_")
        assert re.search(rf"^# HELP {name} \S", text, re.MULTILINE)
