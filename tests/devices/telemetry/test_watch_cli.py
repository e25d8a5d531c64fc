import argparse

import pytest

from devices import cli
from devices.telemetry.reading import Reading


class Board:
    name = "board"
    every_s = 0.0

    def read(self):
        return Reading(
            clocks_mhz={"gpu": 1300.0},
            busy={"gpu": 0.99},
            temperatures_c={"tj": 99.5},
            limits_c={"tj": 99.0},
            power_mw={"VDD_IN": 15_000.0},
            throttled=("under-voltage",),
            events={"over-current alarm 3": 1, "over-current alarm 1": 0},
            settings={"power mode": "15W"},
            other_load=0.1,
            memory_mib={"used": 900.0},
        )

    def close(self):
        pass


def run(*argv):
    parser = argparse.ArgumentParser()
    cli.add_arguments("devices", parser)
    return cli.run("devices", parser.parse_args(argv))


@pytest.mark.parametrize("terminal", [False, True])
def test_watch_shows_what_a_board_tells_and_what_it_comes_to(monkeypatch, capsys, terminal):
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr("devices.telemetry.readers.readers_of_this_machine", lambda: (Board(),))
    assert run("--watch", "0.2") == 0
    out = capsys.readouterr().out
    for words in (
        "gpu clock, MHz", "tj, C", "VDD_IN, mW", "others, cores", "sources: board: 15W",
        "energy: ", "disturbed: throttled: under-voltage", "disturbed: tj reached 99.5 C",
    ):  # fmt: skip
        assert words in out
    assert ("99% busy" in out) == terminal  # the live table
    assert "since the start: over-current alarm 3 (1)" in out
    assert "alarm 1" not in out
    assert "still" not in out


def test_watch_of_this_machine_ends(capsys):
    assert run("--watch", "0.1") == 0
    assert "sources: " in capsys.readouterr().out


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "1e9"])
def test_watch_takes_a_time_that_ends(seconds):
    with pytest.raises(ValueError, match="--watch takes seconds above 0 and up to a day, got"):
        run("--watch", seconds)


def test_watch_looks_at_this_machine_and_no_other():
    with pytest.raises(ValueError, match="--watch looks at this machine; leave jetson out"):
        run("jetson", "--watch", "1")
