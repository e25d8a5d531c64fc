"""What a benchmark promised, and whether it is so."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


class Verdicts:
    """Prints one line for every promise and remembers whether all were kept.

    Args:
        lenient: Times are printed and not judged: a short run has too few of them.
    """

    def __init__(self, *, lenient: bool = False) -> None:
        self._lenient = lenient
        self._kept = True

    def say(self, kept: bool, line: str, *, timed: bool = False) -> None:
        """Print whether a promise was kept.

        Args:
            kept: Whether it was.
            line: What was found, and what was promised.
            timed: It is about time.
        """
        if timed and self._lenient:
            print(f"not judged: {line}", flush=True)
            return
        self._kept &= kept
        print(f"{'passed' if kept else 'FAILED'}: {line}", flush=True)

    def status(self) -> int:
        """The exit status; prints the verdict."""
        print("verdict: passed" if self._kept else "verdict: FAILED", flush=True)
        return 0 if self._kept else 1


def growth_mib(rss_mib: Sequence[float]) -> float:
    """By how much the last quarter of some samples is above the second quarter, in MiB.

    The first quarter is left out: buffers are first used there. Of fewer than eight samples the
    last is compared with the first.
    """
    if len(rss_mib) < 8:
        return rss_mib[-1] - rss_mib[0]
    quarter = len(rss_mib) // 4
    return statistics.median(rss_mib[-quarter:]) - statistics.median(rss_mib[quarter : 2 * quarter])
