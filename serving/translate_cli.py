"""``pocketgan translate``: files and folders, by a bundle here or by a server."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

    from serving.files import Task
    from serving.negotiate import Output

FORMATS = ("png", "jpeg", "webp")
SIZES = ("native", "model", "max")
MAX_JOBS = 32
"""Threads that Python keeps for this; more would only wait."""


def add_arguments(name: str, parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``translate``."""
    parser.add_argument(
        "paths", type=Path, nargs="+", metavar="FILE|FOLDER", help="images, videos, folders of them"
    )
    by = parser.add_mutually_exclusive_group(required=True)
    by.add_argument("--bundle", type=Path, help="a bundle's folder: its engine runs here")
    by.add_argument("--server", metavar="URL", help="a pocketgan serve, for images")
    parser.add_argument(
        "--key-file", type=Path, metavar="FILE", help="holds the API key, if the server wants one"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the answers")
    parser.add_argument(
        "--format", choices=FORMATS, help="of every image (that of its own file if left out)"
    )
    parser.add_argument("--quality", type=_number(100), help="1 to 100, of JPEG (90) and WebP (80)")
    parser.add_argument(
        "--size",
        choices=SIZES,
        default="native",
        help="its own, the one the model was made for, or shrunk to what is allowed (native)",
    )
    parser.add_argument(
        "--jobs", type=_number(MAX_JOBS), default=4, help=f"files at a time, 1 to {MAX_JOBS} (4)"
    )


def run(name: str, args: argparse.Namespace) -> int:
    """Translate everything that can be; 1 if something could not.

    Raises:
        ValueError: A path, an option or the bundle is wrong; nothing was translated.
        DeviceError: The engine cannot run on this machine.
    """
    # only now: the help of the program wants none of it
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    from serving.files import plan_tasks

    if args.quality is not None and args.format == "png":
        raise ValueError("--quality is for jpeg and webp; a PNG loses nothing")
    if args.key_file is not None and args.server is None:
        raise ValueError("--key-file is for --server; a bundle wants no key")
    tasks = plan_tasks(args.paths, args.out, args.format)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Remaining())
    # standard output is for the last line; the bar and what failed are for who watches
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        failed = asyncio.run(_translate(tasks, args, progress))
    print(f"{len(tasks) - failed} of {len(tasks)} translated into {args.out}")
    return 1 if failed else 0


async def _translate(tasks: list[Task], args: argparse.Namespace, progress: Progress) -> int:
    from serving.files import run_tasks

    bar = progress.add_task("translating", total=len(tasks))

    def done(task: Task, error: Exception | None) -> None:
        progress.advance(bar)
        if error is not None:
            _say(progress, f"pocketgan translate: {task.source}: {error}")

    async with AsyncExitStack() as stack:
        if args.server is not None:
            work = await _by_server(args, stack)
        else:
            work = _by_bundle(args, progress)
        return await run_tasks(tasks, work, jobs=args.jobs, done=done)


async def _by_server(
    args: argparse.Namespace, stack: AsyncExitStack
) -> Callable[[Task], Awaitable[None]]:
    """Work that a server does."""
    try:
        from serving.client import open_client, translate
    except ModuleNotFoundError as missing:
        raise ValueError(
            f"--server needs {missing.name}: pip install 'pocketgan[client]'"
        ) from missing
    from serving.files import write_whole

    key = None if args.key_file is None else args.key_file.read_text().strip()
    client = open_client(args.server, connections=args.jobs, key=key)
    await stack.enter_async_context(client)

    async def work(task: Task) -> None:
        if task.format is None:
            raise ValueError("a server takes images; translate videos with --bundle")
        data = await asyncio.to_thread(task.source.read_bytes)
        answer = await translate(client, data, _output(task, args), args.size)
        await asyncio.to_thread(write_whole, task.target, answer)

    return work


def _by_bundle(args: argparse.Namespace, progress: Progress) -> Callable[[Task], Awaitable[None]]:
    """Work that an engine in this process does."""
    from functools import partial

    from serving.files import write_whole
    from serving.local import open_engine
    from serving.settings import read_settings
    from serving.video import translate_video

    engine = open_engine(args.bundle, read_settings(os.environ))

    def image(task: Task) -> None:
        answer = engine.translate(task.source.read_bytes(), _output(task, args), args.size)
        write_whole(task.target, answer)

    def video(task: Task) -> None:
        bar = progress.add_task(task.source.name, total=None)
        try:
            made = translate_video(
                task.source,
                task.target,
                partial(engine.translate_frame, size=args.size),
                tell=lambda count, total: progress.update(bar, completed=count, total=total),
            )
        finally:
            progress.remove_task(bar)
        if made.audio == "dropped":
            _say(progress, f"{task.target}: without sound, which an MP4 cannot hold as it is")

    async def work(task: Task) -> None:
        await asyncio.to_thread(video if task.format is None else image, task)

    return work


def _output(task: Task, args: argparse.Namespace) -> Output:
    """How the answer to an image is encoded; a quality is for formats that have one."""
    from serving.negotiate import Output

    assert task.format is not None, "a video has no image format"
    return Output(task.format, None if task.format == "png" else args.quality)


def _say(progress: Progress, line: str) -> None:
    """A line above the bar, as it is: the text may hold brackets."""
    progress.console.print(line, markup=False, highlight=False, soft_wrap=True)


def _number(largest: int) -> Callable[[str], int]:
    """A reader of a whole number from 1 to ``largest``."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and 1 <= int(text) <= largest):
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to {largest}")
        return int(text)

    return read
