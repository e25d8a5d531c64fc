"""The engine cache between real processes: two that want one engine, and one that is killed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from deploy.cache import EngineCache
from tests.conftest import ROOT
from tests.deploy.cache_keys import make_key

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no locks there")

WHOLE = b"half and half"


@pytest.fixture
def start(tmp_path):
    """Starts a process that wants the engine; what still runs at the end is killed."""
    started = []

    def start(name, how="at once"):
        command = ("tests.deploy.cache_process", tmp_path / "engines", tmp_path / name, how)
        process = subprocess.Popen(
            [sys.executable, "-m", *map(str, command)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def said(stream, words):
    """Wait until a process said it."""
    for line in stream:
        if words in line:
            return line
    raise AssertionError(f"the process ended without saying {words!r}")


def builds(tmp_path):
    return (tmp_path / "builds").read_text().count("one")


def never(folder):
    raise AssertionError("the engine is built, though it is in the cache")


def test_of_two_that_want_one_engine_one_builds_and_the_other_waits(tmp_path, start):
    first = start("first", "wait for go")
    said(first.stdout, "filling")
    second = start("second")
    said(second.stderr, "another process is building this engine; waiting for it")
    assert second.poll() is None
    (tmp_path / "go").touch()
    assert first.wait(30) == 0
    told = second.stderr.read()
    assert second.wait(30) == 0
    assert "tensorrt fp16 of restore from the engine cache" in told
    assert builds(tmp_path) == 1
    for name in ("first", "second"):
        assert (tmp_path / name / "engine.plan").read_bytes() == WHOLE


@pytest.mark.parametrize(
    ("how", "where"), [("stall in fill", "filling"), ("stall in keep", "keeping")]
)
def test_a_kill_leaves_nothing_usable_and_locks_nobody_out(tmp_path, start, how, where):
    cache = EngineCache(tmp_path / "engines")
    victim = start("killed", how)
    said(victim.stdout, where)
    victim.kill()
    victim.wait()
    left = [path.suffix for path in cache.root.iterdir()]
    assert (".building" in left) == (how == "stall in keep")
    assert cache.entries() == []

    assert start("next").wait(30) == 0
    assert builds(tmp_path) == 2
    assert [path.suffix for path in cache.root.glob(".*")] == [".lock"]
    engine = cache.build(make_key(), never, tmp_path / "again", name="restore")
    assert engine.read_bytes() == WHOLE


def test_what_a_kill_left_is_swept_when_another_engine_is_built(tmp_path, start):
    cache = EngineCache(tmp_path / "engines")
    victim = start("killed", "stall in keep")
    said(victim.stdout, "keeping")

    def fill(folder):
        (folder / "engine.plan").write_bytes(b"other")
        return folder / "engine.plan"

    cache.build(make_key(threads=1), fill, tmp_path / "one", name="restore")
    assert list(cache.root.glob(".*.building")), "what a living process builds was taken from it"
    victim.kill()
    victim.wait()
    cache.build(make_key(threads=2), fill, tmp_path / "two", name="restore")
    assert not list(cache.root.glob(".*.building"))
    assert len(cache.entries()) == 2
