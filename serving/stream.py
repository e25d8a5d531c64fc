"""The websocket ``/v1/stream``: frames in, translated frames out, the latest first if wanted."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import anyio
from fastapi import FastAPI
from starlette.types import Scope
from starlette.websockets import WebSocket, WebSocketDisconnect

from devices.profile import Frozen
from serving.negotiate import Format, Output, WishError, check_query, choose_output, choose_size
from serving.sizes import Size
from serving.work import Translation

PROTOCOL = "pocketgan.v1"
"""The subprotocol; a client that offers it may offer its key as another (`serving.keys`)."""

PARAMETERS = ("drop", "format", "quality", "size")
WAITING = 4
"""Frames of one stream that may wait where none are dropped; then no more are read."""

BAD_WISH, IDLE, BUSY = 4400, 4408, 4503
UNSUPPORTED, TOO_BIG, INTERNAL = 1003, 1009, 1011
"""Close codes: 4000 and the HTTP status that means the same, or those of RFC 6455, 7.4.1."""

MAX_REASON_BYTES = 123
CLOSE_S = 5.0

log = logging.getLogger(__name__)

Translate = Callable[[bytes, Output, Size, str], Awaitable[Translation]]
"""From the bytes of an image, how and at which size it is wanted, and whose it is."""

Explain = Callable[[Exception], tuple[int, str]]
"""The HTTP status that an error has, and a sentence for whoever sent the frame."""


class FrameAnswer(Frozen):
    """The text message before a translated frame, or in its place.

    Attributes:
        frame: Which frame this answers, counted from 1 in the order they were sent.
        status: 200, or the HTTP status that the image alone would have had.
        detail: What was wrong; null where nothing was.
        dropped: Frames before this one, and after the one answered before it, that a later one
            has replaced.
        bytes: Length of the binary message that follows; null where none follows.
        format: Of the image that follows.
        bundle: Digest of the bundle that made it.
        queue_ms: Waiting, from complete frame to the engine.
        decode_ms: From bytes to what the model sees.
        engine_ms: ``Session.run`` alone.
        encode_ms: From what the model made to bytes.
    """

    frame: int
    status: int
    detail: str | None = None
    dropped: int
    bytes: int | None = None
    format: Format | None = None
    bundle: str | None = None
    queue_ms: float | None = None
    decode_ms: float | None = None
    engine_ms: float | None = None
    encode_ms: float | None = None


@dataclass(frozen=True)
class StreamLimits:
    """What one stream, and all of them, may take.

    Attributes:
        max_frame_bytes: Largest frame, in bytes.
        idle_s: Longest between two frames, and that an answer may take to be read, in seconds.
        max_streams: Streams at the same time.
    """

    max_frame_bytes: int
    idle_s: float
    max_streams: int


@dataclass(frozen=True)
class Wishes:
    """What the query of a stream asks for.

    Attributes:
        output: How the answers are encoded.
        size: The size at which frames are translated.
        drop: Whether only the latest of the frames that wait is translated.
    """

    output: Output
    size: Size
    drop: bool


@dataclass(frozen=True)
class _Frame:
    number: int
    data: bytes
    dropped: int


class StreamEndError(Exception):
    """The stream is over, for a reason that its client is told."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def read_wishes(query: Mapping[str, str]) -> Wishes:
    """Read the query of a stream; JPEG where it names no format.

    Raises:
        WishError: A parameter or a value that there is not.
    """
    check_query(query, PARAMETERS)
    drop = query.get("drop", "false")
    if drop not in ("true", "false"):
        raise WishError(400, f"drop={drop!r}: it is true or false")
    output = choose_output(None, {"format": "jpeg", **query})
    return Wishes(output, choose_size(query), drop == "true")


def add_stream(
    app: FastAPI,
    translate: Translate,
    *,
    explain: Explain,
    client_of: Callable[[Scope], str],
    limits: StreamLimits,
) -> None:
    """Add the websocket ``/v1/stream``.

    Args:
        app: Whose middleware has already decided who may come here.
        translate: Translates one frame; cancelled when the client has left.
        explain: What to say of an error of ``translate``.
        client_of: Whose stream it is.
        limits: As above.
    """
    places = threading.BoundedSemaphore(limits.max_streams)

    @app.websocket("/v1/stream")
    async def stream(websocket: WebSocket) -> None:
        offered = websocket.scope.get("subprotocols", [])
        await websocket.accept(PROTOCOL if PROTOCOL in offered else None)
        try:
            wishes = read_wishes(websocket.query_params)
            if not places.acquire(blocking=False):
                busy = f"{limits.max_streams} streams are open already; try again later"
                raise StreamEndError(BUSY, busy)
            try:
                client = client_of(websocket.scope)
                await _run(websocket, translate, explain, client, wishes, limits)
            finally:
                places.release()
        except WishError as error:
            await _close(websocket, BAD_WISH, str(error))
        except StreamEndError as error:
            await _close(websocket, error.code, str(error))
        except WebSocketDisconnect:
            pass
        except Exception:
            log.exception("a stream failed")
            await _close(websocket, INTERNAL, "the server failed; its log says why")


async def _run(
    websocket: WebSocket,
    translate: Translate,
    explain: Explain,
    client: str,
    wishes: Wishes,
    limits: StreamLimits,
) -> None:
    """Read and answer beside each other until one of them ends, and raise what ended it."""
    waiting: asyncio.Queue[_Frame] = asyncio.Queue(1 if wishes.drop else WAITING)

    async def answer() -> None:
        while True:
            frame = await waiting.get()
            try:
                done = await translate(frame.data, wishes.output, wishes.size, client)
            except Exception as error:
                status, detail = explain(error)
                said = FrameAnswer(
                    frame=frame.number, status=status, detail=detail, dropped=frame.dropped
                )
                await _send(websocket, limits.idle_s, said)
            else:
                await _send(websocket, limits.idle_s, _describe(frame, done), done.image)

    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_read, websocket, waiting, wishes.drop, limits)
            tasks.start_soon(answer)
    except ExceptionGroup as ended:
        # one of them; where both ended at once, either says enough
        raise ended.exceptions[0] from None


async def _read(
    websocket: WebSocket, waiting: asyncio.Queue[_Frame], drop: bool, limits: StreamLimits
) -> None:
    number = 0
    while True:
        data = await _receive(websocket, limits)
        number += 1
        dropped = 0
        if drop and waiting.full():
            dropped = waiting.get_nowait().dropped + 1
        await waiting.put(_Frame(number, data, dropped))


async def _receive(websocket: WebSocket, limits: StreamLimits) -> bytes:
    """The next frame.

    Raises:
        StreamEndError: It did not come in time, is too large or is text.
        WebSocketDisconnect: The client has left.
    """
    try:
        with anyio.fail_after(limits.idle_s):
            message = await websocket.receive()
    except TimeoutError as error:
        raise StreamEndError(IDLE, f"no frame came for {limits.idle_s:g} s") from error
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1005))
    data: bytes | None = message.get("bytes")
    if data is None:
        raise StreamEndError(UNSUPPORTED, "a frame is a binary message: a JPEG, PNG or WebP image")
    if len(data) > limits.max_frame_bytes:
        raise StreamEndError(
            TOO_BIG,
            f"a frame of {len(data)} bytes is larger than the limit of {limits.max_frame_bytes}",
        )
    return data


async def _send(
    websocket: WebSocket, timeout_s: float, said: FrameAnswer, image: bytes | None = None
) -> None:
    """Send the message about a frame, and the frame.

    Raises:
        StreamEndError: The client reads too slowly.
        WebSocketDisconnect: The client has left.
    """
    try:
        with anyio.fail_after(timeout_s):
            await websocket.send_text(said.model_dump_json(exclude_none=True))
            if image is not None:
                await websocket.send_bytes(image)
    except TimeoutError as error:
        raise StreamEndError(IDLE, f"an answer was not read for {timeout_s:g} s") from error


def _describe(frame: _Frame, done: Translation) -> FrameAnswer:
    return FrameAnswer(
        frame=frame.number,
        status=200,
        dropped=frame.dropped,
        bytes=len(done.image),
        format=done.format,
        bundle=done.digest,
        queue_ms=round(done.queue_ms, 2),
        decode_ms=round(done.decode_ms, 2),
        engine_ms=round(done.engine_ms, 2),
        encode_ms=round(done.encode_ms, 2),
    )


async def _close(websocket: WebSocket, code: int, reason: str) -> None:
    """Say why the stream is over, to a client that may have left."""
    short = reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore")
    with suppress(RuntimeError, WebSocketDisconnect):
        with anyio.move_on_after(CLOSE_S):
            await websocket.close(code, short)
