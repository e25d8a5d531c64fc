"""Ask a server to translate images, several at a time, coming back when it says so."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import httpx2

from serving.negotiate import Output
from serving.sizes import Size

TIMEOUT_S = 120.0
"""Longest wait for one answer: an image that waits for the engine is no failure."""
PATIENCE_S = 60.0
"""Longest that one image comes back to a server that is busy, all its pauses together."""
DEFAULT_PAUSE_S = 1.0
"""Pause where a busy server does not say how long, or says it as a date."""
BUSY = (429, 503)


class ServerError(RuntimeError):
    """The server did not translate an image.

    Attributes:
        status: The HTTP status; None where there was no answer.
    """

    def __init__(self, status: int | None, message: str) -> None:
        super().__init__(message)
        self.status = status


def open_client(url: str, *, connections: int, key: str | None = None) -> httpx2.AsyncClient:
    """A client of the server at ``url``; close it, or use it as a context.

    Args:
        url: Of the server, such as ``http://127.0.0.1:8000``.
        connections: Most that are open at a time.
        key: For a server that wants one.

    Raises:
        ValueError: Not the URL of a server, or no key that a header can hold.
    """
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise ValueError(f"{url!r} is no URL: {error}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ValueError(f"{url!r} is not the URL of a server, such as http://127.0.0.1:8000")
    if key is not None and not (key.isascii() and key.isprintable() and key):
        raise ValueError("the API key is empty, or holds what no header can; it is not shown here")
    return httpx2.AsyncClient(
        base_url=parsed,
        headers={} if key is None else {"Authorization": f"Bearer {key}"},
        timeout=TIMEOUT_S,
        limits=httpx2.Limits(max_connections=connections, max_keepalive_connections=connections),
    )


async def translate(
    client: httpx2.AsyncClient,
    data: bytes,
    output: Output,
    size: Size = "native",
    *,
    patience_s: float = PATIENCE_S,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> bytes:
    """Translate one encoded image.

    A server that is busy (429, 503) is asked again after the pause that its ``Retry-After`` names.

    Args:
        client: As `open_client` gives it.
        data: The image, encoded.
        output: How the answer is wanted.
        size: At which size it is translated; see `serving.sizes`.
        patience_s: Longest to come back, all pauses together, in seconds.
        sleep: Waits some seconds.

    Raises:
        ServerError: The server refused the image, failed, stayed busy or could not be reached; the
            message is its own where there is one.
    """
    wishes: dict[str, str] = {"format": output.format, "size": size}
    if output.quality is not None:
        wishes["quality"] = str(output.quality)
    left_s = patience_s
    while True:
        try:
            response = await client.post(
                "/v1/translate",
                content=data,
                params=wishes,
                headers={"Content-Type": "application/octet-stream", "Accept": "*/*"},
            )
        except httpx2.HTTPError as error:
            raise ServerError(
                None,
                f"no answer from {client.base_url} ({type(error).__name__}: {error}); "
                "is pocketgan serve running there?",
            ) from error
        pause_s = _pause_s(response.headers.get("retry-after"))
        if response.status_code not in BUSY or pause_s > left_s:
            return _image(response, output)
        left_s -= pause_s
        await sleep(pause_s)


def _pause_s(retry_after: str | None) -> float:
    """What ``Retry-After`` asks for, in seconds; at least a little."""
    if retry_after is None or not (retry_after.isascii() and retry_after.isdigit()):
        return DEFAULT_PAUSE_S
    return max(0.1, float(retry_after))


def _image(response: httpx2.Response, output: Output) -> bytes:
    if response.status_code != 200:
        raise ServerError(response.status_code, f"{response.status_code}: {_detail(response)}")
    kind = response.headers.get("content-type", "").partition(";")[0]
    if kind != output.media_type:
        raise ServerError(
            200,
            f"the server answered {kind or 'nothing that it names'} where {output.media_type} "
            "was asked for; is it pocketgan, and of this version?",
        )
    return response.content


def _detail(response: httpx2.Response) -> str:
    """The sentence of a problem (RFC 9457), else the status in words."""
    try:
        said = response.json()
    except ValueError:
        return response.reason_phrase
    detail = said.get("detail") if isinstance(said, dict) else None
    return detail if isinstance(detail, str) else response.reason_phrase
