import io
import re
import struct
import subprocess
import sys
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fastapi.concurrency import run_in_threadpool
from fastapi.testclient import TestClient
from PIL import Image

from deploy.artifacts import Bundle
from deploy.imaging import decode, encode_png
from devices.session import DeviceError, StubSession
from serving.app import create_app
from serving.models import read_bundle
from serving.settings import ServingSettings

ROUTES = ["/healthz", "/readyz", "/v1/latency", "/v1/model", "/v1/translate"]


@pytest.fixture
def client(serve):
    with serve() as client:
        yield client


def problem(response, status):
    """The sentence of a problem, after a look at everything around it."""
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert set(body) == {"type", "title", "status", "detail"}
    assert (body["type"], body["status"]) == ("about:blank", status)
    return body["detail"]


def saved(image, form, **options):
    buffer = io.BytesIO()
    image.save(buffer, format=form, **options)
    return buffer.getvalue()


def png_header(width, height):
    """A PNG that promises a size and holds nothing of it."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I4sI", 0, b"IDAT", zlib.crc32(b"IDAT"))


@pytest.mark.parametrize(("height", "width"), [(32, 32), (1, 1), (33, 30), (90, 7), (200, 301)])
def test_translate_answers_with_the_negative_at_the_same_size(client, photo, height, width):
    pixels = photo(height, width)

    response = client.post("/v1/translate", content=encode_png(pixels))

    assert response.status_code == 200
    assert response.headers["content-type"] == "image/png"
    np.testing.assert_array_equal(decode(response.content), 255 - pixels)


def test_the_answer_says_what_made_it_and_how_long_that_took(client, png, tmp_path):
    response = client.post("/v1/translate", content=png)

    digest = Bundle.read(tmp_path / "bundle").digest
    assert response.headers["pocketgan-bundle"] == f"sha256:{digest}"
    parts = [part.split(";dur=") for part in response.headers["server-timing"].split(", ")]
    assert [name for name, _ in parts] == ["decode", "wait", "engine", "encode"]
    assert all(float(ms) >= 0 for _, ms in parts)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_every_allowed_format_is_read_whatever_the_declared_image_type(client, form):
    data = saved(Image.new("RGB", (20, 24), (255, 0, 0)), form)

    response = client.post("/v1/translate", content=data, headers={"content-type": "image/jpeg"})

    want = np.full((24, 20, 3), (0, 255, 255))
    assert np.abs(decode(response.content).astype(int) - want).max() <= 3


def test_an_image_is_turned_upright_and_its_exif_is_not_passed_on(client, photo):
    pixels = photo(20, 40)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: shown rotated by 90 degrees clockwise
    data = saved(Image.fromarray(pixels), "PNG", exif=exif)

    response = client.post("/v1/translate", content=data)

    np.testing.assert_array_equal(decode(response.content), 255 - np.rot90(pixels, k=-1))
    with Image.open(io.BytesIO(response.content)) as answer:
        assert not answer.getexif()


def test_what_is_transparent_counts_as_white(client, photo):
    pixels = photo(16, 16)
    alpha = np.zeros((16, 16, 1), dtype=np.uint8)
    alpha[:8] = 255
    data = saved(Image.fromarray(np.concatenate([pixels, alpha], axis=2)), "PNG")

    answer = decode(client.post("/v1/translate", content=data).content)

    np.testing.assert_array_equal(answer[:8], 255 - pixels[:8])
    assert (answer[8:] == 0).all()


def test_an_empty_body(client):
    assert problem(client.post("/v1/translate"), 400) == (
        "the body is empty: send the bytes of a JPEG, PNG or WEBP image as the body"
    )


def test_a_form_is_told_how_to_send_an_image(client, png):
    response = client.post("/v1/translate", files={"file": ("photo.png", png)})
    assert problem(response, 415) == (
        "content type 'multipart/form-data': send the bytes of the image as the body, "
        "as curl --data-binary @photo.jpg does"
    )


@pytest.mark.parametrize(
    "data",
    [
        b"not an image",
        saved(Image.new("RGB", (8, 8)), "GIF"),
        saved(Image.new("RGB", (8, 8)), "TIFF"),
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    ],
)
def test_what_is_no_image_of_an_allowed_format(client, data):
    response = client.post("/v1/translate", content=data)
    assert problem(response, 415) == f"not a JPEG, PNG, WEBP image ({len(data)} bytes)"


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_a_truncated_image(client, photo, form):
    whole = saved(Image.fromarray(photo(64, 64)), form)
    response = client.post("/v1/translate", content=whole[: len(whole) * 2 // 3])
    assert re.match(rf"the ({form} )?image is damaged", problem(response, 422))


def test_more_pixels_than_the_limit(serve, photo):
    with serve(max_pixels=2000) as client:
        response = client.post("/v1/translate", content=encode_png(photo(50, 41)))
    assert problem(response, 413) == "image is 41 x 50 = 2050 pixels; the limit is 2000"


@pytest.mark.parametrize(
    ("side", "sentence"),
    [
        (5_000, "image is 5000 x 5000 = 25000000 pixels; the limit is 4194304"),
        (9_500, "image is 9500 x 9500 = 90250000 pixels; the limit is 4194304"),
        (50_000, "image is far larger than the limit of 4194304 pixels"),
    ],
)
def test_a_header_that_promises_too_many_pixels(client, side, sentence):
    response = client.post("/v1/translate", content=png_header(side, side))
    assert problem(response, 413) == sentence


def test_a_body_larger_than_the_limit_with_its_length_declared(serve, png):
    with serve(max_body_bytes=100) as client:
        response = client.post("/v1/translate", content=png)
    assert response.request.headers["content-length"] == str(len(png))
    assert problem(response, 413) == "the body is larger than the limit of 100 bytes"


def test_a_body_larger_than_the_limit_without_a_length(serve, png):
    with serve(max_body_bytes=100) as client:
        response = client.post("/v1/translate", content=iter([png[:90], png[90:]]))
    assert "content-length" not in response.request.headers
    assert problem(response, 413) == "the body is larger than the limit of 100 bytes"


def test_an_engine_that_fails_is_no_fault_of_the_client(serve, png):
    def break_on_large(images):
        if images.shape[2] > 32:
            raise MemoryError("secret/path")
        return -images

    with serve(StubSession(break_on_large)) as client:
        large = encode_png(np.zeros((40, 32, 3), np.uint8))
        response = client.post("/v1/translate", content=large)
        assert problem(response, 500) == (
            "the engine failed on an image of 32 x 40 pixels; the server's log says why"
        )
        assert client.post("/v1/translate", content=png).status_code == 200


def test_an_error_nobody_foresaw_says_nothing_of_the_inside(seal_bundle, png, monkeypatch):
    def explode(self, data):
        raise LookupError("secret/path")

    monkeypatch.setattr("serving.translator.Translator.translate", explode)
    app = create_app(read_bundle(seal_bundle()), ServingSettings(), opener=negative)
    with TestClient(app, raise_server_exceptions=False) as client:
        wait_until_ready(client)
        response = client.post("/v1/translate", content=png)
    assert problem(response, 500) == "the server failed; its log says why"


def test_requests_beside_each_other_get_their_own_image(client, photo):
    images = [photo(20 + side, 50 - side) for side in range(8)]

    def post(pixels):
        return decode(client.post("/v1/translate", content=encode_png(pixels)).content)

    with ThreadPoolExecutor(8) as pool:
        for pixels, answer in zip(images, pool.map(post, images), strict=True):
            np.testing.assert_array_equal(answer, 255 - pixels)
    assert client.get("/v1/latency").json()["request"]["count"] == 8


def test_a_full_queue_says_when_to_come_back(serve, png):
    entered, release = threading.Event(), threading.Event()

    def hold(images):
        if images.shape[2] == 64:
            entered.set()
            assert release.wait(20)
        return -images

    with serve(StubSession(hold), max_queue=0) as client, ThreadPoolExecutor(1) as pool:
        slow = encode_png(np.zeros((64, 64, 3), np.uint8))
        first = pool.submit(client.post, "/v1/translate", content=slow)
        assert entered.wait(20)
        response = client.post("/v1/translate", content=png)
        alive = client.get("/healthz")
        release.set()

        assert problem(response, 503) == (
            "no place free: 1 translated or waiting already; try again later"
        )
        assert response.headers["retry-after"] == "1"
        assert alive.json() == {"status": "ok"}
        assert first.result(20).status_code == 200
        assert client.post("/v1/translate", content=png).status_code == 200


def test_more_uploads_than_allowed_are_sent_away(serve, png, monkeypatch):
    arriving, rest = threading.Event(), threading.Event()

    async def slow_body(stream, *, max_bytes, timeout_s):
        arriving.set()
        assert await run_in_threadpool(rest.wait, 20)
        return png

    # the test client gives a body in one piece, however slowly it is made
    monkeypatch.setattr("serving.app.read_body", slow_body)
    with serve(max_uploads=1) as client, ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.post, "/v1/translate", content=png)
        assert arriving.wait(20)
        second = client.post("/v1/translate", content=png)
        rest.set()
        assert first.result(20).status_code == 200
    assert problem(second, 503) == "1 images are arriving already; try again later"
    assert second.headers["retry-after"] == "1"


def negative(engine, profile, *, backend, precision):
    return StubSession()


def wait_until_ready(client, status=200):
    for _ in range(2000):
        response = client.get("/readyz")
        if response.status_code == status and "warming" not in response.text:
            return response
        threading.Event().wait(0.005)
    raise AssertionError(f"still {response.text}")


def test_before_the_engine_is_warm_only_it_is_not_ready(seal_bundle, png):
    release = threading.Event()

    def slow(engine, profile, *, backend, precision):
        assert release.wait(20)
        return StubSession()

    app = create_app(read_bundle(seal_bundle()), ServingSettings(), opener=slow)
    with TestClient(app) as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        assert client.get("/v1/model").status_code == 200
        for response in (
            client.get("/readyz"),
            client.get("/v1/latency"),
            client.post("/v1/translate", content=png),
        ):
            assert problem(response, 503) == "the engine is warming up; try again in a second"
            assert response.headers["retry-after"] == "1"
        release.set()
        assert wait_until_ready(client).json() == {"status": "ready"}
        assert client.post("/v1/translate", content=png).status_code == 200


def test_an_engine_that_cannot_start_never_gets_ready(seal_bundle, caplog):
    def opener(engine, profile, *, backend, precision):
        raise DeviceError("no such runtime in /secret")

    app = create_app(read_bundle(seal_bundle()), ServingSettings(), opener=opener)
    with TestClient(app) as client:
        response = wait_until_ready(client, 503)
    assert problem(response, 503) == "the engine failed its start; the server's log says why"
    assert "no such runtime" in caplog.text


def test_whoever_asked_is_told_that_the_engine_cannot_start(seal_bundle):
    failures = []
    app = create_app(
        read_bundle(seal_bundle()),
        ServingSettings(),
        opener=lambda engine, profile, *, backend, precision: StubSession(lambda images: images),
        on_failure=failures.append,
    )
    with TestClient(app) as client:
        wait_until_ready(client, 503)
    assert "does not reproduce the golden pairs" in str(failures)


def test_model_says_what_is_served(client, manifest, tmp_path):
    seen = client.get("/v1/model").json()

    assert seen["digest"] == f"sha256:{Bundle.read(tmp_path / 'bundle').digest}"
    assert (seen["backend"], seen["precision"]) == ("onnxruntime", "fp32")
    assert seen["quality"] == {"psnr_db": 30.8, "ssim": 0.9}
    assert seen["model"] == manifest.model.model_dump()
    assert seen["profile"]["name"] == "bench"


def test_latency_stands_beside_the_budget(client, png):
    for _ in range(44):
        client.post("/v1/translate", content=png)

    seen = client.get("/v1/latency").json()

    assert seen["budget"] == {"p50_ms": 5.0, "p90_ms": 6.0, "p99_ms": 7.0}
    assert seen["image_size"] == 32
    for series in ("engine", "engine_at_image_size", "request"):
        assert seen[series]["count"] == 44
        assert seen[series]["p50_ms"] <= seen[series]["p90_ms"]
        assert seen[series]["p99_ms"] is None
    assert seen["request"]["p50_ms"] >= seen["engine"]["p50_ms"]


def test_what_is_refused_is_not_in_the_latency(client):
    client.post("/v1/translate", content=b"not an image")
    assert client.get("/v1/latency").json()["request"]["count"] == 0


@pytest.mark.parametrize(
    ("method", "path", "status", "sentence"),
    [
        ("GET", "/v2", 404, "GET /v2: Not Found; /docs lists the routes"),
        ("GET", "/v1/translate", 405, "GET /v1/translate: Method Not Allowed; /docs lists"),
        ("POST", "/v1/translate/../../etc/passwd", 404, "Not Found"),
        ("GET", "/v1/model/%2e%2e%2f%2e%2e%2fetc%2fpasswd", 404, "Not Found"),
    ],
)
def test_other_paths_are_problems_too(client, method, path, status, sentence):
    assert sentence in problem(client.request(method, path), status)


def test_the_description_holds_every_route_and_the_binary_body(client):
    description = client.get("/openapi.json").json()

    assert sorted(description["paths"]) == ROUTES
    translate = description["paths"]["/v1/translate"]["post"]
    binary = {"schema": {"type": "string", "format": "binary"}}
    assert translate["requestBody"]["content"]["image/jpeg"] == binary
    assert translate["responses"]["200"]["content"] == {"image/png": binary}
    for status in ("400", "408", "413", "415", "422", "500", "503"):
        (described,) = translate["responses"][status]["content"].items()
        assert described[0] == "application/problem+json"
        assert set(described[1]["schema"]["properties"]) == {"type", "title", "status", "detail"}


@pytest.mark.parametrize("stranger", ["torch", "nncf", "onnx", "onnxruntime", "openvino"])
def test_importing_the_application_loads_no_stranger(stranger):
    code = f"import sys, serving.app; sys.exit({stranger!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
