"""Table, curves and sheet of `benchmarks/methods.py`, from what its pieces have left."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from students import draw

from compress.checkpoints import load_network
from compress.evaluate import held_back, translate
from compress.features import as_generator
from compress.recipe import CompressRecipe, load_recipe
from devices.profile import Frozen

SMOOTH = 100
"""Steps whose mean a curve shows."""

DRAWN = 5
"""Rows of the sheet."""

JUDGES = ("student_discriminator", "discriminator")
"""The network that a student plays against, the first of these that a method has."""


class Costs(Frozen):
    """What a piece took, all attempts together; export and sealing included."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_rss_mib: float = 0.0
    attempts: int = 0


class Measures(Frozen):
    """What a network's images are worth; see `compress.measures`."""

    images: int
    fid: float
    kid: float
    lpips: float
    macs: int
    params: int


def write_report(out: Path, methods: Sequence[str], seeds: Sequence[int]) -> None:
    """Write all that can be said of the pieces that are there."""
    pieces = {
        method: [out / f"{method}-{seed}" for seed in seeds if _done(out / f"{method}-{seed}")]
        for method in methods
    }
    pieces = {method: places for method, places in pieces.items() if places}
    if not pieces:
        print(f"nothing is finished in {out}")
        return
    text = table(out, pieces)
    (out / "table.md").write_text(text + "\n")
    print(text)
    balance(pieces).savefig(out / "balance.png", dpi=100)
    sheet(pieces).save(out / "sheet.jpg", quality=88)


def table(out: Path, pieces: Mapping[str, Sequence[Path]]) -> str:
    """One row for each method, in Markdown: mean and standard deviation over its seeds."""
    teacher = Measures.model_validate_json((out / "teacher.json").read_text())
    lines = [
        "| | seeds | true MACs | parameters | FID | KID | LPIPS | minutes | peak MiB |",
        "|---|---|---|---|---|---|---|---|---|",
        f"| teacher | | {teacher.macs / 1e9:.3f} G | {teacher.params / 1e6:.3f} M | "
        f"{teacher.fid:.1f} | {teacher.kid:.3f} | {teacher.lpips:.3f} | | |",
    ]
    for method, places in pieces.items():
        found = [Measures.model_validate_json(_read(p, "measures.json")) for p in places]
        spent = [Costs.model_validate_json(_read(p, "cost.json")) for p in places]
        macs = statistics.mean(m.macs for m in found)
        lines.append(
            f"| `{method}` | {len(found)} | {teacher.macs / macs:.1f}x fewer | "
            f"{statistics.mean(m.params for m in found) / 1e6:.3f} M | "
            f"{_spread([m.fid for m in found], 1)} | {_spread([m.kid for m in found], 3)} | "
            f"{_spread([m.lpips for m in found], 3)} | "
            f"{statistics.mean(s.cpu_s for s in spent) / 60:.0f} | "
            f"{max(s.peak_rss_mib for s in spent):.0f} |"
        )
    return "\n".join(lines)


def balance(pieces: Mapping[str, Sequence[Path]]) -> Figure:
    """How each game went: the judge's loss, and how far it is from that of who deceives it."""
    figure = Figure(figsize=(11, 6.5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    for method, places in pieces.items():
        rows = [json.loads(line) for line in _log(places[0])]
        judge = next((j for j in JUDGES if f"{j}/adversarial" in rows[-1]), None)
        if judge is None or "student/adversarial" not in rows[-1]:
            continue
        played = [row for row in rows if f"{judge}/adversarial" in row]
        steps = np.arange(len(played))
        lost = np.array([row[f"{judge}/adversarial"] for row in played])
        fooled = np.array([row["student/adversarial"] for row in played])
        _curve(above, steps, lost, method)
        _curve(below, steps, np.abs(fooled - lost), method)
    above.set_ylabel("loss of the discriminator")
    below.set_ylabel("gap to the student's\nadversarial loss")
    below.set_xlabel(f"step (means of {SMOOTH})")
    for axes in (above, below):
        axes.grid(alpha=0.3)
        axes.set_ylim(bottom=0)
    above.legend(ncols=4, frameon=False)
    return figure


def sheet(pieces: Mapping[str, Sequence[Path]]) -> Image.Image:
    """Images of every method's first seed, side by side."""
    first = next(iter(pieces.values()))[0]
    recipe, _ = load_recipe(str(first / "recipe.toml"), CompressRecipe)
    teacher = load_network(first / "export" / "teacher.safetensors")
    images = held_back(recipe.data.read("test"), multiple=as_generator(teacher).multiple)
    columns = {"input": images.source, "teacher": translate(teacher, images.source)}
    for method, places in pieces.items():
        student = load_network(places[0] / "export" / "student.safetensors")
        columns[method] = translate(student, images.source)
    if images.target is not None:
        columns["truth"] = images.target
    return draw(columns, DRAWN).convert("RGB")


def _curve(axes: Axes, steps: NDArray[np.int64], values: NDArray[np.float64], name: str) -> None:
    whole = len(values) // SMOOTH * SMOOTH
    if whole:
        axes.plot(
            steps[:whole].reshape(-1, SMOOTH).mean(1),
            values[:whole].reshape(-1, SMOOTH).mean(1),
            label=name,
        )


def _log(place: Path) -> list[str]:
    """The losses of a training, those before a second critic first."""
    train = place / "train"
    parts = [train / "alone" / "metrics.jsonl", train / "metrics.jsonl"]
    return [line for part in parts if part.is_file() for line in part.read_text().splitlines()]


def _done(place: Path) -> bool:
    return (place / "measures.json").is_file()


def _read(place: Path, name: str) -> str:
    return (place / name).read_text()


def _spread(values: Sequence[float], digits: int) -> str:
    middle = f"{statistics.mean(values):.{digits}f}"
    return middle if len(values) < 2 else f"{middle} ± {statistics.stdev(values):.{digits}f}"
