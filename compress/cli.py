"""``pocketgan import | train | compress | evaluate``; torch comes only when one of them runs."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(name: str, parser: argparse.ArgumentParser) -> None:
    """Declare a command's arguments."""
    if name == "import":
        _add_import_arguments(parser)
        return
    if name == "evaluate":
        _add_evaluate_arguments(parser)
        return
    parser.add_argument("recipe", help="a shipped recipe's name, or the path of a .toml file")
    if name == "train":
        parser.add_argument("--out", type=Path, help="default: runs/RECIPE")
        return
    parser.add_argument("--device", default="cpu", help="device profile: a name or a .toml file")
    parser.add_argument("--out", type=Path, help="default: build/RECIPE/DEVICE/export")


def run(name: str, args: argparse.Namespace) -> int:
    """Import weights, train a teacher, make a student export, or measure images."""
    if name == "import":
        return _import(args)
    if name == "evaluate":
        return _evaluate(args)
    return _train(args) if name == "train" else _compress(args)


def _add_import_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file", type=Path, help="weights: .pth, .pt, .safetensors, ncnn .param or Keras .h5"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--network",
        action="append",
        default=[],
        help="which of the file's networks; may be repeated; default: its generators",
    )
    parser.add_argument(
        "--architecture", help="a family, or a specification: JSON, TOML or a file with it"
    )


def _import(args: argparse.Namespace) -> int:
    from rich.console import Console

    from compress.importing.report import render
    from compress.importing.run import FACE, run

    report = run(args.file, args.out, networks=args.network, architecture=args.architecture)
    Console(highlight=False, soft_wrap=True).print(render(report))
    for file in (*(network.file for network in report.networks), FACE):
        print(args.out / file)
    return 0


def _train(args: argparse.Namespace) -> int:
    from compress.distributed import is_first, joined
    from compress.progress import TrainingProgress
    from compress.recipe import TrainRecipe, load_recipe
    from compress.teacher import train_teacher

    recipe, _ = load_recipe(args.recipe, TrainRecipe)
    with joined():
        with TrainingProgress() as progress:
            paths = train_teacher(recipe, args.out or Path("runs") / recipe.name, progress)
        if is_first():
            for path in paths:
                print(path)
    return 0


def _compress(args: argparse.Namespace) -> int:
    from compress.recipe import CompressRecipe, load_recipe
    from devices.profile import load_profile, require_allowed

    profile = load_profile(args.device)
    require_allowed(profile)
    recipe, _ = load_recipe(args.recipe, CompressRecipe)
    out = args.out or Path("build") / recipe.name / profile.name / "export"

    from compress.distributed import is_first, joined
    from compress.pipeline import run
    from compress.progress import TrainingProgress, summary

    with joined():
        with TrainingProgress() as progress:
            export, made = run(recipe, profile, out, progress)
        if is_first():
            print(summary(export, made=made))
    return 0


def _add_evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "subject", type=Path, help="images, a network's .safetensors file, an export or a bundle"
    )
    parser.add_argument(
        "--reference", type=Path, required=True, help="folder of images to compare with"
    )
    parser.add_argument("--source", type=Path, help="folder of images to translate")
    for which in ("source", "reference"):
        parser.add_argument(
            f"--{which}-half", choices=("left", "right"), help=f"which half of each {which} file"
        )
    parser.add_argument(
        "--pairs", choices=("name", "order", "none"), default="name", help="default: by file name"
    )
    parser.add_argument("--measures", help="such as fid,psnr; default: all that are possible")
    parser.add_argument(
        "--border", type=int, help="pixels cut before psnr_y and ssim_y; default: the scale"
    )
    parser.add_argument(
        "--skip-broken", action="store_true", help="leave out files that are not images"
    )
    parser.add_argument("--json", type=Path, help="also write the figures to this file")


def _evaluate(args: argparse.Namespace) -> int:
    import logging

    from rich.console import Console
    from rich.progress import Progress

    from compress.evaluate import Question, evaluate
    from compress.measures.report import parse_measures
    from compress.measures.show import show

    logging.basicConfig(format="%(message)s")
    logging.getLogger("compress").setLevel(logging.INFO)  # what is fetched, and its licence
    question = Question(
        subject=args.subject,
        reference=args.reference,
        source=args.source,
        source_half=args.source_half,
        reference_half=args.reference_half,
        pairs=args.pairs,
        measures=parse_measures(args.measures) if args.measures else None,
        border=args.border,
        skip_broken=args.skip_broken,
    )
    errors = Console(stderr=True)
    with Progress(console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task("images", total=None)

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        evaluation = evaluate(question, progress=progress)
    show(Console(highlight=False), evaluation)
    if args.json:
        args.json.write_text(evaluation.model_dump_json(indent=2) + "\n")
    return 0
