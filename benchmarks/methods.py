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
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
from methods_table import COSTS, MEASURES, TEACHER, Costs, Measures, write_report
from students import UNPAIRED

from compress.checkpoints import load_network
from compress.evaluate import held_back, translate
from compress.features import as_generator
from compress.macs import cost
from compress.measures.measure import measure
from compress.recipe import RECIPES, CompressRecipe, load_recipe
from devices.profile import Frozen
from devices.sealed import digest

METHODS = ("l1", "omgd", "dcd", "crd", "gcc", "mggc", "dgl", "cooperative")
SEEDS = (7, 8, 9)
STEPS = 2000
"""Of training: a third of the recipes', so that three seeds of all take 3.3 core hours."""

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
WATCH_S = 5.0


def main() -> None:
    """Run what is missing, and report what is there."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("build/results"))
    parser.add_argument("--data", default="facades", help="recipes are DATA-METHOD")
    parser.add_argument("--methods", type=_names, default=METHODS, metavar="A,B,...")
    parser.add_argument("--seeds", type=_numbers, default=SEEDS, metavar="1,2,...")
    parser.add_argument(
        "--steps",
        type=int,
        default=STEPS,
        help="of training, instead of the recipes' own (%(default)s)",
    )
    parser.add_argument("--report", action="store_true", help="train nothing")
    args = parser.parse_args()
    if not args.report:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped; the same command goes on"))
        # seed by seed: a table of one seed is there early
        for seed in args.seeds:
            for method in args.methods:
                place = args.out / f"{method}-{seed}"
                place.mkdir(parents=True, exist_ok=True)
                with locked(place) as lock:
                    if lock is not None:
                        text = changed(f"{args.data}-{method}", seed, args.steps)
                        make(place, written(place, text), lock)
    write_report(args.out, args.methods, args.seeds)


def changed(name: str, seed: int, steps: int) -> str:
    """A shipped recipe with another seed, and as many steps of training."""
    text = (RECIPES / f"{name}.toml").read_text()
    text = re.sub(r"^seed = .*$", f"seed = {seed}", text, count=1, flags=re.M)
    head, table, rest = text.partition("[training]")
    return head + table + re.sub(r"^steps = .*$", f"steps = {steps}", rest, count=1, flags=re.M)


def written(place: Path, text: str) -> Path:
    """The recipe of a piece; what another recipe has left there goes."""
    path = place / "recipe.toml"
    if not path.is_file() or path.read_text() != text:
        for old in (MEASURES, COSTS):
            (place / old).unlink(missing_ok=True)
        path.write_text(text)
    return path


@contextlib.contextmanager
def locked(place: Path) -> Iterator[int | None]:
    """The piece's lock, a file descriptor; None where another program has it.

    Whoever inherits it holds it too: a training that outlives this program keeps others away.
    """
    with (place / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield file.fileno()


def make(place: Path, recipe: Path, lock: int) -> None:
    """Train and measure a piece, where that is not done."""
    if (place / MEASURES).is_file():
        return
    print(f"{place.name} ...", flush=True)
    command = [sys.executable, "-m", "deploy.main", "compress", str(recipe)]
    command += ["--device", "cpu", "--out", str(place / "export")]
    log = place / "log.txt"
    with log.open("a") as file:
        process = subprocess.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | dict.fromkeys(THREADS, "1"),
            pass_fds=(lock,),
        )
        status = watched(process, place / COSTS)
    if status:
        raise SystemExit(f"{recipe} failed with {status}; see {log}")
    measured(place, load_recipe(str(recipe), CompressRecipe)[0])


def watched(process: subprocess.Popen[bytes], path: Path) -> int:
    """Wait for a process, adding what it takes to a file as it goes; returns its exit status."""
    spent = Costs.model_validate_json(path.read_text()) if path.is_file() else Costs()
    before, began, running = spent, time.monotonic(), psutil.Process(process.pid)
    try:
        while True:
            over = running.status() == psutil.STATUS_ZOMBIE  # and can still be asked what it took
            used = running.cpu_times()
            spent = Costs(
                wall_s=before.wall_s + time.monotonic() - began,
                cpu_s=before.cpu_s + used.user + used.system,
                peak_rss_mib=max(spent.peak_rss_mib, peak_mib(process.pid)),
                attempts=before.attempts + 1,
            )
            save(path, spent)
            if over:
                return process.wait()
            time.sleep(WATCH_S)
    except BaseException:
        process.terminate()
        process.wait()
        raise


def save(path: Path, found: Frozen) -> None:
    """Write a file whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text(found.model_dump_json(indent=1) + "\n")
    part.replace(path)


def peak_mib(pid: int) -> float:
    """The most memory that a process has held, in MiB; 0 once it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else 0.0


def measured(place: Path, recipe: CompressRecipe) -> None:
    """What student's and teacher's images of all held-back inputs are worth."""
    export = place / "export"
    student, teacher = (load_network(export / f"{n}.safetensors") for n in ("student", "teacher"))
    data = recipe.data.read("test")
    images = held_back(data, multiple=as_generator(student).multiple)
    assert images.target is not None
    real, truth = list(data.references()), images.target
    known = place.parent / TEACHER.format(digest(export / "teacher.safetensors")[:12])
    # the student's last: a piece that has it is done
    for network, path in ((teacher, known), (student, place / MEASURES)):
        if path.is_file():
            continue
        made = translate(network, images.source)
        sets = measure(made, real, ["fid", "kid"], unpaired=UNPAIRED)
        spent = cost(network, recipe.image_size)
        found = Measures(
            images=len(made),
            fid=sets.value("fid"),
            kid=sets.value("kid"),
            lpips=measure(made, truth, ["lpips"], unpaired=None).value("lpips"),
            macs=spent.macs,
            params=spent.params,
            teacher=known.name,
        )
        save(path, found)
    print(f"{place.name}: {found.fid:.1f} {found.kid:.3f} {found.lpips:.3f}", flush=True)


def _names(text: str) -> Sequence[str]:
    return tuple(text.split(","))


def _numbers(text: str) -> Sequence[int]:
    return tuple(int(part) for part in text.split(","))


if __name__ == "__main__":
    main()
