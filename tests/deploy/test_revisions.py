import json
import subprocess

import pytest

from deploy import revisions
from deploy.gate_sides import of_revisions
from deploy.revisions import Installed, install, measure_with, try_out
from devices.gate.report import Once
from devices.machine import Machine
from devices.session import DeviceError
from tests.deploy.report_bundle import make_bundle

PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "pocketgan"
version = "0.1.0"
[tool.hatch.build.targets.wheel]
packages = ["devices"]
"""


def once(steady_ms):
    machine = Machine(
        cpu="c", architecture="x86_64", cores=2, memory_mib=1, system="Linux", runtimes={}
    )
    samples_ms = (steady_ms,)
    return Once(
        machine=machine,
        cold_ms=9.0,
        load_ms=5.0,
        first_ms=1.0,
        samples_ms=samples_ms,
        peak_rss_mib=50.0,
    )


def git(folder, *words):
    subprocess.run(
        ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@t", *words],
        check=True,
        capture_output=True,
    )


@pytest.fixture
def repository(tmp_path):
    """A checkout whose measuring prints what its revision says: one, two, one that is too old."""
    folder = tmp_path / "repository"
    (folder / "devices").mkdir(parents=True)
    git(tmp_path, "init", "--quiet", "--initial-branch=main", str(folder))
    (folder / "pyproject.toml").write_text(PYPROJECT)
    (folder / "devices" / "__init__.py").write_text("")
    code = {
        "old": "import sys\nsys.exit('measure_once: unrecognized arguments: --work')\n",
        "one": f"print({once(1.0).model_dump_json()!r})\n",
        "two": f"print({once(2.0).model_dump_json()!r})\n",
    }
    for name, text in code.items():
        (folder / "devices" / "measure_once.py").write_text(text)
        git(folder, "add", ".")
        git(folder, "commit", "--quiet", "-m", name)
        git(folder, "tag", name)
    # what is not committed is in no revision
    (folder / "devices" / "measure_once.py").write_text("raise SystemExit('not this one')")
    return folder


@pytest.fixture
def installed(tmp_path):
    return {
        tmp_path / side: Installed(side, "c0ffee" * 6, tmp_path / side / "installed")
        for side in ("main", "HEAD")
    }


def test_each_bundle_is_measured_with_its_revision(installed):
    calls = []

    def run(bundle, *, paths):
        calls.append((bundle, paths))
        return once(1.0)

    measure = measure_with(installed, run)
    for bundle in installed:
        assert measure(bundle) == once(1.0)
    assert calls == [(bundle, (str(bundle / "installed"),)) for bundle in installed]


def test_a_revision_that_cannot_be_measured_is_one_clear_line(installed):
    old = next(iter(installed))

    def run(bundle, *, paths):
        if bundle == old:
            raise DeviceError("measuring failed with status 2: unrecognized arguments: --work")
        return once(1.0)

    with pytest.raises(ValueError, match=r"revision main \(c0ffeec0ffee\) cannot be .*older than"):
        try_out(installed, measure_with(installed, run))


def test_a_revision_that_is_not_there_says_how_to_get_it(repository, tmp_path):
    with pytest.raises(ValueError, match=r"no revision 'release' in .*git fetch origin"):
        install("release", tmp_path, repository)
    # it is a name, whatever it looks like
    with pytest.raises(ValueError, match="no revision '--exec=x'"):
        install("--exec=x", tmp_path, repository)


def test_a_folder_that_is_no_checkout_says_so(tmp_path):
    with pytest.raises(ValueError, match=r"no revision 'main' in .*\(.*not a git repository"):
        install("main", tmp_path, tmp_path)


def test_a_tool_that_is_not_installed_is_named(tmp_path, monkeypatch):
    def absent(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(revisions.subprocess, "run", absent)
    with pytest.raises(ValueError, match="git is not installed"):
        install("main", tmp_path, tmp_path)


def test_of_what_pip_says_the_line_that_tells_is_kept():
    said = "  noise\n  ModuleNotFoundError: No module named 'hatchling'\n  note: not pip's fault\n"
    assert revisions._said(said) == "ModuleNotFoundError: No module named 'hatchling'"
    assert revisions._said("fatal: bad\n") == "fatal: bad"
    assert revisions._said("") == ""


@pytest.mark.slow
def test_the_wheels_of_two_revisions_measure_one_bundle(repository, tmp_path):
    bundle = make_bundle(tmp_path / "bundle").path
    working = tmp_path / "working"
    working.mkdir()
    sides = of_revisions("rev:one", "rev:two", bundle, working=working, repository=repository)
    (pair,) = sides.pairs
    assert pair.name == "tiny on here"
    assert not sides.engines
    assert [sides.measure(one).value("steady") for one in (pair.baseline, pair.candidate)] == [1, 2]
    assert sides.notes[0].startswith("baseline is one, ")
    assert json.loads((pair.baseline / "manifest.json").read_text())["model"]["name"] == "tiny"


@pytest.mark.slow
def test_a_revision_older_than_the_gate_is_refused(repository, tmp_path):
    bundle = make_bundle(tmp_path / "bundle").path
    working = tmp_path / "working"
    working.mkdir()
    with pytest.raises(ValueError, match=r"revision old \(.*unrecognized arguments: --work; where"):
        of_revisions("rev:old", "rev:one", bundle, working=working, repository=repository)


@pytest.mark.slow
def test_a_revision_that_cannot_be_built_says_why(repository, tmp_path):
    (repository / "pyproject.toml").write_text(PYPROJECT.replace('"hatchling.build"', '"no.such"'))
    git(repository, "commit", "--quiet", "-am", "broken")
    (tmp_path / "out").mkdir()
    with pytest.raises(
        ValueError, match=r"HEAD \(.*cannot be built \(ModuleNotFoundError: .*hatch"
    ):
        install("HEAD", tmp_path / "out", repository)
