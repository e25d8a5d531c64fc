"""What the pre-flight found: data that a person can read and a program can sort."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """Something in a student that a device will not do, or not do well.

    Attributes:
        kind: What it is about: an operator with its mode (``Pad(reflect)``), or a thing in words.
        count: How often it occurs.
        why: What is wrong with it there.
        remedy: What to do about it, or what is done about it.
        blocking: Whether the student cannot run for it.
    """

    kind: str
    count: int
    why: str
    remedy: str
    blocking: bool = False

    def __str__(self) -> str:
        times = f" x{self.count}" if self.count > 1 else ""
        return f"{self.kind}{times}: {self.why}; {self.remedy}"
