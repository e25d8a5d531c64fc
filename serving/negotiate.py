"""What a client wants back: read from the query and the Accept header."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from serving.sizes import SIZES, Size

Format = Literal["png", "jpeg", "webp"]
FORMATS: tuple[Format, ...] = get_args(Format)
"""In the order in which they are preferred where the client does not care: lossless first."""

MEDIA_TYPES: dict[Format, str] = {
    "png": "image/png",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
}


class WishError(ValueError):
    """The client wants something that is not to be had.

    Attributes:
        status: The HTTP status that says so.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Output:
    """How an answer is encoded.

    Attributes:
        format: One of `FORMATS`.
        quality: ``1..100`` for JPEG and WebP; None for the format's default.
    """

    format: Format = "png"
    quality: int | None = None

    @property
    def media_type(self) -> str:
        """For the ``Content-Type`` of the answer."""
        return MEDIA_TYPES[self.format]


def choose_output(accept: str | None, query: Mapping[str, str]) -> Output:
    """The format and quality of an answer.

    ``format`` in the query decides; without it the Accept header, by its q-values; without that,
    or where several formats are wanted alike, PNG.

    Args:
        accept: The Accept header.
        query: Holds ``format`` and ``quality`` where the client named them.

    Raises:
        WishError: 400 for a value that is none, 406 where Accept takes none of the formats.
    """
    asked = query.get("format")
    chosen = _accepted(accept) if asked is None else _named(asked)
    return Output(chosen, _quality(query.get("quality"), chosen))


def choose_size(query: Mapping[str, str]) -> Size:
    """``size`` in the query; ``native`` without it.

    Raises:
        WishError: 400 for a size that is none.
    """
    asked = query.get("size", "native")
    for size in SIZES:
        if size == asked:
            return size
    raise WishError(400, f"size={asked!r}: it is one of {', '.join(SIZES)}")


def check_query(query: Collection[str], known: Collection[str]) -> None:
    """Refuse a parameter that would do nothing: it is a misspelt one.

    Raises:
        WishError: 400, with the parameter that was meant.
    """
    for name in query:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise WishError(
                400, f"no parameter {name!r}; {hint}there are: {', '.join(sorted(known))}"
            )


def _named(asked: str) -> Format:
    name = asked.lower()
    for known in FORMATS:
        if name == known or (name == "jpg" and known == "jpeg"):
            return known
    raise WishError(400, f"format={asked!r}: it is one of {', '.join(FORMATS)}")


def _quality(asked: str | None, chosen: Format) -> int | None:
    if asked is None:
        return None
    if not (asked.isascii() and asked.isdigit() and len(asked) <= 3 and 1 <= int(asked) <= 100):
        raise WishError(400, f"quality={asked!r}: it is a whole number from 1 to 100")
    if chosen == "png":
        raise WishError(
            400,
            f"quality={asked} is for jpeg and webp, and the answer is png, which loses nothing: "
            "ask for format=jpeg or format=webp, or leave quality out",
        )
    return int(asked)


def _accepted(accept: str | None) -> Format:
    """The format that an Accept header likes best (RFC 9110, 12.5.1).

    Of formats with the same q-value one that is named wins over one that ``image/*`` or ``*/*``
    covers.
    """
    if accept is None or not accept.strip():
        return FORMATS[0]
    ranges = dict(_ranges(accept))
    best, chosen = (0.0, 0), None
    for name in FORMATS:
        names = (MEDIA_TYPES[name], "image/*", "*/*")
        found = next(((n, ranges[n]) for n in names if n in ranges), None)
        if found and found[1] > 0:
            liking = (found[1], len(names) - names.index(found[0]))
            if liking > best:
                best, chosen = liking, name
    if chosen is None:
        raise WishError(
            406, f"Accept: {accept[:200]}: there are {', '.join(MEDIA_TYPES.values())} to be had"
        )
    return chosen


@functools.lru_cache(maxsize=256)
def _ranges(accept: str) -> tuple[tuple[str, float], ...]:
    """Media ranges and their q-values; one that is malformed is passed over."""
    found = []
    for item in accept.split(","):
        name, *parameters = (part.strip().lower() for part in item.split(";"))
        weights = [p.partition("=")[2].strip() for p in parameters if p.startswith("q=")]
        try:
            weight = float(weights[0]) if weights else 1.0
        except ValueError:
            continue
        if 0.0 <= weight <= 1.0:
            found.append((name.replace("image/jpg", "image/jpeg"), weight))
    return tuple(found)
