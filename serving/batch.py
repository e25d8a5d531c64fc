"""The answer to several images at once: a ZIP that is sent while it grows."""

from __future__ import annotations

import io
import zipfile
from collections.abc import AsyncIterator
from dataclasses import dataclass

from devices.profile import Frozen
from serving.negotiate import Format

MEDIA_TYPE = "application/zip"
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Answer:
    """What became of one image.

    Attributes:
        name: What the client called it.
        data: The translated image, encoded; None where it failed.
        status: The HTTP status that the image alone would have had.
        detail: Why it failed; None where it did not.
    """

    name: str
    data: bytes | None
    status: int = 200
    detail: str | None = None


class BatchItem(Frozen):
    """One image of a batch, as its manifest tells.

    Attributes:
        index: From 1, in the order in which the images were sent.
        name: What the client called it.
        file: Its entry in the ZIP; null where it failed.
        status: The HTTP status that the image alone would have had.
        detail: Why it failed; null where it did not.
    """

    index: int
    name: str
    file: str | None
    status: int
    detail: str | None


class BatchManifest(Frozen):
    """``manifest.json``, the last entry of the ZIP.

    Attributes:
        images: One item for each image of the request.
    """

    images: tuple[BatchItem, ...]


class _Window(io.RawIOBase):
    """A file for `zipfile` of which what is finished can be taken away.

    It can seek within what was not taken yet: sizes and checksums then stand before the data,
    where readers that do not look at the end of a ZIP want them.
    """

    def __init__(self) -> None:
        super().__init__()
        self._taken = 0
        self._left = io.BytesIO()

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._taken + self._left.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET or offset < self._taken:
            raise io.UnsupportedOperation(f"seek({offset}, {whence}) is behind what was sent")
        return self._taken + self._left.seek(offset - self._taken)

    def write(self, data: bytes) -> int:  # type: ignore[override]
        return self._left.write(data)

    def take(self) -> bytes:
        done = self._left.getvalue()
        self._taken += len(done)
        self._left = io.BytesIO()
        return done


async def zip_answers(answers: AsyncIterator[Answer], format: Format) -> AsyncIterator[bytes]:
    """Pieces of a ZIP: ``0001.png``, ``0002.png`` ... as they are made, then ``manifest.json``.

    Entries are stored, as images do not get smaller; their names come from us. No more than one
    answer is held at a time.

    Args:
        answers: One for each image, in order. The producer turns errors into answers.
        format: Of every image; names the entries.
    """
    window = _Window()
    items: list[BatchItem] = []
    with zipfile.ZipFile(window, "w", zipfile.ZIP_STORED) as archive:
        async for answer in answers:
            index = len(items) + 1
            file = None if answer.data is None else f"{index:04d}.{format}"
            items.append(
                BatchItem(
                    index=index,
                    name=answer.name,
                    file=file,
                    status=answer.status,
                    detail=answer.detail,
                )
            )
            if file is not None and answer.data is not None:
                archive.writestr(zipfile.ZipInfo(file), answer.data)
                yield window.take()
        manifest = BatchManifest(images=tuple(items))
        archive.writestr(zipfile.ZipInfo(MANIFEST), manifest.model_dump_json(indent=2))
    yield window.take()
