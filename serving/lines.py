"""Who is next: one line of waiting images for each client, and turns that go round. No threads."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

Work = TypeVar("Work")


@dataclass
class Load:
    """So much waits, or may wait.

    Attributes:
        images: Images.
        pixels: Their pixels together.
        size_bytes: Their encoded bytes together.
    """

    images: int = 0
    pixels: int = 0
    size_bytes: int = 0

    def add(self, ticket: Ticket[Work], sign: int = 1) -> None:
        """Count an image in, or out with a sign of -1."""
        self.images += sign
        self.pixels += sign * ticket.pixels
        self.size_bytes += sign * ticket.size_bytes

    def within(self, bounds: Load) -> bool:
        """Whether nothing is more than its bound."""
        return (
            self.images <= bounds.images
            and self.pixels <= bounds.pixels
            and self.size_bytes <= bounds.size_bytes
        )


@dataclass(eq=False)
class Ticket(Generic[Work]):
    """One image in the queue.

    Attributes:
        work: What a worker is to do.
        client: Whose it is.
        pixels: Its size, as far as that is known before it is decoded.
        size_bytes: Its encoded size.
        deadline: When its answer is to be there, by the scheduler's clock.
        shape: Height and width the engine will see, as far as that is known; images of one shape
            may be taken together. None is like no other.
        sent_away: Called with the reason if it loses its place.
        queued: When it came, by the scheduler's clock.
        start_by: When it must be begun for that, as far as the scheduler can tell.
    """

    work: Work
    client: str
    pixels: int
    size_bytes: int
    deadline: float
    shape: tuple[int, int] | None
    sent_away: Callable[[Exception], None]
    queued: float = 0.0
    start_by: float = math.inf


@dataclass(eq=False)
class _Line(Generic[Work]):
    tickets: deque[Ticket[Work]] = field(default_factory=deque)
    load: Load = field(default_factory=Load)


class Lines(Generic[Work]):
    """What waits, by client. Each client's images keep their order."""

    def __init__(self) -> None:
        self._lines: OrderedDict[str, _Line[Work]] = OrderedDict()
        self.load = Load()

    def __iter__(self) -> Iterator[Ticket[Work]]:
        return (ticket for line in self._lines.values() for ticket in line.tickets)

    def __contains__(self, ticket: Ticket[Work]) -> bool:
        line = self._lines.get(ticket.client)
        return line is not None and ticket in line.tickets

    def add(self, ticket: Ticket[Work]) -> None:
        """Put an image at the end of its client's line."""
        line = self._lines.setdefault(ticket.client, _Line())
        line.tickets.append(ticket)
        line.load.add(ticket)
        self.load.add(ticket)

    def remove(self, ticket: Ticket[Work]) -> None:
        """Take an image out, wherever it stands."""
        line = self._lines[ticket.client]
        line.tickets.remove(ticket)
        line.load.add(ticket, -1)
        self.load.add(ticket, -1)
        if not line.tickets:
            del self._lines[ticket.client]

    def next(self, most: Callable[[Ticket[Work]], int]) -> list[Ticket[Work]]:
        """Take out the next image and others of its shape, each the first of its client's line.

        Args:
            most: How many of the shape of this image may go together.
        """
        if not self._lines:
            return []
        first = next(iter(self._lines.values())).tickets[0]
        room = most(first) if first.shape is not None else 1
        taken = [first]
        self._serve(first)
        while len(taken) < room:
            firsts = [line.tickets[0] for line in self._lines.values()]
            alike = [ticket for ticket in firsts if ticket.shape == first.shape]
            if not alike:
                break
            for ticket in alike[: room - len(taken)]:
                taken.append(ticket)
                self._serve(ticket)
        return taken

    def displaced_by(self, ticket: Ticket[Work], bounds: Load) -> list[Ticket[Work]] | None:
        """Whose places a newcomer takes where there are no others.

        The latest of whoever has most waiting, as long as that client still has no less than the
        newcomer then (as "fq_codel" does, RFC 8290, section 4.1): one client that floods the
        queue keeps nobody else out.

        Returns:
            None where the newcomer is entitled to none.
        """
        load = replace(self.load)
        load.add(ticket)
        if load.within(bounds):
            return []
        own = self._lines.get(ticket.client)
        wanted = (own.load.pixels if own else 0) + ticket.pixels
        left = {client: line.load.pixels for client, line in self._lines.items()}
        latest = {client: reversed(line.tickets) for client, line in self._lines.items()}
        displaced = []
        while not load.within(bounds):
            longest = max(left, key=left.__getitem__, default=ticket.client)
            if longest == ticket.client:
                return None
            other = next(latest[longest])
            left[longest] -= other.pixels
            if left[longest] < wanted:
                return None
            displaced.append(other)
            load.add(other, -1)
        return displaced

    def _serve(self, ticket: Ticket[Work]) -> None:
        """Take an image out; its client's next turn comes after everybody else's."""
        self.remove(ticket)
        if ticket.client in self._lines:
            self._lines.move_to_end(ticket.client)
