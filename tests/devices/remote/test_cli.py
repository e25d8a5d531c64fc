"""``pocketgan check --on`` as it is typed."""

from __future__ import annotations

import argparse
import json
import sys

import pytest

from devices.remote.cli import add_remote_arguments, find_inventory, run_on
from devices.remote.fleet import FleetReport


@pytest.fixture
def check(monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(tmp_path)

    def run(*words):
        parser = argparse.ArgumentParser()
        parser.add_argument("bundle", type=type(tmp_path))
        for option in ("--json", "--key", "--markdown", "--junit"):
            parser.add_argument(option, type=type(tmp_path))
        parser.add_argument("--mode", default="fast")
        add_remote_arguments(parser)
        return run_on(parser.parse_args([str(word) for word in words]))

    return run


@pytest.fixture
def boards(tmp_path, near):
    text = ""
    for name in ("near", "bad"):
        text += (
            f'[boards.{name}]\ndestination = "{name}"\nmode = "rapid"\n'
            f'python = "{sys.executable if name == "near" else "/none"}"\n'
            f'note = "the {name} one"\n'
            f'env = {{ TMPDIR = "{near.tmp}", PYTHONPATH = "{near.library}" }}\n'
        )
    path = tmp_path / "boards.toml"
    path.write_text(text)
    return path


def test_a_line_a_step_a_table_and_the_worst_status(check, boards, far, bundle, report, capsys):
    far.reports(report.model_dump_json())
    files = ("--json", "all.json", "--markdown", "all.md", "--junit", "all.xml")
    assert check(bundle, "--on", "near, bad", *files) == 2
    out = capsys.readouterr().out
    assert "near: measuring, mode rapid\n" in out
    assert "bad: it has no Python at '/none': install 3.11 or newer" in out
    assert "bad is: the bad one\n" in out
    assert "near is:" not in out
    rows = [line.split() for line in out.splitlines()]
    assert ["near", "1.03", "1.06", "-", "within", "the", "budget"] in rows
    assert ["bad", "-", "-", "-", "failed"] in rows
    written = FleetReport.model_validate_json(boards.with_name("all.json").read_text())
    assert [each.status for each in written.boards] == [0, 2]
    assert written.boards[0].report == report
    prose = boards.with_name("all.md").read_text()
    assert "on near: within the budget" in prose
    assert "on bad: failed" in prose
    assert "it has no Python at" in boards.with_name("all.xml").read_text()
    assert check(bundle, "--on", "near") == 0


def test_a_live_table(check, boards, far, bundle, report, capsys, monkeypatch):
    far.reports(report.model_dump_json())
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert check(bundle, "--on", "near") == 0
    out = capsys.readouterr().out
    assert "\x1b[" in out
    assert "near: measuring" not in out  # no lines where a table is drawn


def test_what_is_refused_before_any_board_is_spoken_to(check, bundle, tmp_path):
    for hosts, said in (("-v", "'-v' is not a destination"), (",", "--on names no board")):
        with pytest.raises(ValueError, match=said):
            check(bundle, f"--on={hosts}")
    with pytest.raises(ValueError, match="--on all wants an inventory: --inventory FILE, POCK"):
        check(bundle, "--on", "all")
    with pytest.raises(ValueError, match=r"--json none/x\.json: there is no folder"):
        check(bundle, "--on", "pi", "--json", "none/x.json")


def test_where_the_inventory_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_inventory(None, {}) is None
    for name in ("boards", "environ", "given"):
        board = {"destination": name}
        (tmp_path / f"{name}.toml").write_text(f"boards.x = {{ destination = {json.dumps(name)} }}")

    def found(given, environ):
        return find_inventory(given, environ).boards["x"].destination

    assert board["destination"] == "given"
    assert found(None, {}) == "boards"
    environ = {"POCKETGAN_INVENTORY": str(tmp_path / "environ.toml")}
    assert found(None, environ) == "environ"
    assert found(tmp_path / "given.toml", environ) == "given"
