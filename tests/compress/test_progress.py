import io
import itertools

import pytest
from rich.console import Console

from compress import progress
from compress.progress import TrainingProgress


@pytest.fixture
def clock(monkeypatch):
    """Every look at the clock is two seconds after the last."""
    ticks = itertools.count(0, 2)
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(ticks)))


def shown(steps, *, terminal=False, width=200, total=20, done=0, images=8):
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=width)
    with TrainingProgress(console) as training:
        training.start("restore", total, done, images)
        for step in steps:
            training.step(step, {"student/imitation": 2.0})
    return file.getvalue()


def test_lines_say_images_a_second_and_time_left(clock):
    lines = shown(range(1, 7)).splitlines()
    assert lines[0] == "restore: 20 steps"
    # 12 seconds for 6 steps of 8 images, and 14 steps to go
    assert lines[1] == "  6/20  28 s left  4 images/s  student/imitation 2"


def test_the_speed_is_of_this_run_and_not_of_the_one_before(clock):
    lines = shown(range(15, 21), done=14).splitlines()
    assert lines[0] == "restore: 20 steps, resuming after step 14"
    assert lines[1] == "  20/20  0 s left  4 images/s  student/imitation 2"


def test_a_terminal_shows_a_bar_with_the_same(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    text = shown(range(1, 21), terminal=True)
    assert "20/20" in text
    assert "images/s" in text
    assert "student/imitation 2" in text


def test_nothing_is_drawn_before_a_stage_begins():
    file = io.StringIO()
    with TrainingProgress(Console(file=file, force_terminal=True)):
        pass
    assert file.getvalue() == ""
