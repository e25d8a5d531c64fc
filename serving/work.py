"""What is asked of a translator, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field

from serving.formats import Plan
from serving.negotiate import Format, Output


class TranslationError(RuntimeError):
    """The engine failed on an image that it should have translated."""


class GoneError(RuntimeError):
    """Whoever asked has left; nobody reads this."""


@dataclass(eq=False)
class Job:
    """One encoded image to translate.

    Attributes:
        data: Its bytes.
        output: How the answer is encoded.
        plan: The size at which it is translated; its own if left out.
        max_decoded_pixels: Most that is decoded; as many as the translator takes if left out.
        wanted: False once nobody waits for the answer: what is not done yet is left undone.
        queued: When it began to wait, by the translator's clock; None if it did not.
    """

    data: bytes
    output: Output = field(default_factory=Output)
    plan: Plan | None = None
    max_decoded_pixels: int | None = None
    wanted: bool = True
    queued: float | None = None


@dataclass(frozen=True)
class Translation:
    """One answer and where its time went, in milliseconds.

    Attributes:
        image: The translated image, encoded.
        format: How it is encoded.
        digest: Of the bundle that made it, with the algorithm's name before it.
        pixels: Pixels that the engine saw, padding included.
        batch: Images that went through the engine together.
        queue_ms: Waiting: for a worker, and then for the engine.
        decode_ms: From bytes to what the model sees.
        engine_ms: ``Session.run`` alone, as in the device profile's budget; of the whole batch.
        encode_ms: From what the model made to bytes.
    """

    image: bytes
    format: Format
    digest: str
    pixels: int
    batch: int
    queue_ms: float
    decode_ms: float
    engine_ms: float
    encode_ms: float

    @property
    def request_ms(self) -> float:
        """All parts together."""
        return self.queue_ms + self.decode_ms + self.engine_ms + self.encode_ms

    @property
    def server_timing(self) -> str:
        """The value of a ``Server-Timing`` header."""
        return (
            f"queue;dur={self.queue_ms:.2f}, decode;dur={self.decode_ms:.2f}, "
            f"engine;dur={self.engine_ms:.2f}, encode;dur={self.encode_ms:.2f}"
        )
