"""Many files: which there are, where their answers go, several under way at a time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from serving.negotiate import Format

IMAGES: dict[str, Format] = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png", ".webp": "webp"}
"""Suffixes of images, and the format each stands for."""
VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm")

SUFFIXES: dict[Format, str] = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
VIDEO_SUFFIX = ".mp4"


@dataclass(frozen=True)
class Task:
    """One file to translate.

    Attributes:
        source: The file.
        target: Where its answer goes.
        format: Of the answer; None for a video.
    """

    source: Path
    target: Path
    format: Format | None


def plan_tasks(paths: Sequence[Path], out: Path, format: Format | None) -> list[Task]:
    """A task for every file, and for every image and video in every folder and those in it.

    Args:
        paths: Files and folders. A file that is named is taken whatever its suffix.
        out: Where the answers go, by the same names; of a folder, by the same paths within it.
        format: Of every image; that of its own file if left out (PNG for another suffix).

    Raises:
        ValueError: A path is not there, a folder holds nothing to translate, or two answers, or an
            answer and its source, would be one file.
    """
    tasks: dict[Path, Task] = {}
    for path in paths:
        found = list(_files(path, out))
        if not found:
            there_are = ", ".join((*IMAGES, *VIDEOS))
            raise ValueError(f"no image or video in {path} (looked for {there_are})")
        for source, name in found:
            task = _task(source, out / name, format)
            clash = tasks.setdefault(task.target, task)
            if clash is not task:
                raise ValueError(
                    f"{clash.source} and {source} would both become {task.target}; "
                    "translate them one after the other, into different folders"
                )
            if task.target.resolve() == source.resolve():
                raise ValueError(f"{source} would be overwritten; name another folder with --out")
    return list(tasks.values())


async def run_tasks(
    tasks: Sequence[Task],
    work: Callable[[Task], Awaitable[None]],
    *,
    jobs: int,
    done: Callable[[Task, Exception | None], None],
) -> int:
    """Work on tasks, ``jobs`` at a time; one that fails does not stop the others.

    Args:
        tasks: What there is to do.
        work: Does one; raises ``ValueError``, ``OSError`` or ``RuntimeError`` where it fails.
        jobs: How many may be under way.
        done: Told of each as it ends, with what it failed of.

    Returns:
        How many failed.
    """
    waiting = iter(tasks)
    failed = 0

    async def worker() -> None:
        nonlocal failed
        for task in waiting:
            try:
                await work(task)
            except (ValueError, OSError, RuntimeError) as error:
                failed += 1
                done(task, error)
            else:
                done(task, None)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(jobs, len(tasks))):
            group.create_task(worker())
    return failed


def write_whole(target: Path, data: bytes) -> None:
    """Write a file so that nobody finds half of it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = partial_name(target)
    try:
        part.write_bytes(data)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def partial_name(target: Path) -> Path:
    """Where ``target`` is written before it is whole; the suffix stays, which names its format."""
    return target.with_name(f".{target.stem}.{os.getpid()}.part{target.suffix}")


def _files(path: Path, out: Path) -> Iterator[tuple[Path, Path]]:
    """Files to translate, and the name that each has below the folder of answers."""
    if path.is_file():
        yield path, Path(path.name)
        return
    if not path.is_dir():
        raise ValueError(f"no file or folder {path}")
    answers = out.resolve()
    for source in sorted(path.rglob("*")):
        name = source.relative_to(path)
        if any(part.startswith(".") for part in name.parts):
            continue
        # answers of the last time are no questions
        if answers != path.resolve() and source.resolve().is_relative_to(answers):
            continue
        if source.suffix.lower() in (*IMAGES, *VIDEOS) and source.is_file():
            yield source, name


def _task(source: Path, target: Path, format: Format | None) -> Task:
    suffix = source.suffix.lower()
    if suffix in VIDEOS:
        return Task(source, target.with_suffix(VIDEO_SUFFIX), None)
    own = IMAGES.get(suffix)
    chosen = format or own or "png"
    keep = source.suffix if chosen == own else SUFFIXES[chosen]
    return Task(source, target.with_suffix(keep), chosen)
