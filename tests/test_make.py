"""The Makefile: every documented target, and a checkout whose path has a space in it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text()
DOCUMENTED = re.findall(r"^([a-z0-9-]+):.*?## ", MAKEFILE, flags=re.M)

# stands for a Python that has no modules to offer but notes what it was asked to do
PYTHON = """#!/bin/sh
for word; do
  case "$word" in
    *" "*) printf "'%s' " "$word" ;;
    *) printf '%s ' "$word" ;;
  esac
done >> "{log}"
echo >> "{log}"
case "$1 $2" in
  "-m venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
  "-m deploy.main")
    out=$(echo "$*" | sed -n 's/.*--out //p')
    case "$3" in
      compress) mkdir -p "$out" ;;
      deploy) mkdir -p "$out" && touch "$out/manifest.json" ;;
    esac ;;
esac
exit {status}
"""

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


class Checkout:
    """A new clone, as far as make is concerned, at a path with a space in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "my projects" / "pocket gan"
        self.folder.mkdir(parents=True)
        for name in ("Makefile", "pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, self.folder)
        # the rooms are folders, and targets have the same names
        for room in ("compress", "deploy", "serving", "devices"):
            (self.folder / room).mkdir()
        self.log = folder / "the log.txt"
        self.python = folder / "python3.11"
        self.install_python(status=0)

    def install_python(self, status: int) -> None:
        self.python.write_text(PYTHON.format(log=self.log, status=status))
        self.python.chmod(0o755)

    def make(self, *words: str) -> subprocess.CompletedProcess[str]:
        clean = {k: v for k, v in os.environ.items() if k not in ("RECIPE", "DEVICE", "BASELINE")}
        clean = {k: v for k, v in clean.items() if not k.startswith(("MAKE", "MFLAGS"))}
        return subprocess.run(
            ["make", f"PYTHON={self.python.name}", *words],
            cwd=self.folder,
            capture_output=True,
            text=True,
            env={**clean, "PATH": f"{self.python.parent}:{clean['PATH']}"},
        )

    def asked(self) -> list[str]:
        """What Python was asked to do since the last call."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return [line.strip() for line in lines if not line.startswith("-c ")]


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


def test_every_target_is_phony_and_documented():
    phony = re.search(r"^\.PHONY: (.+)$", MAKEFILE, flags=re.M)
    assert phony is not None
    assert sorted(phony[1].split()) == sorted(DOCUMENTED)


@pytest.mark.parametrize("target", DOCUMENTED)
def test_every_target_can_be_planned(target, checkout):
    ran = checkout.make("-n", target, "BASELINE=other/bundle")
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
    assert "up to date" not in ran.stdout


def test_make_alone_lists_the_targets(checkout):
    said = checkout.make().stdout
    for target in DOCUMENTED:
        assert f"  make {target} " in said
    assert "RECIPE=restore" in said
    assert "DEVICE=cpu" in said
    assert checkout.asked() == []


def test_the_main_job_in_a_new_clone_sets_everything_up_once(checkout):
    ran = checkout.make("compress", "deploy", "DEVICE=cpu")
    assert ran.returncode == 0, ran.stderr
    venv, install, compress, deploy = checkout.asked()
    assert venv == "-m venv .venv"
    assert install.startswith("-m pip install ")
    assert "--constraint constraints.txt" in install
    assert "--editable .[dev]" in install
    export, bundle = "build/restore/cpu/export", "build/restore/cpu/bundle"
    assert compress == f"-m deploy.main compress restore --device cpu --out {export}"
    assert deploy == f"-m deploy.main deploy {export} --device cpu --out {bundle}"
    assert (checkout.folder / bundle / "manifest.json").is_file()

    assert checkout.make("compress", "deploy").returncode == 0
    assert checkout.asked() == [compress, deploy]


def test_deploy_alone_compresses_first(checkout):
    assert checkout.make("deploy", "DEVICE=jetson").returncode == 0
    verbs = [line.split()[2] for line in checkout.asked() if "deploy.main" in line]
    assert verbs == ["compress", "deploy"]
    assert (checkout.folder / "build/restore/jetson/bundle/manifest.json").is_file()


@pytest.mark.parametrize("target", ["check", "serve", "inspect"])
def test_a_bundle_is_made_when_there_is_none_and_used_when_there_is(target, checkout):
    assert checkout.make(target, "DEVICE=cpu").returncode == 0
    assert [a.split()[2] for a in checkout.asked()[2:]] == ["compress", "deploy", target]
    assert checkout.make(target, "DEVICE=cpu").returncode == 0
    assert checkout.asked() == [f"-m deploy.main {target} build/restore/cpu/bundle"]


def test_gate_compares_two_bundles(checkout):
    assert checkout.make("gate", "BASELINE=old release/bundle").returncode == 0
    assert checkout.asked()[-1] == (
        "-m deploy.main gate --baseline 'old release/bundle' --candidate build/restore/cpu/bundle"
    )


def test_gate_without_a_baseline_says_what_to_type(checkout):
    ran = checkout.make("gate")
    assert ran.returncode == 2
    assert "make gate BASELINE=path/to/bundle" in ran.stderr
    assert checkout.asked() == []


def test_recipes_and_devices_of_ones_own_are_paths(checkout):
    for device in ("lab/board_2.1.toml", "board_2.1"):
        ran = checkout.make("deploy", "RECIPE=lab/my-gan.toml", f"DEVICE={device}")
        assert ran.returncode == 0, ran.stderr
        assert checkout.asked()[-1] == (
            "-m deploy.main deploy build/my-gan/board_2.1/export"
            f" --device {device} --out build/my-gan/board_2.1/bundle"
        )


def test_new_constraints_are_installed(checkout):
    assert checkout.make("setup").returncode == 0
    checkout.asked()
    stamp = (checkout.folder / ".venv" / ".installed").stat().st_mtime
    os.utime(checkout.folder / "constraints.txt", (stamp + 1, stamp + 1))
    assert checkout.make("setup").returncode == 0
    assert "pip install" in checkout.asked()[-1]


def test_an_installation_that_fails_is_tried_again(checkout):
    checkout.python.write_text(
        PYTHON.format(log=checkout.log, status='$([ "$2" = pip ] && echo 1 || echo 0)')
    )
    assert checkout.make("compress").returncode == 2
    assert not any("deploy.main" in line for line in checkout.asked())
    checkout.install_python(status=0)
    assert checkout.make("compress").returncode == 0


def test_a_python_that_is_too_old_is_refused_in_a_sentence(checkout):
    checkout.install_python(status=1)
    ran = checkout.make("compress")
    assert ran.returncode == 2
    assert "pocketgan needs Python 3.11 or newer" in ran.stderr
    assert not (checkout.folder / ".venv").exists()


def test_clean_keeps_the_environment_and_the_runs(checkout):
    checkout.make("deploy")
    (checkout.folder / "runs").mkdir()
    assert checkout.make("clean").returncode == 0
    assert not (checkout.folder / "build").exists()
    assert (checkout.folder / ".venv" / ".installed").is_file()
    assert (checkout.folder / "runs").is_dir()
