import pytest
from fastapi import FastAPI, Response, WebSocket
from fastapi.testclient import TestClient
from starlette.testclient import WebSocketDenialResponse

from serving.security import HEADERS, add_security, read_origins

OURS, FRIEND, STRANGER = "http://testserver", "https://friend.example", "https://evil.example"


def client_with(*origins: str) -> TestClient:
    app = FastAPI()

    @app.api_route("/v1/translate", methods=["GET", "POST"])
    async def translate() -> str:
        return "done"

    @app.get("/own")
    async def own() -> Response:
        return Response(headers={"Cache-Control": "no-cache"})

    @app.websocket("/v1/stream")
    async def stream(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close()

    add_security(app, origins=origins)
    return TestClient(app)


@pytest.mark.parametrize("path", ["/v1/translate", "/nothing/here"])
def test_every_answer_says_what_a_browser_must_not_do_with_it(path):
    headers = client_with().get(path).headers
    assert {name: headers[name] for name in HEADERS} == HEADERS


def test_what_a_route_says_itself_stays():
    answer = client_with().get("/own")
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": OURS}, 200),
        ({"Origin": FRIEND}, 200),
        ({"Origin": STRANGER}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://testserver.evil.example"}, 403),
        ({"Origin": "http://testserver:81"}, 403),
        ({"Origin": STRANGER, "Sec-Fetch-Site": "same-site"}, 403),
        # behind a proxy that does not pass on the name the browser knows us by
        ({"Origin": "https://public.example", "Sec-Fetch-Site": "same-origin"}, 200),
    ],
)
def test_pages_of_others_make_the_server_do_nothing(headers, status):
    answer = client_with(FRIEND).post("/v1/translate", headers=headers)
    assert answer.status_code == status
    if status == 403:
        assert answer.headers["content-type"] == "application/problem+json"
        assert f"a page of {headers['Origin']} may not ask" in answer.json()["detail"]
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_foreign_page_opens_no_stream():
    client = client_with()
    with client.websocket_connect("/v1/stream", headers={"Origin": OURS}):
        pass
    with (
        pytest.raises(WebSocketDenialResponse) as refused,
        client.websocket_connect("/v1/stream", headers={"Origin": STRANGER}),
    ):
        pass
    assert refused.value.status_code == 403


def test_by_default_no_page_may_read_an_answer():
    answer = client_with().get("/v1/translate", headers={"Origin": STRANGER})
    assert "access-control-allow-origin" not in answer.headers


def test_a_listed_page_may_ask_and_read_the_times():
    client = client_with(FRIEND)
    asked = {
        "Origin": FRIEND,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "x-api-key, content-type",
    }
    assert client.options("/v1/translate", headers=asked).status_code == 200
    answer = client.post("/v1/translate", headers={"Origin": FRIEND})
    assert answer.headers["access-control-allow-origin"] == FRIEND
    assert "Server-Timing" in answer.headers["access-control-expose-headers"]
    assert "access-control-allow-credentials" not in answer.headers
    refused = client.options("/v1/translate", headers=asked | {"Origin": STRANGER})
    assert refused.status_code == 400


def test_a_star_lets_every_page_ask():
    answer = client_with("*").post("/v1/translate", headers={"Origin": STRANGER})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "*")


def test_origins_are_read_from_the_setting():
    assert read_origins(None) == ()
    assert read_origins("https://a.example, http://127.0.0.1:3000,http://[::1]:80") == (
        "https://a.example",
        "http://127.0.0.1:3000",
        "http://[::1]:80",
    )
    assert read_origins("*") == ("*",)


@pytest.mark.parametrize(
    "wrong", ["a.example", "https://a.example/", "https://*.example", "HTTPS://A.example", ""]
)
def test_what_is_no_origin_is_refused(wrong):
    with pytest.raises(ValueError, match=r"POCKETGAN_CORS_ORIGINS: '.*' is no origin"):
        read_origins(f"https://b.example,{wrong}")
