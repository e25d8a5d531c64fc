"""``pocketgan deploy | inspect``: light at import, the work is in the room's other files."""

from __future__ import annotations

import argparse
import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from deploy.artifacts import StudentExport
    from devices.profile import DeviceProfile

SHEET = "sheet.png"
"""Drawn beside the bundle, not in it: pictures of somebody's photos should not travel unasked."""

Range = tuple[float, float]


def add_arguments(name: str, parser: argparse.ArgumentParser) -> None:
    """Declare what a verb takes."""
    if name == "inspect":
        parser.add_argument("bundle", type=Path, help="the bundle to look into")
        form = parser.add_mutually_exclusive_group()
        form.add_argument("--json", action="store_true", help="print the manifest as it is")
        form.add_argument(
            "--plan",
            type=Path,
            metavar="EXPORT",
            help="instead: the precision plan of its export beside what each layer really costs",
        )
        return
    parser.add_argument(
        "export", type=Path, help="what pocketgan compress wrote, or any generator's .onnx file"
    )
    parser.add_argument(
        "--device", required=True, help="name of a device profile, or path of a .toml file"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the bundle")
    parser.add_argument(
        "--force", action="store_true", help="make it again even if it is up to date"
    )
    parser.add_argument(
        "--explain", action="store_true", help="print every engine tried and why each lost"
    )
    parser.add_argument(
        "--no-cache", action="store_true", help="compile every engine, whatever was built before"
    )
    foreign = parser.add_argument_group("for a generator that compress did not make")
    foreign.add_argument("--calibrate", type=Path, help="folder of images that it translates")
    foreign.add_argument(
        "--range",
        type=_range,
        metavar="LOW:HIGH",
        help="values of black and white in its images; -1:1 if left out",
    )
    foreign.add_argument("--bgr", action="store_true", help="its channels are blue, green, red")
    foreign.add_argument(
        "--size", type=int, help="side in pixels to measure it at; the profile's if left out"
    )


def run(name: str, args: argparse.Namespace) -> int:
    """Run a verb; return its exit status.

    Raises:
        ValueError, OSError, RuntimeError: What a user can mend.
    """
    from rich.console import Console

    console = Console(highlight=False)
    if name == "inspect":
        if args.plan is not None:
            from deploy.plan_ranking import show_ranking

            return show_ranking(console, args.bundle, args.plan)
        from deploy.show import show_bundle

        return show_bundle(console, args.bundle, as_json=args.json)
    return _deploy(console, args)


def _deploy(console: Console, args: argparse.Namespace) -> int:
    from devices.machine import available
    from devices.profile import load_profile, require_allowed

    profile = load_profile(args.device)
    require_allowed(profile)
    export = _export(args, profile)

    from deploy.cache import EngineCache, default_root
    from deploy.pipeline import STAGES, deploy
    from deploy.sheet import write_sheet
    from deploy.show import plain, show_candidates, summarise, unfinished, working_line

    def progress(stage: int, text: str) -> None:
        console.print(working_line(stage, len(STAGES), STAGES, text))

    with console.status("reading") as status, _logged(console, detailed=args.explain):
        bundle = deploy(
            export,
            profile,
            args.out,
            progress=progress,
            working=lambda text: status.update(plain(text)),
            force=args.force,
            cache=None if args.no_cache else EngineCache(default_root()),
        )
    if args.explain:
        show_candidates(console, bundle)
    sheet = bundle.path.with_name(SHEET)
    write_sheet(bundle, sheet)
    summarise(console, bundle)
    console.print(plain(f"{sheet} shows it"))
    if not bundle.manifest.compiled:
        console.print(
            unfinished(export.path, args.device, args.out, available(profile)),
            style="yellow",
            markup=False,
            soft_wrap=True,  # so that the command can be copied
        )
    return 0


@contextlib.contextmanager
def _logged(console: Console, *, detailed: bool) -> Iterator[None]:
    """Print what deploy warns of and, if asked, what it builds again and why."""
    from rich.logging import RichHandler

    log = logging.getLogger("deploy")
    handler = RichHandler(console=console, show_path=False, show_time=False, show_level=False)
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO if detailed else logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(level)
        log.removeHandler(handler)


def _export(args: argparse.Namespace, profile: DeviceProfile) -> StudentExport:
    """The student to deploy; one is made of a generator that comes alone."""
    from deploy.artifacts import StudentExport

    given = [option for option in ("calibrate", "range", "bgr", "size") if getattr(args, option)]
    if args.export.suffix != ".onnx":
        if given:
            raise ValueError(
                f"--{given[0]} is for an .onnx file; {args.export} is an export, which has its own"
            )
        return StudentExport.read(args.export)
    if args.calibrate is None:
        raise ValueError(
            f"{args.export} comes without images: give a folder of those it translates with "
            "--calibrate"
        )
    from deploy.adopt import adopt
    from deploy.imaging import range_spec

    low, high = args.range or (-1.0, 1.0)
    return adopt(
        args.export,
        args.calibrate,
        args.out.with_name(f"{args.out.name}-export"),
        name=args.export.stem,
        pixels=range_spec(low, high, "bgr" if args.bgr else "rgb"),
        image_size=args.size or profile.image_size,
    )


def _range(text: str) -> Range:
    low, _, high = text.partition(":")
    try:
        return float(low), float(high)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not LOW:HIGH, such as 0:1") from error
