"""``pocketgan cache``: what lies in the engine cache, why it would be built again, and a broom."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from deploy.cache import EngineCache
    from deploy.cache_entry import Entry

DAY_S = 86400.0


def add_arguments(name: str, parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="ls|explain|clear")
    verbs.add_parser("ls", help="the engines there are")
    explain = verbs.add_parser("explain", help="one engine's key, beside what it would be here now")
    explain.add_argument("digest", metavar="DIGEST", help="of the engine, or how it begins")
    clear = verbs.add_parser("clear", help="remove engines: --older-than DAYS or --all")
    which = clear.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--older-than", type=float, metavar="DAYS", help="those that were not used for so long"
    )
    which.add_argument("--all", action="store_true", help="every one")


def run(name: str, args: argparse.Namespace) -> int:
    """Run the verb; return its exit status.

    Raises:
        ValueError, OSError: What a user can mend.
    """
    from rich.console import Console

    from deploy.cache import EngineCache, default_root

    console = Console(highlight=False)
    cache = EngineCache(default_root())
    if args.verb == "ls":
        return _list(console, cache)
    if args.verb == "explain":
        return _explain(console, cache, args.digest)
    return _clear(console, cache, 0.0 if args.all else args.older_than)


def _list(console: Console, cache: EngineCache) -> int:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from deploy.cache_key import SHORT

    entries = sorted(cache.entries(), key=lambda entry: -entry.used_at)
    if not entries:
        console.print(f"no engine in {cache.root}", markup=False, soft_wrap=True)
        return 0
    table = Table(box=SIMPLE_HEAD)
    for header in ("digest", "backend", "precision", "model"):
        table.add_column(header, no_wrap=header != "model")
    for header in ("MiB", "took", "age", "last use"):
        table.add_column(header, justify="right", no_wrap=True)
    now = time.time()
    for entry in entries:
        face, used = entry.face, _ago(now - entry.used_at)
        what = (
            (face.key.backend, face.key.precision, f"{face.name} {face.key.model_sha256[:SHORT]}")
            if face
            else ("?", "?", "unreadable, or of another version of pocketgan")
        )
        took = f"{face.build_seconds:.1f} s" if face else ""
        age = _ago(now - face.built_at) if face else ""
        row = (entry.digest[:SHORT], *what, _mib(entry.bytes), took, age, used)
        table.add_row(*map(Text, row))
    console.print(table)
    size = sum(entry.bytes for entry in entries)
    console.print(
        f"{len(entries)} engines, {_mib(size)} of {cache.limit_bytes >> 20} MiB, in {cache.root}",
        markup=False,
        soft_wrap=True,
    )
    return 0


def _explain(console: Console, cache: EngineCache, prefix: str) -> int:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from deploy.cache_entry import damage
    from deploy.cache_key import EngineKey, differences, on_this_machine, shown
    from devices.engine_host import this_engine_host

    entry = _find(cache, prefix)
    face = entry.face
    if face is None:
        raise ValueError(
            f"{entry.path} cannot be read by this version of pocketgan; it is never used, and "
            "pocketgan cache clear removes it"
        )
    here = on_this_machine(face.key, this_engine_host())
    table = Table(box=SIMPLE_HEAD)
    for header in ("field", "in the cache", "here now"):
        table.add_column(header, overflow="fold", no_wrap=header == "field")
    for field in EngineKey.model_fields:
        before, after = getattr(face.key, field), getattr(here, field)
        changed = before != after
        table.add_row(
            field,
            Text(shown(before)),
            Text(shown(after) if changed else ""),
            style="yellow" if changed else "",
        )
    console.print(table)
    console.print(
        f"{entry.digest}: {face.key.backend} {face.key.precision} of {face.name}",
        markup=False,
        soft_wrap=True,
    )
    wrong = damage(entry)
    apart = differences(face.key, here)
    if wrong is not None:
        verdict, style = f"built again when it is wanted, for it is damaged: {wrong}", "bold red"
    elif apart:
        verdict, style = f"not used on this machine now: {'; '.join(apart)}", "yellow"
    else:
        verdict, style = "used on this machine for the same model, profile and options", "green"
    console.print(verdict, style=style, markup=False, soft_wrap=True)
    return 0


def _find(cache: EngineCache, prefix: str) -> Entry:
    found = [entry for entry in cache.entries() if entry.digest.startswith(prefix.lower())]
    if not found:
        raise ValueError(
            f"no engine in {cache.root} begins with {prefix!r}; pocketgan cache ls shows them"
        )
    if len(found) > 1:
        many = ", ".join(entry.digest[:16] for entry in found[:4])
        raise ValueError(f"{len(found)} engines begin with {prefix!r}: {many}; give more digits")
    return found[0]


def _clear(console: Console, cache: EngineCache, days: float) -> int:
    if not days >= 0:
        raise ValueError(f"--older-than {days:g}: give a number of days, 0 or more")
    latest = time.time() - days * DAY_S
    old = [entry for entry in cache.entries() if entry.used_at <= latest or days == 0]
    gone = [entry for entry in old if cache.remove(entry.digest)]
    if cache.root.is_dir():
        cache.sweep()
    size = _mib(sum(entry.bytes for entry in gone))
    line = f"{len(gone)} engines removed, {size} MiB, from {cache.root}"
    if len(gone) < len(old):
        line += f"; {len(old) - len(gone)} in use and kept"
    console.print(line, markup=False, soft_wrap=True)
    return 0


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f}"


def _ago(seconds: float) -> str:
    """A length of time in its largest whole unit."""
    for unit, length in (("d", DAY_S), ("h", 3600.0), ("min", 60.0)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0.0):.0f} s"
