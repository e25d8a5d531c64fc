"""Take the images of a form from the wire, no more of them than allowed, none of them on disk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from serving.uploads import DRAIN, UploadError

FORM = "multipart/form-data"

MAX_HEADER_BYTES = 4096
"""Longest header line of a part."""
MAX_HEADERS = 8
"""Headers of a part: a browser and curl send two."""
MAX_NAME = 200
"""Characters that are kept of the name a client gives a file."""

EXAMPLE = "send the image as curl -F image=@photo.jpg does"


@dataclass(frozen=True)
class Part:
    """One part of a form.

    Attributes:
        field: Name of the form's field.
        filename: What the client calls the file, to show it again and for nothing else: no path,
            no control characters, not longer than `MAX_NAME`.
        data: Its bytes.
    """

    field: str
    filename: str
    data: bytes


@dataclass
class _Reading:
    """What the parser has seen of the part that is arriving, and the parts before it."""

    max_parts: int
    parts: list[Part] = field(default_factory=list)
    header_name: bytearray = field(default_factory=bytearray)
    header_value: bytearray = field(default_factory=bytearray)
    disposition: bytes = b""
    data: bytearray = field(default_factory=bytearray)
    whole: bool = False

    def part_begin(self) -> None:
        if len(self.parts) == self.max_parts:
            many = "1 image" if self.max_parts == 1 else f"{self.max_parts} images"
            raise UploadError(413, f"the form has more than {many}; send the rest in another")
        self.disposition, self.data = b"", bytearray()

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self.header_name += data[start:end]

    def header_text(self, data: bytes, start: int, end: int) -> None:
        self.header_value += data[start:end]

    def header_end(self) -> None:
        if self.header_name.lower() == b"content-disposition":
            self.disposition = bytes(self.header_value)
        self.header_name, self.header_value = bytearray(), bytearray()

    def part_data(self, data: bytes, start: int, end: int) -> None:
        self.data += data[start:end]

    def part_end(self) -> None:
        kind, options = parse_options_header(self.disposition.decode("latin-1"))
        if kind != b"form-data" or b"name" not in options:
            raise UploadError(
                400, f"part {len(self.parts) + 1} of the form does not say its name; {EXAMPLE}"
            )
        name = options.get(b"filename")
        if name is None:  # -F image=photo.jpg, without the @, sends these nine letters
            raise UploadError(
                400, f"part {_shown(options[b'name'])!r} of the form is no file; {EXAMPLE}"
            )
        self.parts.append(
            Part(
                field=_shown(options[b"name"]),
                filename=_shown(name),
                data=bytes(self.data),
            )
        )
        self.data = bytearray()

    def end(self) -> None:
        self.whole = True


def is_form(content_type: str | None) -> bool:
    """Does a Content-Type announce a form with files?"""
    return (content_type or "").partition(";")[0].strip().lower() == FORM


async def read_multipart(
    stream: AsyncIterator[bytes],
    content_type: str | None,
    *,
    max_bytes: int,
    max_parts: int,
    timeout_s: float,
) -> list[Part]:
    """Read a form, counting: what ``Content-Length`` promises is not trusted.

    Args:
        stream: The body as it arrives.
        content_type: Holds the boundary.
        max_bytes: Of the whole body, boundaries and headers included.
        max_parts: Most parts.
        timeout_s: Longest that the body may take, in seconds.

    Returns:
        At least one part.

    Raises:
        UploadError: 400 for what is no whole form, 408 for one that is late, 413 for one that is
            too large, 415 for another content type.
    """
    if not is_form(content_type):
        raise UploadError(415, f"content type {(content_type or '')[:100]!r}: {EXAMPLE}")
    reading = _Reading(max_parts)
    parser = _parser(content_type, reading)
    received = 0
    refusal: UploadError | None = None
    try:
        async with asyncio.timeout(timeout_s):
            async for chunk in stream:
                received += len(chunk)
                if refusal is None:
                    refusal = _feed(parser, chunk, received, max_bytes)
                    if refusal:
                        reading.parts.clear()
                # a client that is still sending does not look at our answer
                elif received > DRAIN * max_bytes:
                    break
    except TimeoutError as error:
        raise UploadError(
            408, f"the form did not arrive within {timeout_s:g} s ({received} bytes did)"
        ) from error
    if refusal:
        raise refusal
    if not reading.whole:
        raise UploadError(400, f"the form ends in the middle after {received} bytes; {EXAMPLE}")
    if not reading.parts:
        raise UploadError(400, f"the form is empty; {EXAMPLE}")
    return reading.parts


def one_image(parts: list[Part]) -> bytes:
    """The image of a form that has one.

    Raises:
        UploadError: 400 where its part is empty or there are several.
    """
    if len(parts) != 1:
        raise UploadError(
            400, f"the form has {len(parts)} parts where one image belongs; /batch takes several"
        )
    if not parts[0].data:
        raise UploadError(400, f"part {parts[0].field!r} of the form is empty; {EXAMPLE}")
    return parts[0].data


def _parser(content_type: str | None, reading: _Reading) -> MultipartParser:
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if not boundary:
        raise UploadError(400, f"the content type of the form names no boundary; {EXAMPLE}")
    try:
        return MultipartParser(
            boundary,
            {
                "on_part_begin": reading.part_begin,
                "on_header_field": reading.header_field,
                "on_header_value": reading.header_text,
                "on_header_end": reading.header_end,
                "on_part_data": reading.part_data,
                "on_part_end": reading.part_end,
                "on_end": reading.end,
            },
            max_header_count=MAX_HEADERS,
            max_header_size=MAX_HEADER_BYTES,
        )
    except FormParserError as error:
        raise UploadError(400, f"the form's boundary cannot be used: {error}") from error


def _feed(
    parser: MultipartParser, chunk: bytes, received: int, max_bytes: int
) -> UploadError | None:
    """Parse one chunk; why the form is refused, if it is."""
    if received > max_bytes:
        return UploadError(413, f"the body is larger than the limit of {max_bytes} bytes")
    try:
        parser.write(chunk)
    except UploadError as refusal:
        return refusal
    except FormParserError as error:
        return UploadError(400, f"the form is malformed: {error}; {EXAMPLE}")
    return None


def _shown(name: bytes) -> str:
    """A client's name for something, harmless to show."""
    text = name.decode("utf-8", "replace").replace("\\", "/").rpartition("/")[2]
    return "".join(c if c.isprintable() else "?" for c in text)[:MAX_NAME]
