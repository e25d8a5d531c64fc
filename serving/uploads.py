"""Take a request's body from the wire, no more of it than allowed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from starlette.types import Receive

from serving.scheduling import BusyError

BODY_TYPES = ("image/*", "application/octet-stream", "application/x-www-form-urlencoded")
"""Content types of a raw body; the last is what ``curl --data-binary`` says of any file."""

DRAIN = 4
"""How many limits of a body are read (and dropped) before the connection is closed: a client
that is still sending does not look at our answer."""


class UploadError(ValueError):
    """The body is not one that is accepted.

    Attributes:
        status: The HTTP status that says so.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def check_content_type(content_type: str | None) -> None:
    """Refuse a form or a document where the bytes of an image belong.

    What the image is, its bytes say; a wrong ``image/...`` is forgiven.

    Raises:
        UploadError: The declared type is not that of a raw body.
    """
    declared = (content_type or BODY_TYPES[1]).partition(";")[0].strip().lower()
    if declared.startswith("image/") or declared in BODY_TYPES:
        return
    raise UploadError(
        415,
        f"content type {declared!r}: send the bytes of the image as the body, "
        "as curl --data-binary @photo.jpg does",
    )


def read_timeout(header: str | None, longest_s: float) -> float:
    """When an answer is to be there, in seconds: as ``X-Timeout-Ms`` says, and no later than this.

    Raises:
        UploadError: It is not a whole number of milliseconds above 0.
    """
    if header is None:
        return longest_s
    if not (header.isascii() and header.isdigit() and len(header) <= 9 and int(header) > 0):
        raise UploadError(
            400, f"X-Timeout-Ms: {header[:40]!r} is not a number of milliseconds, such as 500"
        )
    return min(int(header) / 1e3, longest_s)


async def read_body(stream: AsyncIterator[bytes], *, max_bytes: int, timeout_s: float) -> bytes:
    """Read a body, counting: what ``Content-Length`` promises is not trusted.

    Raises:
        UploadError: The body is empty, larger than ``max_bytes`` or did not arrive in time.
    """
    chunks: list[bytes] = []
    received = 0
    try:
        async with asyncio.timeout(timeout_s):
            async for chunk in stream:
                received += len(chunk)
                if chunk and received <= max_bytes:
                    chunks.append(chunk)
                elif received > DRAIN * max_bytes:
                    break
    except TimeoutError as error:
        raise UploadError(
            408, f"the body did not arrive within {timeout_s:g} s ({received} bytes did)"
        ) from error
    if received > max_bytes:
        raise UploadError(413, f"the body is larger than the limit of {max_bytes} bytes")
    if not received:
        raise UploadError(
            400, "the body is empty: send the bytes of a JPEG, PNG or WEBP image as the body"
        )
    # of one piece, which is the rule for small images, there is nothing to copy
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def until_gone(receive: Receive) -> None:
    """Wait until the client hangs up. For after the body: what still comes of it is dropped."""
    while (await receive())["type"] != "http.disconnect":
        pass


@contextmanager
def place(places: threading.BoundedSemaphore, most: int) -> Iterator[None]:
    """Take one of the places for bodies that are arriving, or be sent away at once.

    Raises:
        BusyError: None is free.
    """
    if not places.acquire(blocking=False):
        raise BusyError(f"{most} images are arriving already; try again later", retry_after_s=1)
    try:
        yield
    finally:
        places.release()
