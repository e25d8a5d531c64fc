import sys
import time

import pytest

from devices.telemetry.reading import ReaderError, Reading
from devices.telemetry.stream import LastLine
from devices.telemetry.tegrastats import TegrastatsReader

TALKER = (
    "import sys, time\nfor i in range(10**6):\n print('line', i, flush=True)\n time.sleep(0.02)"
)


def until(read, seconds=5.0):
    """The first answer that is something."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if answer := read():
            return answer
        time.sleep(0.01)
    raise AssertionError("nothing was said")


def test_only_the_newest_whole_line_counts():
    lines = LastLine((sys.executable, "-c", TALKER))
    try:
        first = until(lines.read)
        time.sleep(0.2)
        later = until(lines.read)
        assert first.startswith("line ")
        assert later.endswith("\n")
        assert int(later.split()[1]) > int(first.split()[1]) + 1  # those between are gone
    finally:
        lines.close()


def test_nothing_new_is_nothing_and_half_a_line_waits():
    say = "import sys, time\nprint('half', end='', flush=True)\ntime.sleep(60)"
    lines = LastLine((sys.executable, "-c", say))
    try:
        time.sleep(0.3)
        assert lines.read() is None
        assert lines.read() is None
    finally:
        lines.close()


def test_the_tool_is_ended_even_where_it_does_not_want_to(monkeypatch):
    monkeypatch.setattr("devices.telemetry.stream.END_S", 0.1)
    stubborn = (
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('ready', flush=True)\ntime.sleep(60)"
    )
    lines = LastLine((sys.executable, "-c", stubborn))
    until(lines.read)
    process = lines._process
    lines.close()
    lines.close()
    assert process.poll() == -9


def test_a_tool_that_ends_is_an_error_after_its_last_word():
    lines = LastLine((sys.executable, "-c", "print('the end'); raise SystemExit(3)"))
    assert until(lines.read) == "the end\n"
    with pytest.raises(ReaderError, match=r"ended with status 3"):
        until(lines.read)
    lines.close()


def test_a_tool_that_is_not_there_is_an_error():
    with pytest.raises(ReaderError, match="cannot be started"):
        LastLine(("/nowhere/tegrastats",)).read()


def test_a_running_tegrastats_is_read(tmp_path, recorded):
    (line,) = recorded("tegrastats-jetpack6.txt")
    program = tmp_path / "tegrastats"
    (tmp_path / "talk.py").write_text(
        f"import sys, time\nwhile sys.argv[1:] == ['--interval', '250']:\n"
        f" print({line.strip()!r}, flush=True)\n time.sleep(0.02)\n"
    )
    # "#!" cannot name an interpreter at a path with a space
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{tmp_path}/talk.py" "$@"\n')
    program.chmod(0o755)
    reader = TegrastatsReader(str(program))
    try:
        reading = until(lambda: (seen := reader.read()) != Reading() and seen)
        assert reading.clocks_mhz["cpu"] == 2201
    finally:
        reader.close()
