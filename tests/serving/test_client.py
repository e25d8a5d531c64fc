import asyncio

import httpx2
import pytest

from serving.client import ServerError, open_client, translate
from serving.negotiate import Output

PNG = Output("png")


def ask(answers, *, output=PNG, patience_s=60.0, size="native", data=b"image"):
    """Translate by a server that gives ``answers`` in turn; what it saw, and the pauses made."""
    seen, pauses = [], []

    def answer(request):
        seen.append(request)
        reply = answers[min(len(seen), len(answers)) - 1]
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def sleep(seconds):
        pauses.append(seconds)

    async def run():
        transport = httpx2.MockTransport(answer)
        async with httpx2.AsyncClient(transport=transport, base_url="http://server") as client:
            return await translate(client, data, output, size, patience_s=patience_s, sleep=sleep)

    try:
        return asyncio.run(run()), seen, pauses
    except ServerError as error:
        return error, seen, pauses


def image(data=b"answer", kind="image/png"):
    return httpx2.Response(200, content=data, headers={"content-type": kind})


def busy(status=503, **headers):
    detail = {"detail": "no place free; try again later"}
    return httpx2.Response(status, json=detail, headers=headers)


def test_the_image_and_the_wishes_are_sent():
    answer, (request,), pauses = ask(
        [image(kind="image/webp")], output=Output("webp", 70), size="model"
    )
    assert (answer, pauses) == (b"answer", [])
    assert request.url == "http://server/v1/translate?format=webp&size=model&quality=70"
    assert request.content == b"image"
    assert request.headers["content-type"] == "application/octet-stream"


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again_when_it_says(status):
    answers = [busy(status, **{"retry-after": "3"}), busy(status, **{"retry-after": "2"}), image()]
    answer, seen, pauses = ask(answers)
    assert (answer, len(seen), pauses) == (b"answer", 3, [3.0, 2.0])


@pytest.mark.parametrize(
    ("header", "pause"),
    [
        ({}, 1.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 1.0),
        ({"retry-after": "0"}, 0.1),
    ],
)
def test_the_pause_where_the_server_does_not_say_one(header, pause):
    assert ask([busy(**header), image()])[2] == [pause]


def test_patience_ends():
    error, seen, pauses = ask([busy(**{"retry-after": "4"})], patience_s=10.0)
    assert (str(error), error.status) == ("503: no place free; try again later", 503)
    assert (len(seen), pauses) == (3, [4.0, 4.0])


@pytest.mark.parametrize("status", [400, 413, 415, 422, 500, 504])
def test_a_refusal_is_final_and_in_the_servers_words(status):
    reply = httpx2.Response(status, json={"detail": "the image is damaged"})
    error, seen, _ = ask([reply])
    assert str(error) == f"{status}: the image is damaged"
    assert len(seen) == 1


@pytest.mark.parametrize("body", [b"<html>", b'["a"]', b'{"detail": 3}', b"\xff"])
def test_a_refusal_of_something_else_than_pocketgan(body):
    error, _, _ = ask([httpx2.Response(502, content=body)])
    assert str(error) == "502: Bad Gateway"


def test_an_answer_in_another_format_is_none():
    error, _, _ = ask([image(kind="text/html; charset=utf-8")])
    assert "the server answered text/html where image/png was asked for" in str(error)


def test_no_answer_at_all():
    error, seen, _ = ask([httpx2.ConnectError("refused")])
    assert "no answer from http://server" in str(error)
    assert "(ConnectError: refused); is pocketgan serve running there?" in str(error)
    assert (error.status, len(seen)) == (None, 1)


@pytest.mark.parametrize("url", ["server:8000", "ftp://server", "http://", "", "8000"])
def test_what_is_no_url_of_a_server(url):
    with pytest.raises(ValueError, match=r"is no URL|is not the URL of a server, such as http://"):
        open_client(url, connections=1)


def test_where_nobody_listens():
    async def run():
        async with open_client("http://127.0.0.1:1", connections=3) as client:
            await translate(client, b"image", Output())

    with pytest.raises(ServerError, match="is pocketgan serve running there"):
        asyncio.run(run())


@pytest.mark.parametrize("key", ["", "two\nlines", "\u00e9"])
def test_a_key_that_no_header_holds_is_not_repeated(key):
    with pytest.raises(ValueError, match="the API key is empty, or holds what no header can"):
        open_client("http://server", connections=1, key=key)
