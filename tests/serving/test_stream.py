from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from serving.negotiate import Output
from serving.stream import WAITING, StreamLimits, add_stream, read_wishes
from serving.work import Translation

LIMITS = StreamLimits(max_frame_bytes=100, idle_s=5.0, max_streams=2)


@dataclass
class Model:
    """Turns bytes around; ``b"bad"`` is refused, and everything waits while ``busy`` is set."""

    busy: bool = False
    seen: list[bytes] = field(default_factory=list)
    asked: list[tuple] = field(default_factory=list)
    cancelled: int = 0

    async def translate(self, data, output, size, client) -> Translation:
        self.seen.append(data)
        self.asked.append((output, size, client))
        try:
            while self.busy:
                await asyncio.sleep(0.002)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if data == b"bad":
            raise ValueError("this is no image")
        return Translation(data[::-1], output.format, "sha256:00", 1, 1, 1.0, 2.004, 3.0, 4.0)

    def app(self, limits: StreamLimits = LIMITS) -> FastAPI:
        app = FastAPI()
        add_stream(
            app,
            self.translate,
            explain=lambda error: (422, str(error)),
            client_of=lambda scope: "somebody",
            limits=limits,
        )
        return app


@pytest.fixture
def model() -> Model:
    return Model()


def until(truth) -> None:
    end = time.monotonic() + 5
    while not truth():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.002)


def end_of(session) -> tuple[int, str]:
    with pytest.raises(WebSocketDisconnect) as ended:
        session.receive_text()
    return ended.value.code, ended.value.reason


def test_a_frame_comes_back_behind_a_message_about_it(model):
    with TestClient(model.app()).websocket_connect("/v1/stream") as session:
        session.send_bytes(b"abc")
        assert session.receive_json() == {
            "frame": 1,
            "status": 200,
            "dropped": 0,
            "bytes": 3,
            "format": "jpeg",
            "bundle": "sha256:00",
            "queue_ms": 1.0,
            "decode_ms": 2.0,
            "engine_ms": 3.0,
            "encode_ms": 4.0,
        }
        assert session.receive_bytes() == b"cba"
    assert model.asked == [(Output("jpeg"), "native", "somebody")]


def test_the_query_says_how(model):
    path = "/v1/stream?format=webp&quality=70&size=model&drop=true"
    with TestClient(model.app()).websocket_connect(path) as session:
        session.send_bytes(b"abc")
        assert session.receive_json()["format"] == "webp"
    assert model.asked == [(Output("webp", 70), "model", "somebody")]


def test_a_bad_frame_does_not_end_the_stream(model):
    with TestClient(model.app()).websocket_connect("/v1/stream") as session:
        session.send_bytes(b"bad")
        session.send_bytes(b"abc")
        bad = {"frame": 1, "status": 422, "detail": "this is no image", "dropped": 0}
        assert session.receive_json() == bad
        assert session.receive_json()["frame"] == 2
        assert session.receive_bytes() == b"cba"


def test_without_dropping_every_frame_is_answered_in_order(model):
    frames = [bytes([n]) for n in range(3 * WAITING)]
    with TestClient(model.app()).websocket_connect("/v1/stream") as session:
        for frame in frames:
            session.send_bytes(frame)
        said = [(session.receive_json(), session.receive_bytes()) for _ in frames]
    assert [told["frame"] for told, _ in said] == list(range(1, len(frames) + 1))
    assert [image for _, image in said] == frames
    assert {told["dropped"] for told, _ in said} == {0}


def test_with_dropping_the_latest_frame_wins(model):
    model.busy = True
    with TestClient(model.app()).websocket_connect("/v1/stream?drop=true") as session:
        session.send_bytes(b"1")
        until(lambda: model.seen)
        for frame in (b"2", b"3", b"4"):
            session.send_bytes(frame)
        time.sleep(0.05)  # for the last of them to arrive
        model.busy = False
        told = []
        for _ in range(2):
            told.append(session.receive_json())
            session.receive_bytes()
    assert [(one["frame"], one["dropped"]) for one in told] == [(1, 0), (4, 2)]
    assert model.seen == [b"1", b"4"]


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("format=gif", "format='gif': it is one of png, jpeg, webp"),
        ("quality=0", "quality='0': it is a whole number from 1 to 100"),
        ("size=huge", "size='huge': it is one of native, model, max"),
        ("drop=yes", "drop='yes': it is true or false"),
        ("dorp=true", "no parameter 'dorp'; did you mean drop? there are: drop, format, quality,"),
        (f"format={'x' * 300}", "format='xxx"),
    ],
)
def test_a_wrong_wish_is_said_when_it_closes(model, query, reason):
    with TestClient(model.app()).websocket_connect(f"/v1/stream?{query}") as session:
        code, said = end_of(session)
    assert code == 4400
    assert said.startswith(reason)
    assert len(said.encode()) <= 123


def test_what_is_no_frame_ends_the_stream(model):
    client = TestClient(model.app())
    with client.websocket_connect("/v1/stream") as session:
        session.send_text("hello")
        assert end_of(session) == (
            1003,
            "a frame is a binary message: a JPEG, PNG or WebP image",
        )
    with client.websocket_connect("/v1/stream") as session:
        session.send_bytes(bytes(101))
        assert end_of(session) == (1009, "a frame of 101 bytes is larger than the limit of 100")
    assert model.seen == []


def test_a_stream_that_sends_nothing_is_closed(model):
    app = model.app(StreamLimits(max_frame_bytes=100, idle_s=0.05, max_streams=2))
    with TestClient(app).websocket_connect("/v1/stream") as session:
        assert end_of(session) == (4408, "no frame came for 0.05 s")


def test_there_are_only_so_many_streams_and_places_are_given_back(model):
    client = TestClient(model.app())
    with client:
        for _ in range(3):
            with (
                client.websocket_connect("/v1/stream") as first,
                client.websocket_connect("/v1/stream") as second,
                client.websocket_connect("/v1/stream") as third,
            ):
                assert end_of(third) == (4503, "2 streams are open already; try again later")
                for session in (first, second):
                    session.send_bytes(b"a")
                    assert session.receive_json()["status"] == 200
                    session.receive_bytes()
            time.sleep(0.05)  # the server learns that they left


def test_the_work_of_a_client_that_left_is_dropped(model):
    model.busy = True
    with TestClient(model.app()) as client:
        with client.websocket_connect("/v1/stream") as session:
            session.send_bytes(b"abc")
            until(lambda: model.seen)
        until(lambda: model.cancelled == 1)


def test_the_subprotocol_is_accepted_and_a_key_is_not_repeated(model):
    offered = ["pocketgan.key.0123456789abcdef", "pocketgan.v1"]
    client = TestClient(model.app())
    with client.websocket_connect("/v1/stream", subprotocols=offered) as session:
        assert session.accepted_subprotocol == "pocketgan.v1"


def test_an_error_of_ours_is_not_told_in_detail(model, caplog):
    def broken(error):
        raise RuntimeError("secret inside")

    app = FastAPI()
    add_stream(
        app, model.translate, explain=broken, client_of=lambda scope: "somebody", limits=LIMITS
    )
    with TestClient(app).websocket_connect("/v1/stream") as session:
        session.send_bytes(b"bad")
        assert end_of(session) == (1011, "the server failed; its log says why")
    assert "secret inside" in caplog.text


def test_jpeg_is_what_frames_are_by_default():
    wishes = read_wishes({})
    assert (wishes.output, wishes.size, wishes.drop) == (Output("jpeg"), "native", False)


@contextmanager
def running(app: FastAPI) -> Iterator[str]:
    server = uvicorn.Server(
        uvicorn.Config(app, log_config=None, ws_per_message_deflate=False, ws_max_size=100)
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        until(lambda: server.started)
        try:
            yield f"ws://127.0.0.1:{listener.getsockname()[1]}/v1/stream"
        finally:
            server.should_exit = True
            thread.join(10)
            assert not thread.is_alive(), "a stream keeps the server from ending"


def test_over_a_real_connection_frames_come_back(model):
    with running(model.app()) as url, connect(url) as session:
        for number in range(1, 51):
            session.send(b"abc")
            assert json.loads(session.recv())["frame"] == number
            assert session.recv() == b"cba"


def test_a_server_that_ends_says_so_to_its_streams(model):
    with ExitStack() as client:
        with running(model.app()) as url:
            session = client.enter_context(connect(url))
            session.send(b"abc")
            assert [session.recv(), session.recv()][1] == b"cba"
        with pytest.raises(ConnectionClosed) as ended:
            session.recv()
    assert ended.value.rcvd.code == 1012


def test_a_frame_over_the_limit_is_refused_before_it_is_complete(model):
    with running(model.app()) as url, connect(url) as session:
        session.send([bytes(60), bytes(60)])  # the limit is for the frame, not for its fragments
        with pytest.raises(ConnectionClosed) as ended:
            session.recv()
    assert ended.value.rcvd.code == 1009
    assert model.seen == []


def test_who_reads_nothing_is_not_read_either(model):
    """Backpressure: the server takes no more than it may hold, whatever is sent."""
    model.busy = True
    with running(model.app()) as url, connect(url, close_timeout=0.1) as session:
        sent = 0

        def flood() -> None:
            nonlocal sent
            try:
                while True:
                    session.send(bytes(100))
                    sent += 1
            except Exception:  # the connection is closed under it, which ends the test
                return

        thread = threading.Thread(target=flood, daemon=True)
        thread.start()
        before = -1
        while sent != before:  # until nothing more fits in the buffers between us
            before = sent
            time.sleep(0.3)
        assert model.seen == [bytes(100)]
        model.busy = False
        until(lambda: len(model.seen) > 50)  # and goes on where it stopped
