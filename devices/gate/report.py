"""What a gate measured and what it says, as it is written to a file."""

from __future__ import annotations

import statistics
from typing import Literal

from pydantic import PositiveFloat

from devices.gate.judge import Judgement, Verdict
from devices.machine import Machine
from devices.profile import Frozen
from devices.telemetry.conditions import Conditions

EXIT_STATUS: dict[Verdict, int] = {"pass": 0, "slower": 1, "inconclusive": 2}

Measured = Literal["steady", "cold", "memory"]

UNITS: dict[Measured, str] = {"steady": "ms", "cold": "ms", "memory": "MiB"}

NAMES: dict[Measured, str] = {
    "steady": "latency",
    "cold": "cold start",
    "memory": "peak memory",
}


class Once(Frozen):
    """One bundle in one fresh process.

    Attributes:
        machine: Where that was.
        cold_ms: From the start of the process to the end of its first image.
        load_ms: Of that, opening the session.
        first_ms: Of that, the first image.
        samples_ms: Every image after the warm-up, in order.
        peak_rss_mib: The most memory that the process ever held.
    """

    machine: Machine
    cold_ms: PositiveFloat
    load_ms: PositiveFloat
    first_ms: PositiveFloat
    samples_ms: tuple[PositiveFloat, ...]
    peak_rss_mib: PositiveFloat

    def value(self, measured: Measured) -> float:
        """The one number that stands for this process in a round."""
        if measured == "steady":
            return statistics.median(self.samples_ms)
        return self.cold_ms if measured == "cold" else self.peak_rss_mib


class Cell(Frozen):
    """One question of the gate and its answer."""

    measured: Measured
    judgement: Judgement


class Images(Frozen):
    """How good the images of both bundles are, on the baseline's golden inputs.

    Attributes:
        against: What they are compared with.
        candidate_psnr_db: None where the candidate made no images that could be compared.
        worse: Why the candidate's are worse than allowed; empty where they are not.
    """

    against: str
    images: int
    baseline_psnr_db: float
    candidate_psnr_db: float | None
    baseline_lpips: float | None = None
    candidate_lpips: float | None = None
    worse: str = ""


class PairReport(Frozen):
    """Two bundles, with everything that was measured of them, in order.

    Attributes:
        name: What tells this pair from the others of the gate.
        images: None where no images were compared.
    """

    name: str
    baseline_sha256: str
    candidate_sha256: str
    baseline: tuple[Once, ...]
    candidate: tuple[Once, ...]
    cells: tuple[Cell, ...]
    images: Images | None = None

    def cell(self, measured: Measured) -> Judgement:
        """The answer to one of its questions."""
        return next(cell.judgement for cell in self.cells if cell.measured == measured)


class GateReport(Frozen):
    """A comparison of one or more pairs of bundles.

    Attributes:
        reasons: Why this verdict, a sentence each, the weightiest first.
        conditions: What the machine did meanwhile; None where nobody looked.
        known_spread: How far equal engines were apart on this machine before, or None.
        seconds: How long it took.
    """

    schema_version: Literal[2] = 2
    verdict: Verdict
    reasons: tuple[str, ...]
    pairs: tuple[PairReport, ...]
    conditions: Conditions | None = None
    known_spread: float | None = None
    seconds: float

    @property
    def unsteady(self) -> tuple[str, ...]:
        """Why the machine itself was not still, a sentence each; nothing where nobody looked."""
        return self.conditions.unsteady if self.conditions else ()

    @property
    def exit_status(self) -> int:
        """0 where nothing is slower, 1 where something is, 2 where these rounds cannot say."""
        return EXIT_STATUS[self.verdict]
