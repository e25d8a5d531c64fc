"""A precision plan beside what was measured: do its scores rank the layers as their errors do?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deploy.artifacts import Bundle, StudentExport
from deploy.evidence import LayerSensitivity, read_evidence
from deploy.precision_plan import PLAN, PrecisionPlan, read_plan
from deploy.provenance import inputs

FEWEST = 3
"""Layers that can be ranked."""

SHUFFLES = 9999


@dataclass(frozen=True)
class Ranked:
    """One layer in both orders.

    Attributes:
        precision: What the plan gives it.
        score: What the plan thinks it loses in INT8.
        psnr_db: PSNR to the float student with it alone in INT8, as measured, in dB.
        by_score: Its rank by the plan, 1 for the layer that loses most; equals share a mean rank.
        by_psnr: The same as measured.
    """

    layer: str
    precision: str
    score: float
    psnr_db: float
    by_score: float
    by_psnr: float


@dataclass(frozen=True)
class Ranking:
    """Two orders of the same layers.

    Attributes:
        layers: Worst first, as measured.
        rho: Spearman's rank correlation, -1 to 1: 1 where the orders agree, 0 where they have
            nothing to do with each other.
        chance: Share of shuffled orders that correlate as much or more, in either direction.
        unmeasured: Layers of the plan that nobody measured: they were float before anybody could.
    """

    layers: tuple[Ranked, ...]
    rho: float
    chance: float
    unmeasured: tuple[str, ...]


def rank_layers(plan: PrecisionPlan, measured: Sequence[LayerSensitivity]) -> Ranking:
    """Compare the order of a plan's scores with the order of measured errors.

    Args:
        plan: Scores of a student's layers.
        measured: What each of them costs alone, see `deploy.sensitivity.sensitivity`.

    Raises:
        ValueError: Fewer than `FEWEST` layers are in both, or all are equal in one.
    """
    entries = {entry.layer: entry for entry in plan.layers}
    both = [one for one in measured if one.layer in entries]
    if len(both) < FEWEST:
        raise ValueError(
            f"the plan and the measurement have {len(both)} layers in common, and an order wants "
            f"{FEWEST}: deploy an export whose plan leaves more layers in INT8 (mean_bits = 8)"
        )
    scores = [entries[one.layer].score for one in both]
    by_score, by_psnr = ranks([-score for score in scores]), ranks([one.psnr_db for one in both])
    for what, found in (("scores", by_score), ("measured errors", by_psnr)):
        if len(set(found.tolist())) == 1:
            raise ValueError(f"all {len(both)} {what} are the same: there is no order to compare")
    rows = [
        Ranked(
            one.layer,
            entries[one.layer].precision,
            score,
            one.psnr_db,
            float(by_score[at]),
            float(by_psnr[at]),
        )
        for at, (one, score) in enumerate(zip(both, scores, strict=True))
    ]
    names = {one.layer for one in both}
    return Ranking(
        tuple(sorted(rows, key=lambda row: (row.by_psnr, row.layer))),
        *correlation(by_score, by_psnr),
        tuple(entry.layer for entry in plan.layers if entry.layer not in names),
    )


def ranks(values: Sequence[float]) -> NDArray[np.float64]:
    """Ranks from 1, the smallest first; equals share the mean of theirs."""
    given = np.asarray(values, dtype=np.float64)
    ordered = np.sort(given)
    below = np.searchsorted(ordered, given, side="left")
    up_to = np.searchsorted(ordered, given, side="right")
    return np.asarray((below + up_to + 1) / 2, dtype=np.float64)


def correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> tuple[float, float]:
    """Correlation of two lists of ranks, and the share of shuffled lists that correlate so much.

    The shuffles are always the same ones, and what was found counts as one of them: the share is
    never 0 (Phipson and Smyth, 2010).

    Args:
        one: N ranks, not all the same.
        other: N ranks, not all the same.
    """
    a, b = one - one.mean(), other - other.mean()
    size = float(np.sqrt(np.square(a).sum() * np.square(b).sum()))
    rho = float(a @ b) / size
    shuffled = np.random.default_rng(0).permuted(np.tile(b, (SHUFFLES, 1)), axis=1)
    as_much = np.abs(shuffled @ a) >= abs(rho) * size - 1e-9
    return rho, (1 + int(as_much.sum())) / (1 + SHUFFLES)


def show_ranking(console: Console, bundle: Path, export: Path) -> int:
    """Print a bundle's measured layers beside the plan of its export; return the exit status.

    Raises:
        ValueError: No plan, no measurement, or they are of two students.
    """
    ranking = rank_layers(*_read(Bundle.read(bundle), StudentExport.read(export)))
    table = Table(
        title="\nlayers in INT8, by the plan's scores and as measured",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
    )
    for header in ("layer", "plan", "score", "rank", "PSNR alone", "rank"):
        table.add_column(header, justify="left" if header in ("layer", "plan") else "right")
    for row in ranking.layers:
        table.add_row(
            escape(row.layer),
            row.precision,
            f"{row.score:.3g}",
            f"{row.by_score:g}",
            f"{row.psnr_db:.1f} dB",
            f"{row.by_psnr:g}",
        )
    console.print(table)
    console.print(
        f"rank correlation (Spearman) {ranking.rho:.2f} over {len(ranking.layers)} layers; "
        f"{ranking.chance:.1%} of {SHUFFLES} shuffled orders correlate as much"
    )
    if ranking.unmeasured:
        console.print(
            "not measured, because the plan or the quantizer keeps them in float: "
            f"{escape(', '.join(ranking.unmeasured))}"
        )
    return 0


def _read(
    bundle: Bundle, export: StudentExport
) -> tuple[PrecisionPlan, tuple[LayerSensitivity, ...]]:
    if PLAN not in export.manifest.sha256:
        raise ValueError(
            f"{export.path} holds no {PLAN}: compress with a recipe that has a [ghost] table"
        )
    ours, theirs = inputs(export), bundle.manifest.lineage
    key = "student" if "student" in ours else "export"
    if ours[key] != theirs.get(key):
        raise ValueError(
            f"{bundle.path} was not made from the student in {export.path}: give the export that "
            "it was deployed from"
        )
    evidence = read_evidence(bundle)
    if evidence is None or not evidence.sensitivity:
        raise ValueError(
            f"{bundle.path} holds no measured layers: deploy {export.path} again, for a device "
            "whose profile has int8"
        )
    digest = export.manifest.sha256[export.model.name]
    return read_plan(export.path / PLAN, onnx.load(export.model), digest), evidence.sensitivity
