import asyncio
import threading

import pytest

from serving.scheduling import BusyError
from serving.uploads import (
    DRAIN,
    UploadError,
    check_content_type,
    place,
    read_body,
    read_timeout,
    until_gone,
)


class Wire:
    """A body in chunks of ten bytes that counts what was taken."""

    def __init__(self, chunks, pause_s=0.0):
        self.left = chunks
        self.taken = 0
        self.pause_s = pause_s

    def __aiter__(self):
        return self

    async def __anext__(self):
        if not self.left:
            raise StopAsyncIteration
        await asyncio.sleep(self.pause_s)
        self.left -= 1
        self.taken += 1
        return b"0123456789"


def read(wire, *, max_bytes=100, timeout_s=20.0):
    return asyncio.run(read_body(wire, max_bytes=max_bytes, timeout_s=timeout_s))


def test_a_body_of_exactly_the_limit_is_read_whole():
    assert read(Wire(10)) == b"0123456789" * 10


def test_a_larger_one_is_refused_after_it_was_heard_out():
    wire = Wire(11)
    with pytest.raises(UploadError, match="larger than the limit of 100 bytes") as refused:
        read(wire)
    assert (refused.value.status, wire.left) == (413, 0)


def test_an_endless_one_is_cut_off():
    wire = Wire(10**9)
    with pytest.raises(UploadError, match="larger than the limit of 100 bytes"):
        read(wire)
    assert wire.taken == DRAIN * 10 + 1


def test_an_empty_one_is_refused():
    with pytest.raises(UploadError, match="the body is empty: send the bytes of a") as refused:
        read(Wire(0))
    assert refused.value.status == 400


def test_a_slow_one_is_given_up():
    with pytest.raises(
        UploadError, match=r"did not arrive within 0\.01 s \(0 bytes did\)"
    ) as refused:
        read(Wire(1, pause_s=60), timeout_s=0.01)
    assert refused.value.status == 408


@pytest.mark.parametrize(
    "declared",
    [
        None,
        "",
        "image/jpeg",
        "IMAGE/PNG; q=1",
        "application/octet-stream",
        "application/x-www-form-urlencoded",
    ],
)
def test_types_of_a_raw_body(declared):
    check_content_type(declared)


@pytest.mark.parametrize("declared", ["multipart/form-data; boundary=x", "application/json", "*/*"])
def test_other_types_are_told_how_to_send_an_image(declared):
    with pytest.raises(UploadError, match=r"content type .* --data-binary @photo\.jpg") as refused:
        check_content_type(declared)
    assert refused.value.status == 415


def test_a_body_in_one_piece_is_not_copied():
    piece = b"x" * 100_000

    async def stream():
        yield piece
        yield b""

    assert asyncio.run(read_body(stream(), max_bytes=10**6, timeout_s=20)) is piece


@pytest.mark.parametrize(
    ("header", "want_s"), [(None, 30.0), ("1", 0.001), ("500", 0.5), ("999999999", 30.0)]
)
def test_how_long_an_image_may_wait(header, want_s):
    assert read_timeout(header, 30.0) == want_s


@pytest.mark.parametrize("header", ["", "0", "-5", "1.5", "1e3", "soon", "1" * 10, "\u0661"])
def test_a_time_that_is_none(header):
    with pytest.raises(UploadError, match=r"X-Timeout-Ms: .* such as 500") as refused:
        read_timeout(header, 30.0)
    assert refused.value.status == 400


def test_a_client_is_gone_once_it_hangs_up_and_not_before():
    messages = iter(["http.request", "http.request", "http.disconnect", "never read"])

    async def receive():
        return {"type": next(messages)}

    asyncio.run(until_gone(receive))
    assert next(messages) == "never read"


def test_places_are_few_and_come_back():
    places = threading.BoundedSemaphore(1)
    with place(places, 1), pytest.raises(BusyError, match="1 images are arriving already; try"):
        place(places, 1).__enter__()
    with place(places, 1):
        pass
