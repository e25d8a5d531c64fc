import argparse
import json

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from devices import cli, gate, latency
from devices.gate import Once
from devices.latency import Mode
from devices.profile import LatencyBudget, load_profile, profile_names
from devices.sealed import BundleError


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Every mode ends after a blink; a page as wide as the README's."""
    for name in latency.MODES:
        monkeypatch.setitem(latency.MODES, name, Mode(44, 0.0, 5.0))
    monkeypatch.setenv("COLUMNS", "100")


def run(name, *argv):
    parser = argparse.ArgumentParser()
    cli.add_arguments(name, parser)
    return cli.run(name, parser.parse_args([str(word) for word in argv]))


@pytest.fixture
def budget(profile):
    def make(milliseconds):
        limits = LatencyBudget(p50_ms=milliseconds, p90_ms=milliseconds, p99_ms=milliseconds)
        update = {"budget": limits, "memory_mib": 100_000}
        return profile.model_copy(update=update)

    return make


def test_check_within_budget(make_bundle, budget, tmp_path, capsys):
    report = tmp_path / "report.json"
    assert run("check", make_bundle(profile=budget(10_000.0)), "--json", report) == 0
    out = capsys.readouterr().out
    assert "within the budget of cpu; p99 not judged" in out
    assert "needs 459 images, has" in out  # no p99 from so few
    assert len(json.loads(report.read_text())["samples_ms"]) >= 44


def test_check_over_budget(make_bundle, budget, capsys):
    assert run("check", make_bundle(profile=budget(1e-6))) == 1
    assert "over budget: p50 is" in capsys.readouterr().out


def test_check_measures_nothing_that_was_not_signed(make_bundle, budget, tmp_path, monkeypatch):
    key = Ed25519PrivateKey.generate().public_key()
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    (tmp_path / "maker.pub").write_bytes(key.public_bytes(serialization.Encoding.PEM, form))
    bundle = make_bundle(profile=budget(10_000.0))
    with pytest.raises(BundleError, match="is not signed"):
        run("check", bundle, "--key", tmp_path / "maker.pub")
    monkeypatch.setenv("POCKETGAN_TRUSTED_KEYS", str(tmp_path))
    with pytest.raises(BundleError, match="is not signed"):
        run("check", bundle)


def test_check_refuses_what_is_not_compiled(make_bundle):
    bundle = make_bundle(profile=load_profile("jetson"), compiled=False)
    with pytest.raises(BundleError, match="pocketgan deploy EXPORT --device jetson"):
        run("check", bundle)


@pytest.mark.parametrize("verb", ["check", "gate"])
def test_a_report_that_cannot_be_written_is_refused_before_measuring(verb, make_bundle, tmp_path):
    bundle = make_bundle()
    sides = [bundle] if verb == "check" else ["--baseline", bundle, "--candidate", bundle]
    with pytest.raises(ValueError, match=r"--json .*none/r\.json: there is no folder"):
        run(verb, *sides, "--json", tmp_path / "none" / "r.json")


def test_every_mode_is_offered():
    parser = argparse.ArgumentParser()
    cli.add_arguments("check", parser)
    modes = [parser.parse_args(["x", "--mode", name]).mode for name in latency.MODES]
    assert modes == list(latency.MODES)
    assert parser.parse_args(["x"]).mode == "fast"
    with pytest.raises(SystemExit):
        parser.parse_args(["x", "--mode", "slow"])


@pytest.mark.parametrize(
    ("slowdown", "noise", "status", "words"),
    [
        (0.0, 0.001, 0, "not slower: "),
        (0.3, 0.001, 1, "slower: +30"),
        (0.0, 0.4, 2, "cannot say: "),
    ],
)
def test_gate(make_bundle, machine, monkeypatch, tmp_path, capsys, slowdown, noise, status, words):
    wobble = iter([1 + noise * (number * 7 % 5) for number in range(100)])

    def measure(bundle):
        slow = 1 + slowdown if bundle.name == "candidate" else 1.0
        return Once(machine=machine, samples_ms=(5.0 * slow * next(wobble),))

    monkeypatch.setattr("devices.measure_once.in_fresh_process", measure)
    sides = ["--baseline", make_bundle("baseline"), "--candidate", make_bundle("candidate")]
    report = tmp_path / "gate.json"
    assert run("gate", *sides, "--json", report) == status
    assert words in capsys.readouterr().out
    read = gate.GateReport.model_validate_json(report.read_text())
    assert len(read.baseline) == cli.DEFAULT_ROUNDS


def test_gate_names_too_few_rounds(make_bundle):
    bundle = make_bundle()
    with pytest.raises(ValueError, match="at least 9 rounds, got 2"):
        run("gate", "--baseline", bundle, "--candidate", bundle, "--rounds", 2)


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
