"""What is each method worth? The same teacher, data, steps and size of student, several seeds.

    python benchmarks/methods.py --out build/results            trains and measures what is missing
    python benchmarks/methods.py --out build/results --report   draws table, curves and sheet again

A piece is one recipe with one seed. It may be stopped at any moment and goes on where it was; two
of these programs may share the work, for each piece is locked by who works on it. OUT holds, per
piece, ``METHOD-SEED/`` with the recipe, ``train/``, ``export/``, ``cost.json`` (what it took, all
attempts together) and ``measures.json``; and of all together ``table.md``, ``balance.png`` and
``sheet.jpg``.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
from methods_table import Costs, Measures, write_report

from compress.checkpoints import load_network
from compress.evaluate import held_back, translate
from compress.features import as_generator
from compress.macs import cost
from compress.measures.measure import measure
from compress.recipe import RECIPES, CompressRecipe, load_recipe

METHODS = ("l1", "omgd", "dcd", "crd", "gcc", "mggc", "dgl", "cooperative")
SEEDS = (7, 8, 9)
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
WATCH_S = 5.0


def main() -> None:
    """Run what is missing, and report what is there."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("build/results"))
    parser.add_argument("--data", default="facades", help="recipes are DATA-METHOD")
    parser.add_argument("--methods", type=_names, default=METHODS, metavar="A,B,...")
    parser.add_argument("--seeds", type=_numbers, default=SEEDS, metavar="1,2,...")
    parser.add_argument("--steps", type=int, help="instead of the recipes' own: to try things out")
    parser.add_argument("--report", action="store_true", help="train nothing")
    args = parser.parse_args()
    if not args.report:
        # seed by seed: a table of one seed is there early
        for seed in args.seeds:
            for method in args.methods:
                place = args.out / f"{method}-{seed}"
                recipe = written(place, f"{args.data}-{method}", seed, args.steps)
                with locked(place) as ours:
                    if ours:
                        make(place, recipe)
    write_report(args.out, args.methods, args.seeds)


def written(place: Path, name: str, seed: int, steps: int | None) -> Path:
    """The recipe of a piece: the shipped one with another seed."""
    text = (RECIPES / f"{name}.toml").read_text()
    text = re.sub(r"^seed = .*$", f"seed = {seed}", text, count=1, flags=re.M)
    if steps is not None:
        head, table, rest = text.partition("[training]")
        text = head + table + re.sub(r"^steps = .*$", f"steps = {steps}", rest, count=1, flags=re.M)
    place.mkdir(parents=True, exist_ok=True)
    path = place / "recipe.toml"
    if not path.is_file() or path.read_text() != text:
        path.write_text(text)
    return path


@contextlib.contextmanager
def locked(place: Path) -> Iterator[bool]:
    """Whether this program has the piece to itself."""
    with (place / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def make(place: Path, recipe: Path) -> None:
    """Train and measure a piece, where that is not done."""
    export = place / "export"
    command = [sys.executable, "-m", "deploy.main", "compress", str(recipe)]
    command += ["--device", "cpu", "--out", str(export)]
    log = place / "log.txt"
    done = (export / "export.json").is_file()
    if not done or not (place / "measures.json").is_file():
        print(f"{place.name} ...", flush=True)
        with log.open("a") as file:
            process = subprocess.Popen(
                command,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=os.environ | dict.fromkeys(THREADS, "1"),
            )
            status = watched(process, place / "cost.json")
        if status:
            raise SystemExit(f"{recipe} failed with {status}; see {log}")
        measured(place, load_recipe(str(recipe), CompressRecipe)[0])


def watched(process: subprocess.Popen[bytes], path: Path) -> int:
    """Wait for a process, adding what it takes to a file as it goes; returns its exit status."""
    before = Costs.model_validate_json(path.read_text()) if path.is_file() else Costs()
    began, running = time.monotonic(), psutil.Process(process.pid)
    while True:
        with contextlib.suppress(psutil.Error):
            used = running.cpu_times()
            now = Costs(
                wall_s=before.wall_s + time.monotonic() - began,
                cpu_s=before.cpu_s + used.user + used.system,
                peak_rss_mib=max(before.peak_rss_mib, peak_mib(process.pid)),
                attempts=before.attempts + 1,
            )
            part = path.with_suffix(".part")
            part.write_text(now.model_dump_json(indent=1) + "\n")
            part.replace(path)
        try:
            return process.wait(WATCH_S)
        except subprocess.TimeoutExpired:
            continue
        except BaseException:
            process.terminate()
            process.wait()
            raise


def peak_mib(pid: int) -> float:
    """The most memory that a process has held, in MiB; 0 once it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else 0.0


def measured(place: Path, recipe: CompressRecipe) -> None:
    """What the student's images of all held-back inputs are worth."""
    student, teacher = (
        load_network(place / "export" / f"{name}.safetensors") for name in ("student", "teacher")
    )
    data = recipe.data.read("test")
    images = held_back(data, multiple=as_generator(student).multiple)
    assert images.target is not None
    real, truth = list(data.references()), images.target
    unpaired = "real images of the target domain have no pairs"
    for name, network, path in (
        ("student", student, place / "measures.json"),
        ("teacher", teacher, place.parent / "teacher.json"),
    ):
        if name == "teacher" and path.is_file():
            continue
        made = translate(network, images.source)
        sets = measure(made, real, ["fid", "kid"], unpaired=unpaired)
        pairs = measure(made, truth, ["lpips"], unpaired=None)
        spent = cost(network, recipe.image_size)
        found = Measures(
            images=len(made),
            fid=sets.value("fid"),
            kid=sets.value("kid"),
            lpips=pairs.value("lpips"),
            macs=spent.macs,
            params=spent.params,
        )
        path.write_text(found.model_dump_json(indent=1) + "\n")
    print(f"{place.name}: {json.loads((place / 'measures.json').read_text())}", flush=True)


def _names(text: str) -> Sequence[str]:
    return tuple(text.split(","))


def _numbers(text: str) -> Sequence[int]:
    return tuple(int(part) for part in text.split(","))


if __name__ == "__main__":
    main()
