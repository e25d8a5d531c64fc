import argparse
import json
from xml.etree import ElementTree

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from devices import check_cli, latency
from devices.latency import UNWATCHED, Mode, read_report
from devices.profile import LatencyBudget, load_profile
from devices.sealed import BundleError

BUSY = "others kept 1.02 cores busy"


@pytest.fixture(autouse=True)
def still(monkeypatch):
    """Every mode ends after a blink, on a machine that is still whatever runs beside it."""
    for name in latency.MODES:
        monkeypatch.setitem(latency.MODES, name, Mode(44, 0.0, 5.0))
    monkeypatch.setenv("COLUMNS", "80")
    disturb(monkeypatch)


def disturb(monkeypatch, *sentences):
    seen = UNWATCHED.model_copy(update={"disturbed": sentences, "readings": 2, "seconds": 0.5})
    monkeypatch.setattr("devices.telemetry.watch.Watch.conditions", lambda watch: seen)


def run(*argv):
    parser = argparse.ArgumentParser()
    check_cli.add_arguments("check", parser)
    return check_cli.run("check", parser.parse_args([str(word) for word in argv]))


@pytest.fixture
def bundle(make_bundle, profile):
    """A bundle that promises so many milliseconds."""

    def make(milliseconds):
        limits = LatencyBudget(p50_ms=milliseconds, p90_ms=milliseconds, p99_ms=milliseconds)
        update = {"budget": limits, "memory_mib": 100_000}
        return make_bundle(profile=profile.model_copy(update=update))

    return make


def test_within_the_budget(bundle, tmp_path, capsys):
    report = tmp_path / "report.json"
    assert run(bundle(10_000.0), "--json", report) == 0
    out = capsys.readouterr().out
    assert "within the budget of cpu; p99 not judged" in out
    assert "needs 459 images, has" in out  # no p99 from so few
    assert "beyond: p50 budget 10000 ms" in out
    assert len(read_report(report.read_text()).samples_ms) >= 44


def test_over_the_budget(bundle, capsys):
    assert run(bundle(1e-6)) == 1
    out = capsys.readouterr().out
    assert "- p50 is " in out
    assert "over the budget of cpu" in out


@pytest.mark.parametrize("milliseconds", [10_000.0, 1e-6])
def test_a_disturbed_machine_decides_nothing(bundle, monkeypatch, capsys, milliseconds):
    disturb(monkeypatch, BUSY)
    assert run(bundle(milliseconds)) == 2
    out = capsys.readouterr().out
    assert f"- {BUSY}\n" in out
    assert "cannot be judged against the budget of cpu" in out
    assert ("- p50 is " in out) is (milliseconds < 1)


def test_a_cold_start_is_that_of_a_fresh_process(bundle, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(latency.MODES, "rapid", Mode(44, 0.0, 5.0, cold_starts=1))
    monkeypatch.setattr("devices.measure_once.MODE", Mode(1, 0.0, 5.0))
    assert run(bundle(10_000.0), "--mode", "rapid", "--json", tmp_path / "r.json") == 0
    assert "1 cold starts, each in a fresh process" in capsys.readouterr().out
    report = read_report((tmp_path / "r.json").read_text())
    (cold_ms,) = report.cold_ms
    assert cold_ms > report.first_ms


def test_every_form_of_the_report_is_written(bundle, tmp_path):
    files = {name: tmp_path / f"r.{name}" for name in ("json", "markdown", "junit")}
    options = [word for name, file in files.items() for word in (f"--{name}", file)]
    assert run(bundle(10_000.0), *options) == 0
    assert json.loads(files["json"].read_text())["schema_version"] == 2
    assert "| p50 |" in files["markdown"].read_text()
    assert ElementTree.parse(files["junit"]).getroot().tag == "testsuites"


@pytest.mark.parametrize("option", ["--json", "--markdown", "--junit"])
def test_a_report_that_cannot_be_written_is_refused_before_measuring(option, make_bundle, tmp_path):
    with pytest.raises(ValueError, match=rf"{option} .*none/r: there is no folder .*make it first"):
        run(make_bundle(), option, tmp_path / "none" / "r")


@pytest.mark.parametrize("option", ["--inventory", "--export", "--fetch"])
def test_what_is_for_boards_wants_boards(option, make_bundle, tmp_path):
    with pytest.raises(ValueError, match=rf"{option} is for boards: name them with --on"):
        run(make_bundle(), option, tmp_path)


def test_on_other_machines_nothing_is_measured_here(make_bundle, monkeypatch):
    monkeypatch.setattr(check_cli, "run_on", lambda args: 7 if args.on == "board1,board2" else 0)
    assert run(make_bundle(), "--on", "board1,board2") == 7


def test_nothing_is_measured_that_was_not_signed(bundle, tmp_path, monkeypatch):
    key = Ed25519PrivateKey.generate().public_key()
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    (tmp_path / "maker.pub").write_bytes(key.public_bytes(serialization.Encoding.PEM, form))
    made = bundle(10_000.0)
    with pytest.raises(BundleError, match="is not signed"):
        run(made, "--key", tmp_path / "maker.pub")
    monkeypatch.setenv("POCKETGAN_TRUSTED_KEYS", str(tmp_path))
    with pytest.raises(BundleError, match="is not signed"):
        run(made)


def test_what_is_not_compiled_is_refused(make_bundle):
    made = make_bundle(profile=load_profile("jetson"), compiled=False)
    with pytest.raises(BundleError, match="pocketgan deploy EXPORT --device jetson"):
        run(made)


def test_every_mode_is_offered():
    parser = argparse.ArgumentParser()
    check_cli.add_arguments("check", parser)
    modes = [parser.parse_args(["x", "--mode", name]).mode for name in latency.MODES]
    assert modes == list(latency.MODES)
    assert parser.parse_args(["x"]).mode == "fast"
    with pytest.raises(SystemExit):
        parser.parse_args(["x", "--mode", "slow"])


def test_it_fits_into_a_terminal(bundle, capsys):
    run(bundle(10_000.0))
    table = capsys.readouterr().out.split("then one image after the other")[1]
    assert max(map(len, table.splitlines())) <= 80
