import socket
import threading
import time
import traceback
import urllib.request
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from devices.session import StubSession
from serving.admin import (
    MAX_BODY_BYTES,
    create_admin_app,
    read_token,
    reload_in_background,
    serve_in_thread,
)
from serving.models import read_bundle
from serving.settings import ServingSettings, read_settings
from serving.swap import Models

TOKEN = "correct horse battery"
KNOWN = {"Authorization": f"Bearer {TOKEN}"}


def opener(engine, profile, *, backend, precision):
    if b"broken" in engine.read_bytes():
        return StubSession(lambda images: images)
    return StubSession()


@pytest.fixture
def models(seal_bundle, tmp_path):
    folder = tmp_path / "bundles"
    folder.mkdir()
    for name in ("one", "two", "broken"):
        seal_bundle(engine=name.encode()).rename(folder / name)
    settings = ServingSettings(latency_policy="off", max_together=1, bundles_dir=folder)
    models = Models(read_bundle(folder / "one"), settings, opener)
    models.start()
    return models


@pytest.fixture
def client(models):
    return TestClient(create_admin_app(models, TOKEN), headers=KNOWN)


def problem(response, status):
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["status"] == status
    return response.json()["detail"]


def test_a_swap_and_the_way_back(client):
    before = client.get("/v1/model").json()
    assert before["current"]["bundle"] == "one"
    assert before["previous"] is None

    swapped = client.post("/v1/model", json={"bundle": "two"})
    assert swapped.status_code == 200
    assert swapped.json()["current"]["bundle"] == "two"
    assert swapped.json()["previous"] == before["current"]
    assert client.get("/v1/model").json() == swapped.json()

    back = client.post("/v1/model/rollback").json()
    assert back["current"] == before["current"]
    assert (back["swaps"], back["rollbacks"]) == (1, 1)


@pytest.mark.parametrize("body", [b"", b"{}", b'{"bundle": null}'])
def test_without_a_name_the_configured_bundle_is_read_again(client, body):
    client.post("/v1/model", json={"bundle": "two"})
    assert client.post("/v1/model", content=body).json()["current"]["bundle"] == "one"


def test_a_refusal_is_a_problem_and_nothing_changed(client):
    before = client.get("/v1/model").json()["current"]
    detail = problem(client.post("/v1/model", json={"bundle": "broken"}), 422)
    assert "refused, and nothing changed" in detail
    assert "does not reproduce the golden pairs" in detail
    assert client.get("/v1/model").json()["current"] == before
    assert "there are: broken, one, two" in problem(
        client.post("/v1/model", json={"bundle": "../one"}), 404
    )
    assert "no previous model" in problem(client.post("/v1/model/rollback"), 409)


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        (b"[]", 422, 'send {"bundle": "NAME"}, or nothing to reload'),
        (b'{"bundle": 3}', 422, "bundle = 3"),
        (b'{"path": "/etc"}', 422, "unknown key 'path'"),
        (b"\xff", 422, "Invalid JSON"),
        (b" " * (MAX_BODY_BYTES + 1), 413, "more than 4096 bytes"),
    ],
)
def test_a_body_that_is_none(client, body, status, sentence):
    assert sentence in problem(client.post("/v1/model", content=body), status)


@pytest.mark.parametrize("method", ["get", "post"])
@pytest.mark.parametrize(
    "given", [None, "", "Bearer", "Bearer wrong", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN} "[:-2]]
)
def test_nothing_without_the_token(models, method, given):
    client = TestClient(create_admin_app(models, TOKEN))
    headers = {} if given is None else {"Authorization": given}
    answer = client.request(method, "/v1/model", headers=headers)
    assert problem(answer, 401) == "send the admin token: Authorization: Bearer TOKEN"
    assert answer.headers["www-authenticate"] == "Bearer"
    assert models.view().swaps == 0


def test_there_is_no_description_to_read(client):
    for path in ("/docs", "/redoc", "/openapi.json"):
        assert client.get(path).status_code == 404


def test_a_port_wants_a_token():
    with pytest.raises(ValueError, match="ADMIN_TOKEN is not: set it to 16 characters or more"):
        read_token(ServingSettings(admin_port=0))
    settings = read_settings({"POCKETGAN_ADMIN_TOKEN": TOKEN, "POCKETGAN_ADMIN_PORT": "9000"})
    assert read_token(settings) == TOKEN
    assert TOKEN not in repr(settings)


def test_a_short_token_is_refused_without_being_shown():
    given = "short " + "secret"
    with pytest.raises(ValueError, match="POCKETGAN_ADMIN_TOKEN") as refused:
        read_settings({"POCKETGAN_ADMIN_TOKEN": given})
    assert "at least 16" in str(refused.value)
    assert given not in "".join(traceback.format_exception(refused.value))


def test_the_settings_of_models_have_variables():
    assert read_settings(
        {
            "POCKETGAN_WARM_SIZES": "64,32x48",
            "POCKETGAN_LATENCY_POLICY": "refuse",
            "POCKETGAN_DEGRADED_POLICY": "unready",
            "POCKETGAN_PROBATION_IMAGES": "0",
            "POCKETGAN_BUNDLES_DIR": "/srv/bundles",
            "POCKETGAN_ADMIN_HOST": "::1",
            "POCKETGAN_ADMIN_PORT": "0",
            "POCKETGAN_ADMIN_TOKEN": TOKEN,
        }
    ) == ServingSettings(
        warm_sizes="64,32x48",
        latency_policy="refuse",
        degraded_policy="unready",
        probation_images=0,
        bundles_dir=Path("/srv/bundles"),
        admin_host="::1",
        admin_port=0,
        admin_token=SecretStr(TOKEN),
    )


def test_it_is_served_beside_the_main_loop(models):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with serve_in_thread(create_admin_app(models, TOKEN), listener):
            request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/model", headers=KNOWN)
            with urllib.request.urlopen(request, timeout=10) as answer:
                assert b'"bundle":"one"' in answer.read()
        assert "admin" not in [thread.name for thread in threading.enumerate()]


def test_a_reload_in_the_background(models, seal_bundle, caplog):
    caplog.set_level("INFO", logger="serving")
    models.use("two")
    reload_in_background(models).join(10)
    assert models.view().current.bundle == "one"

    models._path = models._path.with_name("broken")
    reload_in_background(models).join(10)
    assert models.view().current.bundle == "one"
    assert "reload: refused, and nothing changed" in caplog.text


def test_a_body_that_never_comes_is_given_up(models, monkeypatch):
    monkeypatch.setattr("serving.admin.BODY_TIMEOUT_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with (
            serve_in_thread(create_admin_app(models, TOKEN), listener),
            socket.create_connection(("127.0.0.1", port), timeout=10) as slow,
        ):
            head = f"POST /v1/model HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
            slow.sendall(f"{head}Content-Length: 9\r\n\r\n".encode())
            time.sleep(0.1)
            assert b"408" in slow.recv(4096).partition(b"\r\n")[0]
