import io
import json
import re
import socket
import struct
import subprocess
import sys
import threading
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor

import httpx2
import numpy as np
import pytest
import uvicorn
from fastapi.concurrency import run_in_threadpool
from fastapi.testclient import TestClient
from PIL import Image

from deploy.artifacts import Bundle
from deploy.imaging import decode
from devices.session import DeviceError, StubSession
from serving.app import client_of, create_app
from serving.keys import CLIENT
from serving.models import read_bundle
from serving.settings import ServingSettings
from serving.swap import Models
from tests.pictures import encode_png

ROUTES = [
    "/healthz",
    "/metrics",
    "/readyz",
    "/v1/latency",
    "/v1/model",
    "/v1/translate",
    "/v1/translate/batch",
]


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
    assert [name for name, _ in parts] == ["queue", "decode", "engine", "encode"]
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


def test_the_answer_is_encoded_as_the_client_asks(client, photo):
    data = encode_png(photo(20, 24))
    for accept, query, want in [
        ("*/*", "", "image/png"),
        ("image/webp", "", "image/webp"),
        ("image/webp", "?format=jpeg&quality=70", "image/jpeg"),
    ]:
        response = client.post(f"/v1/translate{query}", content=data, headers={"accept": accept})
        assert response.headers["content-type"] == want
        assert decode(response.content).shape == (20, 24, 3)


def test_the_size_that_the_model_sees_may_be_chosen(serve, photo):
    with serve(max_pixels=40 * 40) as client:
        data = encode_png(photo(100, 50))
        for size, want in [("model", (32, 16, 3)), ("max", (56, 28, 3))]:
            response = client.post(f"/v1/translate?size={size}", content=data)
            assert decode(response.content).shape == want


@pytest.mark.parametrize(
    ("query", "headers", "status", "sentence"),
    [
        ("?format=gif", {}, 400, "format='gif': it is one of png, jpeg, webp"),
        ("?size=huge", {}, 400, "size='huge': it is one of native, model, max"),
        ("", {"accept": "text/html"}, 406, "Accept: text/html: there are image/png"),
        ("", {"x-timeout-ms": "soon"}, 400, "X-Timeout-Ms: 'soon' is not a number of milli"),
    ],
)
def test_a_wish_that_is_none_is_a_problem(client, png, query, headers, status, sentence):
    response = client.post(f"/v1/translate{query}", content=png, headers=headers)
    assert sentence in problem(response, status)


def test_an_empty_body(client):
    assert problem(client.post("/v1/translate"), 400) == (
        "the body is empty: send the bytes of a JPEG, PNG or WEBP image as the body"
    )


def test_a_form_with_one_file_is_an_image(client, png):
    alone = client.post("/v1/translate", content=png)
    response = client.post("/v1/translate", files={"file": ("photo.png", png)})
    assert response.status_code == 200
    assert response.content == alone.content


def test_a_document_is_told_how_to_send_an_image(client, png):
    response = client.post("/v1/translate", json={"image": "photo.png"})
    assert problem(response, 415) == (
        "content type 'application/json': send the bytes of the image as the body, "
        "as curl --data-binary @photo.jpg does"
    )


def test_a_batch_is_answered_image_by_image(client, photo):
    images = [encode_png(photo(20 + n, 30)) for n in range(3)]
    files = [("image", (f"{n}.png", data)) for n, data in enumerate(images)]
    files.insert(1, ("image", ("broken.png", images[0][:60])))
    response = client.post("/v1/translate/batch", files=files)
    assert response.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(response.content)) as answers:
        told = json.loads(answers.read("manifest.json"))["images"]
        assert [(one["name"], one["status"]) for one in told] == [
            ("0.png", 200),
            ("broken.png", 422),
            ("1.png", 200),
            ("2.png", 200),
        ]
        for data, one in zip(images, [told[0], told[2], told[3]], strict=True):
            assert answers.read(one["file"]) == client.post("/v1/translate", content=data).content
    assert told[1]["file"] is None
    assert "damaged" in told[1]["detail"]


def test_a_batch_has_an_end(serve, png):
    with serve(max_images=2) as client:
        files = [("image", ("a.png", png))] * 3
        response = client.post("/v1/translate/batch", files=files)
        assert "2" in problem(response, 413)


def test_a_parameter_that_does_nothing_is_refused(client, png):
    response = client.post("/v1/translate?qality=80", content=png)
    assert problem(response, 400) == (
        "no parameter 'qality'; did you mean quality? there are: format, quality, size"
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
        (5_000, "image is 5000 x 5000 = 25000000 pixels; the limit is 24000000"),
        (9_500, "image is 9500 x 9500 = 90250000 pixels; the limit is 24000000"),
        (50_000, "image is far larger than the limit of 24000000 pixels"),
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
    async def explode(self, job, **options):
        raise LookupError("secret/path")

    monkeypatch.setattr("serving.service.Service.translate", explode)
    app = app_of(seal_bundle(), negative)
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


class Hold:
    """A session that works on images of 64 x 64 until the test lets it end."""

    def __init__(self):
        self.entered = threading.Event()
        self.release = threading.Event()

    def run(self, images):
        if images.shape[2] == 64:
            self.entered.set()
            assert self.release.wait(20)
        return -images


SLOW = encode_png(np.zeros((64, 64, 3), np.uint8))


@pytest.fixture
def one_worker(monkeypatch):
    monkeypatch.setattr("serving.service.workers_for", lambda instances, cores: 1)


def test_a_full_queue_says_when_to_come_back(serve, png, one_worker):
    hold = Hold()
    with serve(hold, max_queue=0) as client, ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.post, "/v1/translate", content=SLOW)
        assert hold.entered.wait(20)
        response = client.post("/v1/translate", content=png)
        alive = client.get("/healthz")
        hold.release.set()

        assert problem(response, 503) == (
            "too many images wait already (0, of 0 pixels together); try again later"
        )
        assert response.headers["retry-after"] == "1"
        assert alive.json() == {"status": "ok"}
        assert first.result(20).status_code == 200
        assert client.post("/v1/translate", content=png).status_code == 200


def test_an_image_that_may_not_wait_that_long_is_told_so(serve, png, one_worker):
    hold = Hold()
    with serve(hold) as client, ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.post, "/v1/translate", content=SLOW)
        assert hold.entered.wait(20)
        response = client.post("/v1/translate", content=png, headers={"x-timeout-ms": "20"})
        hold.release.set()
        assert first.result(20).status_code == 200
    told = problem(response, 504)
    assert re.match(
        r"the engine was not free in time for an answer within 0\.0[12]\d* s; try", told
    )


def test_a_client_that_asks_too_often_is_told_when_to_come_back(serve, png):
    with serve(rate_per_s=0.5, rate_burst=2) as client:
        statuses = [client.post("/v1/translate", content=png).status_code for _ in range(2)]
        response = client.post("/v1/translate", content=png)
        assert client.get("/healthz").status_code == 200
    assert statuses == [200, 200]
    assert "more than 0.5 requests per second (and 2 at once)" in problem(response, 429)
    assert response.headers["retry-after"] == "2"


@pytest.mark.parametrize(
    ("scope", "want"),
    [
        ({"client": ("192.0.2.1", 4711)}, "192.0.2.1"),
        ({"client": None}, ""),
        ({"client": ("192.0.2.1", 4711), CLIENT: "key 7"}, "key 7"),
    ],
)
def test_a_client_is_its_checked_key_or_its_address(scope, want):
    assert client_of(scope) == want


def test_a_client_that_hangs_up_takes_its_image_out_of_the_queue(seal_bundle, png, one_worker):
    """Over a real socket: what is told of a client that left depends on the server."""
    hold = Hold()
    app = app_of(seal_bundle(), opener_of(hold))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, ws="none"))
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(2) as pool:
        ended = pool.submit(server.run, sockets=[listener])
        with httpx2.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}") as client:
            wait_until_ready(client)
            first = pool.submit(client.post, "/v1/translate", content=SLOW)
            assert hold.entered.wait(20)
            with socket.create_connection(listener.getsockname()) as impatient:
                head = f"POST /v1/translate HTTP/1.1\r\nHost: x\r\nContent-Length: {len(png)}"
                impatient.sendall(head.encode() + b"\r\n\r\n" + png)
                wait_for_figure(client, "pocketgan_queue_images 1.0")
            wait_for_figure(client, "pocketgan_images_abandoned_total 1.0")
            hold.release.set()
            assert first.result(20).status_code == 200
            assert client.get("/v1/latency").json()["request"]["count"] == 1
        server.should_exit = True
        ended.result(20)


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


def opener_of(session):
    def opener(engine, profile, *, backend, precision):
        return session

    return opener


def app_of(folder, opener):
    settings = ServingSettings()
    return create_app(Models(read_bundle(folder), settings, opener), settings)


def wait_for_figure(client, line):
    for _ in range(2000):
        if line in client.get("/metrics").text.splitlines():
            return
        threading.Event().wait(0.01)
    raise AssertionError(f"never {line}")


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

    app = app_of(seal_bundle(), slow)
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
        assert wait_until_ready(client).json()["status"] == "ready"
        assert client.post("/v1/translate", content=png).status_code == 200


def test_an_engine_that_cannot_start_never_gets_ready(seal_bundle, caplog):
    def opener(engine, profile, *, backend, precision):
        raise DeviceError("no such runtime in /secret")

    app = app_of(seal_bundle(), opener)
    with TestClient(app) as client:
        response = wait_until_ready(client, 503)
    assert problem(response, 503) == "the engine failed its start; the server's log says why"
    assert "no such runtime" in caplog.text


def test_whoever_asked_is_told_that_the_engine_cannot_start(seal_bundle):
    failures = []
    models = Models(
        read_bundle(seal_bundle()),
        ServingSettings(),
        lambda engine, profile, *, backend, precision: StubSession(lambda images: images),
    )
    app = create_app(models, ServingSettings(), on_failure=failures.append)
    with TestClient(app) as client:
        wait_until_ready(client, 503)
    assert "does not reproduce the golden pairs" in str(failures)


def test_model_says_what_is_served(client, manifest, tmp_path):
    seen = client.get("/v1/model").json()

    assert seen["digest"] == f"sha256:{Bundle.read(tmp_path / 'bundle').digest}"
    assert (seen["backend"], seen["precision"]) == ("onnxruntime", "fp32")
    assert seen["quality"] == {"psnr_db": 30.8, "ssim": 0.9}
    assert seen["model"] == manifest.model.model_dump(mode="json")
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
    assert translate["responses"]["200"]["content"] == dict.fromkeys(
        ("image/png", "image/jpeg", "image/webp"), binary
    )
    for status in ["400", "406", "408", "413", "415", "422", "429", "500", "503", "504"]:
        (described,) = translate["responses"][status]["content"].items()
        assert described[0] == "application/problem+json"
        assert set(described[1]["schema"]["properties"]) == {"type", "title", "status", "detail"}


@pytest.mark.parametrize("stranger", ["torch", "nncf", "onnx", "onnxruntime", "openvino"])
def test_importing_the_application_loads_no_stranger(stranger):
    code = f"import sys, serving.app; sys.exit({stranger!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
