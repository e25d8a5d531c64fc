"""What an operator does to positions along one axis: how many there are, and which it reads."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, Protocol

Span = tuple[int, int]
"""Positions from the first to before the second."""

Nearest = Literal["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]


@dataclass(frozen=True)
class Line:
    """How many positions a tensor has along an axis: ``per_pixel * pixels + extra``.

    Pixels are those of the image, in multiples of the alignment.
    """

    per_pixel: Fraction
    extra: int


class Step(Protocol):
    """An operator along one axis."""

    def ahead(self, line: Line) -> Line:
        """Positions of its output."""
        ...

    def back(self, span: Span) -> Span:
        """Positions of its input that these positions of its output depend on.

        Beyond the ends there is padding; spans go on as if the input did, since whoever asks wants
        to know what is not padding. Each end depends on the same end only.
        """
        ...


@dataclass(frozen=True)
class Sliding:
    """Convolution and pooling; with a reach and stride of 1, padding (or cropping, where negative).

    Attributes:
        reach: Positions from the first to the last that one output reads.
    """

    reach: int = 1
    stride: int = 1
    before: int = 0
    after: int = 0

    def ahead(self, line: Line) -> Line:
        """Positions of its output."""
        inner = line.extra + self.before + self.after - self.reach
        return Line(line.per_pixel / self.stride, inner // self.stride + 1)

    def back(self, span: Span) -> Span:
        """What it reads."""
        low, high = span
        first = low * self.stride - self.before
        return first, (high - 1) * self.stride - self.before + self.reach


@dataclass(frozen=True)
class Spreading:
    """Transposed convolution: input ``i`` reaches outputs ``i * stride - before`` and following."""

    reach: int
    stride: int
    before: int = 0
    after: int = 0

    def ahead(self, line: Line) -> Line:
        """Positions of its output."""
        extra = (line.extra - 1) * self.stride + self.reach - self.before - self.after
        return Line(line.per_pixel * self.stride, extra)

    def back(self, span: Span) -> Span:
        """What it reads."""
        low, high = span
        first = -((self.reach - 1 - low - self.before) // self.stride)
        return first, (high - 1 + self.before) // self.stride + 1


@dataclass(frozen=True)
class Sampling:
    """Resize by a factor.

    Attributes:
        factor: Outputs for one input.
        centred: Whether positions are the middles of pixels (half_pixel) or their corners.
        reach: Neighbours on each side that an output between two inputs mixes: 1 linear, 2 cubic;
            0 takes the nearest.
        nearest: Which one that is.
    """

    factor: Fraction
    centred: bool
    reach: int = 0
    nearest: Nearest = "round_prefer_floor"

    def ahead(self, line: Line) -> Line:
        """Positions of its output."""
        return Line(line.per_pixel * self.factor, math.floor(line.extra * self.factor))

    def back(self, span: Span) -> Span:
        """What it reads."""
        low, high = span
        return self._first(low), self._last(high - 1) + 1

    def _at(self, position: int) -> Fraction:
        shift = Fraction(1, 2) if self.centred else Fraction(0)
        return (position + shift) / self.factor - shift

    def _first(self, position: int) -> int:
        at = self._at(position)
        return math.floor(at) - self.reach + 1 if self.reach else self._nearest(at)

    def _last(self, position: int) -> int:
        at = self._at(position)
        return math.floor(at) + self.reach if self.reach else self._nearest(at)

    def _nearest(self, at: Fraction) -> int:
        half = Fraction(1, 2)
        if self.nearest == "round_prefer_floor":
            return math.ceil(at - half)
        if self.nearest == "round_prefer_ceil":
            return math.floor(at + half)
        return math.floor(at) if self.nearest == "floor" else math.ceil(at)


STAY = Sliding()
"""What acts on each position by itself."""
