import asyncio
import io
import json
import random
import zipfile

import httpx2
import pytest

from serving.batch import Answer, zip_answers
from serving.multipart import MAX_HEADER_BYTES, Part, is_form, one_image, read_multipart
from serving.uploads import DRAIN, UploadError

FORM = 'multipart/form-data; boundary="xyz"'


class Wire:
    """A body in chunks, and how much of it was taken."""

    def __init__(self, body, chunk=10, pause_s=0.0):
        self.body = body
        self.chunk = chunk
        self.pause_s = pause_s
        self.taken = 0

    def __aiter__(self):
        return self

    async def __anext__(self):
        if self.taken >= len(self.body):
            raise StopAsyncIteration
        await asyncio.sleep(self.pause_s)
        piece = self.body[self.taken : self.taken + self.chunk]
        self.taken += len(piece)
        return piece


def part(data=b"data", disposition='form-data; name="image"; filename="a.png"', more=""):
    head = f"--xyz\r\nContent-Disposition: {disposition}\r\n{more}\r\n"
    return head.encode() + data + b"\r\n"


def read(body, content_type=FORM, *, chunk=10, max_bytes=100_000, max_parts=3, timeout_s=20.0):
    wire = body if isinstance(body, Wire) else Wire(body, chunk)
    return asyncio.run(
        read_multipart(
            wire, content_type, max_bytes=max_bytes, max_parts=max_parts, timeout_s=timeout_s
        )
    )


def refusal(body, status, said, **options):
    with pytest.raises(UploadError, match=said) as refused:
        read(body, **options)
    assert refused.value.status == status


END = b"--xyz--\r\n"


@pytest.mark.parametrize("chunk", [1, 2, 7, 10_000])
def test_parts_come_whole_however_they_arrive(chunk):
    first, second = b"\r\n--xy\r\n\0\xff" * 20, b""
    assert read(part(first) + part(second) + END, chunk=chunk) == [
        Part("image", "a.png", first),
        Part("image", "a.png", second),
    ]


def test_what_a_client_library_sends_is_read():
    files = [("image", ("photo 1.jpg", b"one", "image/jpeg")), ("image", ("b.png", b"two"))]
    request = httpx2.Request("POST", "http://server", files=files)
    parts = read(request.read(), request.headers["content-type"])
    assert sorted(parts, key=lambda one: one.data) == [
        Part("image", "photo 1.jpg", b"one"),
        Part("image", "b.png", b"two"),
    ]


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\\\photos\\\\me.png", "me.png"),
        ("a/b/c.jpg", "c.jpg"),
        ("nul\0l\x1b[31m.png", "nul?l?[31m.png"),
        ("x" * 900, "x" * 200),
        ("", ""),
    ],
)
def test_a_clients_name_for_a_file_is_harmless(sent, shown):
    (only,) = read(part(disposition=f'form-data; name="image"; filename="{sent}"') + END)
    assert only.filename == shown


def test_a_body_of_exactly_the_limit_is_read_and_one_more_byte_is_not():
    body = part() + END
    assert read(body, max_bytes=len(body))
    refusal(body, 413, "larger than the limit of", max_bytes=len(body) - 1)


def test_a_refused_body_is_heard_out_and_an_endless_one_is_cut_off():
    wire = Wire(part(b"x" * 1000) + END)
    refusal(wire, 413, "larger than the limit of 500 bytes", max_bytes=500)
    assert wire.taken == len(wire.body)
    endless = Wire(part(b"x" * 100_000))
    refusal(endless, 413, "larger than the limit of 500 bytes", max_bytes=500)
    assert endless.taken == DRAIN * 500 + 10


def test_more_parts_than_allowed():
    assert len(read(part() * 3 + END)) == 3
    refusal(part() * 4 + END, 413, "more than 3 images; send the rest in another")
    refusal(part() * 2 + END, 413, "more than 1 image;", max_parts=1)


def test_a_slow_form_is_given_up():
    slow = Wire(part() + END, pause_s=60)
    refusal(slow, 408, r"did not arrive within 0\.01 s \(0 bytes did\)", timeout_s=0.01)


@pytest.mark.parametrize("cut", [0, 5, 30, 60, -4, -9])
def test_half_a_form(cut):
    body = (part() + END)[:cut]
    refusal(body, 400, r"the form ends in the middle after \d+ bytes; .* curl -F image=@photo")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"no boundary at all" * 9, "the form is malformed: "),
        (END, "the form is (empty|malformed)"),
        (part(disposition="attachment; filename=x") + END, "part 1 of the form does not say"),
        (part(disposition='form-data; filename="x"') + END, "part 1 of the form does not say"),
        (
            part(b"photo.jpg", disposition='form-data; name="image"') + END,
            "part 'image' of the form is no file; send the image as curl -F image=@photo",
        ),
        (b"--xyz\r\n\r\ndata\r\n" + END, "part 1 of the form does not say its name"),
        (part(more="X: " + "y" * MAX_HEADER_BYTES + "\r\n") + END, "the form is malformed: "),
        (part(more="X: y\r\n" * 9) + END, "the form is malformed: "),
        (part(more="no colon\r\n") + END, "the form is malformed: "),
    ],
)
def test_what_is_no_form(body, said):
    refusal(body, 400, said)


@pytest.mark.parametrize(
    ("content_type", "status", "said"),
    [
        (None, 415, "content type '': send the image as curl -F"),
        ("image/png", 415, "content type 'image/png'"),
        ("multipart/form-data", 400, "names no boundary"),
        ("multipart/form-data; boundary=", 400, "names no boundary"),
        (f"multipart/form-data; boundary={'x' * 5000}", 400, "boundary cannot be used"),
    ],
)
def test_a_content_type_that_is_none(content_type, status, said):
    refusal(part() + END, status, said, content_type=content_type)


def test_which_content_types_are_forms():
    assert is_form("Multipart/Form-Data; boundary=x")
    assert not is_form("image/png")
    assert not is_form(None)


def test_one_image_of_a_form():
    assert one_image([Part("image", "a", b"data")]) == b"data"
    with pytest.raises(UploadError, match="has 2 parts where one image belongs; /batch takes"):
        one_image([Part("image", "a", b"data")] * 2)
    with pytest.raises(UploadError, match="part 'image' of the form is empty"):
        one_image([Part("image", "a", b"")])


def zipped(answers, form="png"):
    async def produce():
        for answer in answers:
            yield answer

    async def gather():
        return [piece async for piece in zip_answers(produce(), form)]

    return asyncio.run(gather())


def test_a_batch_is_a_zip_with_a_manifest_of_what_failed():
    answers = [
        Answer("a.jpg", b"one"),
        Answer("../b.jpg", None, 422, "the JPEG image is damaged: truncated"),
        Answer("c.jpg", b"three" * 1000),
    ]
    with zipfile.ZipFile(io.BytesIO(b"".join(zipped(answers)))) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["0001.png", "0003.png", "manifest.json"]
        assert archive.read("0003.png") == b"three" * 1000
        manifest = json.loads(archive.read("manifest.json"))
    assert manifest == {
        "images": [
            {"index": 1, "name": "a.jpg", "file": "0001.png", "status": 200, "detail": None},
            {
                "index": 2,
                "name": "../b.jpg",
                "file": None,
                "status": 422,
                "detail": "the JPEG image is damaged: truncated",
            },
            {"index": 3, "name": "c.jpg", "file": "0003.png", "status": 200, "detail": None},
        ]
    }


def test_each_answer_is_sent_as_soon_as_it_is_made():
    pieces = zipped([Answer("a", b"one"), Answer("b", b"two")], "jpeg")
    assert len(pieces) == 3
    assert b"0001.jpeg" in pieces[0]
    assert b"one" in pieces[0]
    assert b"two" in pieces[1]
    # sizes and checksums stand before the data: no data descriptors, which some readers refuse
    assert all(piece[6:8] == b"\0\0" for piece in pieces)


def test_the_same_answers_are_the_same_bytes():
    assert zipped([Answer("a", b"one")]) == zipped([Answer("a", b"one")])
    assert zipped([]) != zipped([Answer("a", None, 500, "x")])


def test_broken_forms_are_refused_and_nothing_else_happens():
    rng = random.Random(5)
    whole = part(b"one" * 9) + part(b"two" * 9) + END
    refused = 0
    for _ in range(500):
        body = bytearray(whole)
        for _ in range(rng.randrange(1, 9)):
            body[rng.randrange(len(body))] = rng.choice(b'\r\n-:;"x\0\xff')
        if rng.random() < 0.3:
            del body[rng.randrange(len(body)) :]
        try:
            parts = read(bytes(body), chunk=rng.choice((1, 13, 400)))
        except UploadError as error:
            refused += error.status in (400, 413)
        else:
            assert 1 <= len(parts) <= 3
    assert 100 < refused < 500
