"""What a server can be watched by: one small seam, told of every image as it goes through."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from serving.work import Translation

Refusal = Literal["full", "rate", "deadline", "closing"]
"""Why an image was not translated: no room, too many of one client, too late, or shutting down."""


class Observer(Protocol):
    """Told of every image; called from several threads, and must not take long."""

    def accepted(self, pixels: int) -> None:
        """An image of about so many pixels waits for the engine."""
        ...

    def refused(self, reason: Refusal) -> None:
        """An image was sent away, at once or after it had waited."""
        ...

    def abandoned(self) -> None:
        """Whoever sent an image left before it was answered."""
        ...

    def finished(self, translation: Translation) -> None:
        """An image was translated."""
        ...

    def failed(self, error: Exception) -> None:
        """An image was damaged, too large, or the engine failed on it."""
        ...


class Silent:
    """An observer that nobody asked for."""

    def accepted(self, pixels: int) -> None:
        """Nothing."""

    def refused(self, reason: Refusal) -> None:
        """Nothing."""

    def abandoned(self) -> None:
        """Nothing."""

    def finished(self, translation: Translation) -> None:
        """Nothing."""

    def failed(self, error: Exception) -> None:
        """Nothing."""
