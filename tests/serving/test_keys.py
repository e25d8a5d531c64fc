import asyncio
import hashlib
import logging

import pytest
from fastapi import FastAPI, Request, WebSocket
from fastapi.testclient import TestClient
from pydantic import SecretStr
from starlette.testclient import WebSocketDenialResponse

from serving.keys import CLIENT, ApiKeys, add_keys, read_keys
from serving.settings import read_settings

KEY, OTHER = "the-key-of-the-phone", "the_key.of~the-kiosk"
LISTED = SecretStr(f"phone:{KEY}, kiosk:{OTHER}")


def app_with(keys: ApiKeys) -> FastAPI:
    app = FastAPI()

    @app.api_route("/{path:path}", methods=["GET", "POST"])
    async def whose(request: Request) -> str:
        return request.scope.get(CLIENT, "nobody's")

    @app.websocket("/v1/stream")
    async def stream(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text(websocket.scope[CLIENT])
        await websocket.close()

    add_keys(app, keys)
    return app


@pytest.fixture
def client() -> TestClient:
    return TestClient(app_with(read_keys(LISTED, None)))


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {KEY}"},
        {"authorization": f"bearer  {KEY} "},
        {"X-API-Key": KEY},
    ],
)
def test_a_key_is_known_by_its_name(client, headers):
    assert client.post("/v1/translate", headers=headers).json() == "key phone"


@pytest.mark.parametrize(
    "headers",
    [
        {"X-API-Key": KEY[:-1]},
        {"X-API-Key": KEY + "e"},
        {"X-API-Key": KEY.upper()},
        {"X-API-Key": b"caf\xe9-caf\xe9-caf\xe9-caf\xe9"},
        {"X-API-Key": hashlib.sha256(KEY.encode()).hexdigest()},
        {"Authorization": "Bearer phone"},
    ],
)
def test_what_is_no_key_is_refused_and_not_repeated(client, headers, caplog):
    caplog.set_level(logging.DEBUG)
    answer = client.post("/v1/translate", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["www-authenticate"] == 'Bearer realm="pocketgan"'
    assert answer.json() == {
        "type": "about:blank",
        "title": "Unauthorized",
        "status": 401,
        "detail": "this API key is not one of this server's; ask whoever runs it for one",
    }
    assert KEY[:-1] not in caplog.text


@pytest.mark.parametrize("headers", [{}, {"Authorization": f"Basic {KEY}"}])
def test_who_shows_no_key_is_told_how(client, headers):
    answer = client.post("/v1/translate", headers=headers)
    assert answer.status_code == 401
    assert "send it as Authorization: Bearer KEY or X-API-Key: KEY" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 200),
        ("/static/app.js", 200),
        ("/healthz", 200),
        ("/readyz", 200),
        ("/v1/model", 401),
        ("/metrics", 401),
        ("/healthz/", 401),
        ("/whatever/comes/next", 401),
    ],
)
def test_a_path_is_closed_unless_it_is_listed(client, path, status):
    assert client.get(path).status_code == status


def test_the_body_of_a_stranger_is_not_read(client):
    async def receive():
        raise AssertionError("somebody reads")

    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "path": "/v1/translate", "method": "POST", "headers": []}
    asyncio.run(client.app(scope, receive, send))
    assert sent[0]["status"] == 401


def test_a_browser_shows_its_key_as_a_subprotocol(client):
    with client.websocket_connect(
        "/v1/stream", subprotocols=["pocketgan.v1", f"pocketgan.key.{OTHER}"]
    ) as socket:
        assert socket.receive_text() == "key kiosk"
        assert socket.accepted_subprotocol is None


def test_a_stream_without_a_key_is_refused_at_the_door(client):
    with (
        pytest.raises(WebSocketDenialResponse) as refused,
        client.websocket_connect("/v1/stream", subprotocols=["pocketgan.v1"]),
    ):
        pass
    assert refused.value.status_code == 401
    assert "this server wants an API key" in refused.value.json()["detail"]


def test_without_keys_nobody_is_asked():
    assert TestClient(app_with(read_keys(None, None))).post("/v1/translate").json() == "nobody's"


@pytest.mark.parametrize("listed", [None, LISTED])
def test_the_description_says_which_routes_want_a_key(listed):
    app = FastAPI()
    app.get("/healthz")(lambda: "ok")
    app.get("/v1/model")(lambda: "negative")
    add_keys(app, read_keys(listed, None))
    description = TestClient(app).get("/openapi.json").json()
    wanted = {path: told["get"].get("security") for path, told in description["paths"].items()}
    if listed is None:
        assert wanted == {"/healthz": None, "/v1/model": None}
        assert "components" not in description
    else:
        assert wanted == {"/healthz": None, "/v1/model": [{"key": []}]}
        assert description["components"]["securitySchemes"]["key"]["scheme"] == "bearer"


def test_a_file_holds_names_digests_and_comments(tmp_path):
    file = tmp_path / "keys"
    digest = hashlib.sha256(OTHER.encode()).hexdigest()
    file.write_text(f"# ours\n\nphone:{KEY}  # since May\nkiosk:sha256:{digest}\n{'k' * 16}\n")
    keys = read_keys(None, file)
    assert [keys.client(key) for key in (KEY, OTHER, "k" * 16, digest)] == [
        "phone",
        "kiosk",
        "key-3",
        None,
    ]


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ("short", "POCKETGAN_API_KEYS, entry 1: not an API key"),
        (f"{KEY},", "entry 2: not an API key"),
        (f"a b:{KEY}", "entry 1: not an API key"),
        ("phone:sha256:12", "entry 1: not an API key"),
        (f"phone:{KEY},phone:{OTHER}", "entry 2: the name 'phone' is there already"),
        (f"phone:{KEY},kiosk:{KEY}", "entry 2: this key is there already"),
    ],
)
def test_a_wrong_entry_is_found_and_not_told(listed, message):
    with pytest.raises(ValueError, match=message) as error:
        read_keys(SecretStr(listed), None)
    assert KEY not in str(error.value)
    assert OTHER not in str(error.value)


def test_an_empty_file_does_not_open_the_server(tmp_path):
    (tmp_path / "keys").write_text("# to do\n")
    with pytest.raises(ValueError, match=r"holds no API key: write one on a line"):
        read_keys(None, tmp_path / "keys")


def test_settings_do_not_show_keys():
    settings = read_settings({"POCKETGAN_API_KEYS": KEY})
    assert KEY not in repr(settings) + str(settings) + settings.model_dump_json()
    assert read_keys(settings.api_keys, settings.api_keys_file).client(KEY) == "key-1"
