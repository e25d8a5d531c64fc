"""Draw false alarms against power: a panel for each condition and slow-down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from scores import Score

DRAWN = (0.05, 0.10, 0.20)
TITLES = {
    "idle": "idle machine",
    "busy": "busy neighbour",
    "drift": "neighbour that comes and goes",
}
# colours of Okabe and Ito, which stay apart for colour-blind eyes, and a marker each
LOOKS = (
    ("#000000", "*"),
    ("#E69F00", "o"),
    ("#56B4E9", "s"),
    ("#0072B2", "D"),
    ("#CC79A7", "^"),
    ("#009E73", "v"),
    ("#D55E00", "P"),
)


def draw(played: Mapping[str, Sequence[Score]], out: Path) -> Path:
    """Draw what became of each condition into a folder; return the file.

    Filled marks had our gate's time, hollow ones their own.
    """
    names = list(dict.fromkeys(one.rule for scores in played.values() for one in scores))
    look = dict(zip(names, LOOKS, strict=True))
    figure, panels = plt.subplots(
        len(DRAWN), len(played), figsize=(11, 10), sharex=True, sharey=True, squeeze=False
    )
    for row, slowdown in zip(panels, DRAWN, strict=True):
        for panel, (condition, scores) in zip(row, played.items(), strict=True):
            _panel(panel, scores, slowdown, look)
            panel.set_title(f"{TITLES.get(condition, condition)}, {slowdown:.0%} slower", size=10)
    for panel in panels[-1]:
        panel.set_xlabel("false alarms, % of gates with equal sides")
    for row in panels:
        row[0].set_ylabel("called slower, % of gates")
    marks = [
        Line2D([], [], color=colour, marker=marker, linestyle="", markersize=9, label=name)
        for name, (colour, marker) in look.items()
    ]
    hollow = Line2D(
        [], [], color="#555555", marker="o", fillstyle="none", linestyle="", label="in its own time"
    )
    figure.legend(handles=[*marks, hollow], loc="lower center", ncols=3, frameon=False)
    figure.tight_layout(rect=(0, 0.09, 1, 1))
    out.mkdir(parents=True, exist_ok=True)
    path = out / "gate-simulation.png"
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def _panel(
    panel: Axes, scores: Sequence[Score], slowdown: float, look: Mapping[str, tuple[str, str]]
) -> None:
    panel.axvspan(-1, 1, color="#e8f3e8", zorder=0)
    # ours last, on top of what lies at the same place
    for one in reversed(scores):
        colour, marker = look[one.rule]
        ours = one is scores[0]
        panel.plot(
            100 * one.false_alarms / one.gates,
            100 * one.caught[slowdown] / one.gates,
            color=colour,
            marker=marker,
            markersize=15 if ours else 9,
            fillstyle="none" if one.given != scores[0].given else "full",
            clip_on=False,
            zorder=4 if ours else 3,
        )
    panel.set_xscale("symlog", linthresh=1)
    panel.set_xlim(-0.3, 60)
    panel.set_xticks([0, 1, 5, 20, 50], ["0", "1", "5", "20", "50"])
    panel.set_ylim(-4, 104)
    panel.grid(color="#dddddd")
    panel.set_axisbelow(True)
