import re
from collections.abc import Callable
from pathlib import Path

import pytest

from devices.telemetry.reading import Look, Reading

RECORDED = Path(__file__).parent / "recorded"


@pytest.fixture
def recorded() -> Callable[[str], list[str]]:
    """The lines of a recorded file with their ends, without what is said about them.

    A line that begins with ``12x`` stands for twelve of it.
    """

    def lines(name: str) -> list[str]:
        found = []
        for line in (RECORDED / name).read_text().splitlines(keepends=True):
            if line.startswith("#"):
                continue
            times = re.match(r"(\d+)x ", line)
            found += [line[times.end() :]] * int(times[1]) if times else [line]
        return found

    return lines


@pytest.fixture
def board(tmp_path) -> Callable[..., Path]:
    """Writes files of a made-up kernel, by path below its root, and returns the root."""

    def write(files: dict[str, object]) -> Path:
        for path, value in files.items():
            target = tmp_path / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(f"{value}\n")
        return tmp_path

    return write


@pytest.fixture
def looks() -> Callable[..., list[Look]]:
    """Looks a quarter of a second apart."""

    def make(*readings: Reading) -> list[Look]:
        return [Look(number / 4, reading) for number, reading in enumerate(readings)]

    return make


class Answers:
    """Stands for the tools of a board: what each command prints; the rest are absent."""

    def __init__(self, answers: dict[str, str]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def __call__(self, command):
        self.asked.append(" ".join(command))
        return self.answers.get(" ".join(command))


@pytest.fixture
def answers() -> type[Answers]:
    return Answers
