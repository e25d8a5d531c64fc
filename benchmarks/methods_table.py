"""Table, curves and sheet of `benchmarks/methods.py`, from what its pieces have left."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from students import draw

from compress.checkpoints import load_network
from compress.curves import read_metrics
from compress.distillation import logs_of
from compress.evaluate import held_back, translate
from compress.features import as_generator
from compress.recipe import CompressRecipe, load_recipe
from devices.profile import Frozen

SMOOTH = 100
"""Steps whose mean a curve shows."""

MEASURES, COSTS, TEACHER = "measures.json", "cost.json", "teacher-{}.json"

DRAWN = 5
"""Rows of the sheet."""

OPEN = "gates/open"

JUDGES = ("student_discriminator", "discriminator")
"""The network that a student plays against, the first of these that a method has."""


class Costs(Frozen):
    """What a piece took, all attempts together; export and sealing included."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_rss_mib: float = 0.0
    attempts: int = 0


class Measures(Frozen):
    """What a network's images are worth; see `compress.measures`.

    Attributes:
        teacher: The file with the same of its teacher.
    """

    images: int
    fid: float
    kid: float
    lpips: float
    macs: int
    params: int
    teacher: str


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
    found = {m: [_measures(place) for place in places] for m, places in pieces.items()}
    names = {one.teacher for measures in found.values() for one in measures}
    if len(names) > 1:
        raise SystemExit(f"these pieces have {len(names)} teachers and are no table: use one --out")
    teacher = Measures.model_validate_json((out / names.pop()).read_text())
    lines = [
        "| | seeds | true MACs | parameters | FID | KID | LPIPS | minutes | peak MiB |",
        "|---|---|---|---|---|---|---|---|---|",
        f"| teacher | | {teacher.macs / 1e9:.3f} G | {teacher.params / 1e6:.3f} M | "
        f"{teacher.fid:.1f} | {teacher.kid:.3f} | {teacher.lpips:.3f} | | |",
    ]
    for method, places in pieces.items():
        ours = found[method]
        spent = [Costs.model_validate_json((p / COSTS).read_text()) for p in places]
        macs = statistics.mean(m.macs for m in ours)
        lines.append(
            f"| `{method}` | {len(ours)} | {teacher.macs / macs:.1f}x fewer | "
            f"{statistics.mean(m.params for m in ours) / 1e6:.3f} M | "
            f"{_spread([m.fid for m in ours], 1)} | {_spread([m.kid for m in ours], 3)} | "
            f"{_spread([m.lpips for m in ours], 3)} | "
            f"{statistics.mean(s.cpu_s for s in spent) / 60:.0f} | "
            f"{max(s.peak_rss_mib for s in spent):.0f} |"
        )
    return "\n".join(lines)


def balance(pieces: Mapping[str, Sequence[Path]]) -> Figure:
    """How each game went: the judge's loss, its distance to that of who deceives it, and gates."""
    figure = Figure(figsize=(11, 8), layout="constrained")
    above, middle, below = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 2))
    for number, (method, places) in enumerate(pieces.items()):
        log = read_metrics(logs_of(places[0] / "train"))
        judge = next((j for j in JUDGES if f"{j}/adversarial" in log), None)
        if judge is None or "student/adversarial" not in log:
            continue
        lost, fooled = log[f"{judge}/adversarial"], log["student/adversarial"]
        recipe, _ = load_recipe(str(places[0] / "recipe.toml"), CompressRecipe)
        # logged with its weight, which is no part of the game
        weight = recipe.method.adversarial
        seen = dict(zip(fooled.steps, fooled.values, strict=True))
        gaps = [abs(seen[s] / weight - v) for s, v in zip(lost.steps, lost.values, strict=True)]
        look = {"label": method, "color": f"C{number}"}
        _curve(above, lost.steps, lost.values, **look)
        _curve(middle, lost.steps, gaps, **look)
        if OPEN in log:
            below.plot(log[OPEN].steps, log[OPEN].values, **look)
    above.set_title("hinge and least-squares games are on scales of their own", fontsize="small")
    above.set_ylabel("loss of the discriminator")
    middle.set_ylabel("gap to the student's\nadversarial loss")
    below.set_ylabel("share of\nopen gates")
    below.set_xlabel(f"step (above: means of {SMOOTH} updates)")
    for axes in (above, middle, below):
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


def _curve(axes: Axes, steps: Sequence[float], values: Sequence[float], **look: str) -> None:
    whole = len(values) // SMOOTH * SMOOTH
    if whole:
        means = (np.reshape(x[:whole], (-1, SMOOTH)).mean(1) for x in (steps, values))
        axes.plot(*means, **look)


def _measures(place: Path) -> Measures:
    return Measures.model_validate_json((place / MEASURES).read_text())


def _done(place: Path) -> bool:
    return (place / MEASURES).is_file()


def _spread(values: Sequence[float], digits: int) -> str:
    middle = f"{statistics.mean(values):.{digits}f}"
    return middle if len(values) < 2 else f"{middle} ± {statistics.stdev(values):.{digits}f}"
