from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from types import SimpleNamespace

import pytest
import uvicorn

from serving.slow import SlowClients, waits_for_client


class Connection:
    """As uvicorn keeps them."""

    def __init__(self, cycle=None):
        self.cycle = cycle
        self.aborted = False
        self.transport = SimpleNamespace(abort=self._abort)

    def _abort(self):
        self.aborted = True


def working():
    return SimpleNamespace(response_complete=False)


def test_who_sends_no_whole_request_in_time_is_sent_away():
    now = [0.0]
    silent, busy, answered = Connection(), Connection(working()), Connection(working())
    slow = SlowClients(lambda: {silent, busy, answered}, 10.0, lambda: now[0])
    asyncio.run(slow.sweep())
    now[0] = 8.0
    answered.cycle.response_complete = True
    asyncio.run(slow.sweep())
    now[0] = 11.0
    asyncio.run(slow.sweep())
    assert (silent.aborted, busy.aborted, answered.aborted) == (True, False, False)
    now[0] = 19.0
    asyncio.run(slow.sweep())
    assert (busy.aborted, answered.aborted) == (False, True)


def test_a_request_that_is_answered_starts_the_time_anew():
    now = [0.0]
    one = Connection()
    slow = SlowClients(lambda: [one], 10.0, lambda: now[0])
    asyncio.run(slow.sweep())
    one.cycle = working()
    now[0] = 9.0
    asyncio.run(slow.sweep())
    one.cycle.response_complete = True
    now[0] = 12.0
    asyncio.run(slow.sweep())
    assert not one.aborted


def test_a_websocket_is_left_alone():
    assert not waits_for_client(SimpleNamespace(transport=None))


@pytest.mark.slow
@pytest.mark.parametrize("first", [b"", b"POST /v1/translate HTTP/1.1\r\nHost"])
def test_uvicorn_has_what_is_looked_at(first):
    """Over a real socket: silence and half a head are closed by the server."""

    async def app(scope, receive, send):
        raise AssertionError("no request arrives")

    slow = SlowClients(lambda: server.server_state.connections, 0.2)
    server = uvicorn.Server(
        uvicorn.Config(
            app, log_config=None, lifespan="off", callback_notify=slow.sweep, timeout_notify=0
        )
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        with socket.create_connection(listener.getsockname(), timeout=10) as client:
            client.sendall(first)
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(100) == b""
        server.should_exit = True
        thread.join(10)
