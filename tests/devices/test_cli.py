import argparse

import pytest

from devices import cli
from devices.profile import load_profile, profile_names


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    """A page as wide as the README's."""
    monkeypatch.setenv("COLUMNS", "100")


def run(name, *argv):
    parser = argparse.ArgumentParser()
    cli.add_arguments(name, parser)
    return cli.run(name, parser.parse_args([str(word) for word in argv]))


def test_devices_lists_every_profile_on_one_line_each(capsys):
    assert run("devices") == 0
    lines = capsys.readouterr().out.splitlines()
    for name in profile_names():
        (line,) = [line for line in lines if line.split()[:1] == [name]]
        assert load_profile(name).description in line
    assert max(map(len, lines)) <= 100
    (coral,) = [line for line in lines if line.split()[:1] == ["coral-edge-tpu"]]
    assert coral.split()[-1] == "refused"
    assert "coral-edge-tpu: it runs only what its own TFLite compiler takes" in "\n".join(lines)


@pytest.mark.parametrize("name", profile_names())
def test_devices_shows_one_profile_in_full(name, capsys):
    assert run("devices", name) == 0
    out = capsys.readouterr().out
    profile = load_profile(name)
    assert profile.description in out
    for mode in profile.power_modes:
        assert mode.name in out
    assert "this machine" in out


def test_an_unknown_device_lists_the_known():
    with pytest.raises(ValueError, match="there are: cpu, jetson"):
        run("devices", "toaster")
