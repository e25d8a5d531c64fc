"""Which importance keeps most? Prunes the shipped teacher every way, then distills equally long.

All students have the same widths, those of the recipe `restore`, so that only the choice of
channels differs; and all follow the teacher's images (mean absolute difference) for the same
number of steps on the same crops. What is printed is PSNR to the teacher's images on the middles of
the held-back photos, before and after: the mean over seeds, and the lowest and highest of them. A
seed draws the crops that an importance looks at, its signs, and the order of the training crops.
`random` is the control. A line with rounds prunes and distills in turn, in as many steps in all;
its figure as pruned is of the same rounds without training between them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.checkpoints import load_network
from compress.data.sampling import batches
from compress.evaluate import held_back, quality, translate
from compress.loop import Batch, Schedule
from compress.pruning.budget import Widths, macs_budget, plan
from compress.pruning.importance import Importance, Ranking, make_ranking
from compress.pruning.prune import prune
from compress.pruning.structure import Structure
from compress.recipe import CompressRecipe, load_recipe
from deploy.imaging import Pixels
from devices.profile import load_profile

STUDENTS = [
    (name, rounds)
    for rounds in (1, 3)
    for name in ("random", "magnitude", "scale", "taylor", "discriminator")
    if rounds == 1 or name not in ("random", "scale")
]
IMAGES = 64
MIDDLE_PX = 512


def main() -> None:
    """Prune, distill, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--crop", type=int, default=96)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    began = time.monotonic()

    recipe, _ = load_recipe("restore", CompressRecipe)
    options = recipe.pruning
    assert options is not None
    assert options.macs_reduction is not None
    teacher = load_network(_file(recipe.teacher.generator)).eval()
    discriminator = load_network(_file(recipe.teacher.discriminator)).eval()
    photos = recipe.data.read("train")
    sources = [_middle(source) for source in held_back(recipe.data.read("test"), multiple=4).source]
    wanted = translate(teacher, tuple(sources))
    budget = macs_budget(teacher, options.macs_reduction, image_size=recipe.image_size)

    def to_teacher(student: nn.Module) -> float:
        return quality(translate(student, tuple(sources)), wanted).psnr_db

    rows: dict[tuple[str, int], list[tuple[float, float]]] = {student: [] for student in STUDENTS}
    for seed in range(args.seeds):
        batch_at = batches(photos, size=args.crop, batch_size=args.batch_size, seed=seed)
        steps = [batch_at(step) for step in range(1, args.steps + 1)]
        with torch.no_grad():
            pairs = [(batch.source, teacher(batch.source)) for batch in steps]
        looked_at = [batch_at(args.steps + k) for k in range(1, IMAGES // args.batch_size + 1)]
        for name, rounds in STUDENTS:
            ranking = _ranking(name, looked_at, discriminator, seed)
            stages = plan(
                teacher,
                budget,
                channel_multiple=load_profile("cpu").channel_multiple,
                outer_share=options.outer_share,
                rounds=rounds,
            )
            untrained = _pruned(teacher, stages, ranking, pairs=[])
            trained = _pruned(teacher, stages, ranking, pairs=pairs)
            figures = to_teacher(untrained), to_teacher(trained)
            rows[name, rounds].append(figures)
            print(f"seed {seed}: {name:14} {rounds} rounds, {figures}", flush=True)

    print(
        f"\nPSNR to the teacher, {len(sources)} held-back photos, {budget.goal:g} times fewer "
        f"MACs; {args.seeds} seeds, {args.steps} steps of {args.batch_size} crops of {args.crop} px"
    )
    print("| importance | rounds | as pruned | distilled |\n|---|---|---|---|")
    for (name, rounds), values in rows.items():
        before, after = (_summary(column) for column in zip(*values, strict=True))
        print(f"| `{name}` | {rounds} | {before} | {after} |")
    print(f"{IMAGES} images looked at; {(time.monotonic() - began) / 60:.1f} minutes")


def _pruned(
    teacher: nn.Module,
    stages: Sequence[Widths],
    ranking: Ranking,
    pairs: Sequence[tuple[Tensor, Tensor]],
) -> nn.Module:
    """Prune and train in turn, an equal share of the steps after each round."""
    student, share = teacher, len(pairs) // len(stages)
    for number, widths in enumerate(stages):
        student = prune(student, widths, ranking).eval()  # norms with fixed statistics
        _follow(student, pairs[number * share : (number + 1) * share])
    return student


def _file(path: object) -> Path:
    assert isinstance(path, Path)
    return path


def _ranking(name: str, looked_at: Sequence[Batch], discriminator: nn.Module, seed: int) -> Ranking:
    if name != "random":
        importance = cast(Importance, name)
        return make_ranking(importance, batches=looked_at, discriminator=discriminator, seed=seed)
    generator = torch.Generator().manual_seed(seed)

    def by_chance(_network: nn.Module, structure: Structure) -> tuple[Tensor, ...]:
        return tuple(torch.rand(c.channels, generator=generator) for c in structure.couplings)

    return by_chance


def _follow(student: nn.Module, pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Train in place, with the optimizer of the recipe."""
    schedule = Schedule(len(pairs), learning_rate=1e-3, decay_from=0.3)
    optimizer = torch.optim.Adam(student.parameters(), betas=(0.9, 0.99))
    for step, (source, wanted) in enumerate(pairs, start=1):
        optimizer.param_groups[0]["lr"] = schedule.rate(step)
        optimizer.zero_grad()
        F.l1_loss(student(source), wanted).backward()
        optimizer.step()


def _middle(pixels: Pixels) -> Pixels:
    top, left = ((n - MIDDLE_PX) // 2 for n in pixels.shape[:2])
    return np.ascontiguousarray(pixels[top : top + MIDDLE_PX, left : left + MIDDLE_PX])


def _summary(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.2f} dB ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
