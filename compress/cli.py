"""``pocketgan train`` and ``pocketgan compress``. Light at import: torch comes when one runs."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(name: str, parser: argparse.ArgumentParser) -> None:
    """Declare a command's arguments."""
    parser.add_argument("recipe", help="a shipped recipe's name, or the path of a .toml file")
    if name == "train":
        parser.add_argument("--out", type=Path, help="default: runs/RECIPE")
        return
    parser.add_argument("--device", default="cpu", help="device profile: a name or a .toml file")
    parser.add_argument("--out", type=Path, help="default: build/RECIPE/DEVICE/export")


def run(name: str, args: argparse.Namespace) -> int:
    """Train a teacher, or make a student export."""
    return _train(args) if name == "train" else _compress(args)


def _train(args: argparse.Namespace) -> int:
    from compress.progress import TrainingProgress
    from compress.recipe import TrainRecipe, load_recipe
    from compress.teacher import train_teacher

    recipe, _ = load_recipe(args.recipe, TrainRecipe)
    with TrainingProgress() as progress:
        paths = train_teacher(recipe, args.out or Path("runs") / recipe.name, progress)
    for path in paths:
        print(path)
    return 0


def _compress(args: argparse.Namespace) -> int:
    from compress.recipe import CompressRecipe, load_recipe
    from devices.profile import load_profile

    profile = load_profile(args.device)
    recipe, _ = load_recipe(args.recipe, CompressRecipe)
    out = args.out or Path("build") / recipe.name / profile.name / "export"

    from compress.pipeline import run
    from compress.progress import TrainingProgress, summary

    with TrainingProgress() as progress:
        export, made = run(recipe, profile, out, progress)
    print(summary(export, made=made))
    return 0
