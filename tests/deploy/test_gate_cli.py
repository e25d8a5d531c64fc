import argparse
import json
from xml.etree import ElementTree

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from deploy import gate_cli
from deploy.baselines import Store
from devices.gate.history import Equal, Steady, history_file, recall
from devices.gate.judge import LOOKS
from devices.gate.report import GateReport
from devices.gate.selftest import SelfTestReport
from devices.machine import this_machine
from devices.sealed import BundleError
from devices.telemetry.conditions import Conditions
from tests.deploy.conftest import student
from tests.deploy.near_truth import near_truth, spoilt
from tests.deploy.report_bundle import make_bundle
from tests.devices.gate.conftest import FakeMeasure


class Still:
    """A watch over a machine of which it says what a test wants."""

    def __init__(self, unsteady=()):
        self._unsteady = tuple(unsteady)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def conditions(self):
        return Conditions(
            seconds=1.0,
            readings=4,
            readers=(),
            clocks_mhz={},
            temperatures_c={},
            power_mw={},
            throttled=(),
            other_load=None,
            energy_mj=None,
            disturbed=self._unsteady,
            unsteady=self._unsteady,
        )


@pytest.fixture(autouse=True)
def page(monkeypatch, tmp_path):
    """A page as wide as the README's, a history of its own, and nobody watching."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("POCKETGAN_HISTORY", str(tmp_path / "history"))
    monkeypatch.setattr("devices.telemetry.watch.Watch", lambda readers: Still())


@pytest.fixture
def measured(monkeypatch):
    """Puts a `FakeMeasure` in the place of fresh processes, and gives it."""

    def use(**options):
        fake = FakeMeasure(this_machine(), **options)
        monkeypatch.setattr("devices.measure_once.in_fresh_process", fake)
        return fake

    return use


@pytest.fixture
def sides(tmp_path):
    """Two bundles, the second with another engine that makes nearly the same images."""
    return near_truth(tmp_path / "baseline"), near_truth(tmp_path / "candidate", spoil=1e-4)


def run(*argv):
    parser = argparse.ArgumentParser()
    gate_cli.add_arguments("gate", parser)
    return gate_cli.run("gate", parser.parse_args([str(word) for word in argv]))


def gate(sides, *argv):
    return run("--baseline", sides[0], "--candidate", sides[1], *argv)


def remembered():
    return recall(history_file(this_machine().fingerprint()))


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        ({}, 0, "not slower: latency "),
        ({"steady": 1.3}, 1, "slower: latency +30"),
        ({"memory": 1.3}, 1, "more memory: peak memory +30"),
        ({"noise": 1.0, "seed": 2}, 2, "cannot say: latency "),
    ],
)
def test_verdict_and_exit_status(sides, measured, capsys, options, status, words):
    measured(**options)
    assert gate(sides) == status
    out = capsys.readouterr().out
    assert words in out.splitlines()[-1] or words in out.splitlines()[-2]  # the line may wrap


def test_the_page_fits_a_hundred_columns_and_says_all(sides, measured, capsys):
    measured(steady=1.3)
    gate(sides)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 100
    text = " ".join(out.split())
    for words in (
        "tiny on here, 12 rounds",
        "best round",
        "at most (95 %)",
        "cold start",
        "peak memory",
        "would show slow-downs from 5% on",
        "PSNR",
        "not worse",
        "72 images in 24 processes",
    ):
        assert words in text


def test_worse_images_fail_whatever_the_latency_says(sides, measured, tmp_path, capsys):
    measured()
    assert gate((sides[0], near_truth(tmp_path / "spoilt-candidate", spoil=0.2))) == 1
    out = capsys.readouterr().out
    assert "\nworse images: images lose" in out
    assert "\nlatency " in out


def test_a_machine_that_throttled_decides_nothing(sides, measured, monkeypatch, capsys):
    measured(steady=1.3)
    hot = ("cpu throttled: 12 of 40 looks",)
    monkeypatch.setattr("devices.telemetry.watch.Watch", lambda readers: Still(hot))
    assert gate(sides) == 2
    assert "cannot say: cpu throttled: 12 of 40 looks" in capsys.readouterr().out
    assert remembered() == []


def test_everything_is_written_where_it_was_asked(sides, measured, tmp_path):
    measured(steady=1.3)
    files = {name: tmp_path / name for name in ("r.json", "r.md", "r.xml")}
    options = zip(("--json", "--markdown", "--junit"), files.values(), strict=True)
    assert gate(sides, *(word for option in options for word in option)) == 1
    report = GateReport.model_validate_json(files["r.json"].read_text())
    assert report.pairs[0].images.against == "truth"
    assert files["r.md"].read_text().startswith("### :x: Latency gate: slower\n")
    root = ElementTree.fromstring(files["r.xml"].read_text())
    assert [suite.get("name") for suite in root] == ["verdict", "tiny on here"]


@pytest.mark.parametrize("option", ["--json", "--markdown", "--junit"])
def test_a_file_that_cannot_be_written_is_refused_before_measuring(sides, option, tmp_path):
    with pytest.raises(ValueError, match=rf"{option} .*none/f: there is no folder"):
        gate(sides, option, tmp_path / "none" / "f")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--baseline", "a"], "--candidate is missing"),
        (["--baseline", "a", "--candidate", "b", "--store", "s"], "--store goes with"),
        (["--baseline", "a", "--candidate", "b", "--accept"], "--accept goes with"),
        (["--baseline", "store:a", "--candidate", "b"], "store:a is looked for in --store DIR"),
        (["--baseline", "rev:main", "--candidate", "b"], "two revisions"),
        (["--baseline", "rev:main", "--candidate", "rev:HEAD"], "--bundle goes with two"),
        (["--baseline", "a", "--candidate", "b", "--bundle", "c"], "--bundle goes with two"),
        (["--baseline", "a", "--candidate", "b", "--gates", "3"], "--gates goes with"),
        (["--baseline", "a", "--candidate", "b", "--self-test"], "--self-test takes no --cand"),
        (["--baseline", "store:a", "--store", "s", "--self-test"], "takes a bundle as --base"),
        (["--baseline", "a", "--self-test", "--junit", "f"], "--self-test writes only --json"),
        (["--baseline", "none", "--candidate", "nothing"], "nothing is at none; give a bundle"),
    ],
)
def test_options_that_would_be_ignored_are_refused(argv, message):
    with pytest.raises(ValueError, match=message):
        run(*argv)


def test_the_help_says_how_many_rounds_there_are_at_most():
    parser = argparse.ArgumentParser()
    gate_cli.add_arguments("gate", parser)
    assert f"so often at most (default: {LOOKS[-1]})" in " ".join(parser.format_help().split())


def test_too_few_rounds_are_named(sides):
    with pytest.raises(ValueError, match="at least 12 rounds, got 2"):
        gate(sides, "--rounds", 2)


def test_nothing_is_measured_that_was_not_signed(sides, tmp_path):
    key = Ed25519PrivateKey.generate().public_key()
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    (tmp_path / "maker.pub").write_bytes(key.public_bytes(serialization.Encoding.PEM, form))
    with pytest.raises(BundleError, match="is not signed"):
        gate(sides, "--key", tmp_path / "maker.pub")


def test_what_is_not_compiled_is_not_measured(sides, tmp_path):
    unfinished = make_bundle(tmp_path / "unfinished", measured=False).path
    with pytest.raises(BundleError, match="is not compiled yet"):
        gate((sides[0], unfinished))


def test_folders_of_bundles_are_compared_by_name(tmp_path, measured, capsys):
    for side, names in (("old", ("a", "b")), ("new-candidate", ("a", "b", "c"))):
        for name in names:
            make_bundle(tmp_path / side / name / f"{side}-bundle")
    for side in ("old", "new-candidate"):  # the same places in both
        for at in (tmp_path / side).iterdir():
            next(at.iterdir()).rename(at / "bundle")
    measured()
    assert gate((tmp_path / "old", tmp_path / "new-candidate")) == 0
    out = capsys.readouterr().out
    assert "a/bundle on here, 7 rounds" in out
    assert "b/bundle on here, 7 rounds" in out
    assert "c/bundle has no baseline in" in out
    assert "not compared, as both are the same engine" in out
    with pytest.raises(ValueError, match="has no bundle 'c/bundle' as"):
        gate((tmp_path / "new-candidate", tmp_path / "old"))


def test_a_folder_without_bundles_says_so(tmp_path, sides):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty is no bundle and holds none"):
        gate((sides[0], tmp_path / "empty"))


@pytest.fixture
def engines(tmp_path):
    (tmp_path / "one.onnx").write_bytes(student().SerializeToString())
    (tmp_path / "two.onnx").write_bytes(spoilt(student(), 1e-3).SerializeToString())
    return tmp_path / "one.onnx", tmp_path / "two.onnx"


@pytest.fixture
def device(tmp_path, make_profile):
    """A profile of this machine in a file."""
    profile = make_profile().model_dump(mode="json", exclude_defaults=True, exclude={"budget"})
    lines = [f"{key} = {json.dumps(value)}" for key, value in profile.items()]
    lines += ["[budget]", "p50_ms = 10.0", "p90_ms = 20.0", "p99_ms = 30.0"]
    path = tmp_path / "here.toml"
    path.write_text("\n".join(lines))
    return path


def test_bare_engines_are_compared_as_a_device_runs_them(engines, device, measured, capsys):
    fake = measured()
    assert gate(engines, "--device", device) == 0
    assert "two on here, 7 rounds" in capsys.readouterr().out
    assert {bundle.name for bundle in fake.order} == {"baseline", "candidate"}
    # what was sealed for it is gone afterwards
    assert not any(bundle.exists() for bundle in fake.order)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, b: ((a, b), ()), "does not say what device it is for: name one with --device"),
        (lambda a, b: ((a, a.parent), ()), "are a file and a folder"),
        (lambda a, b: ((a, a.parent / "x.bin"), ("--device", "cpu")), "is not an .onnx file"),
    ],
)
def test_bare_engines_that_cannot_be_compared(engines, change, message):
    (engines[0].parent / "x.bin").write_bytes(b"x")
    which, argv = change(*engines)
    with pytest.raises(ValueError, match=message):
        gate(which, *argv)


def test_bare_engines_cannot_be_trusted(engines, device, tmp_path):
    key = Ed25519PrivateKey.generate().public_key()
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    (tmp_path / "maker.pub").write_bytes(key.public_bytes(serialization.Encoding.PEM, form))
    with pytest.raises(ValueError, match="carries no signature"):
        gate(engines, "--device", device, "--key", tmp_path / "maker.pub")


def test_a_bundle_says_itself_what_it_is_for(sides, device):
    with pytest.raises(ValueError, match="--device is for bare engines"):
        gate(sides, "--device", device)


def test_what_was_measured_is_remembered(sides, measured):
    measured()
    gate(sides)
    entries = remembered()
    assert [type(one) for one in entries] == [Steady, Steady]
    assert {one.name for one in entries} == {"tiny on here"}
    gate((sides[0], sides[0]))
    assert [type(one) for one in remembered()[2:]] == [Steady, Equal]


def test_the_history_may_be_another_file(sides, measured, tmp_path):
    measured()
    gate(sides, "--history", tmp_path / "mine.jsonl")
    assert len(recall(tmp_path / "mine.jsonl")) == 2
    assert remembered() == []


def test_a_history_that_cannot_be_written_fails_no_gate_unless_asked_for(
    sides, measured, tmp_path, capsys, monkeypatch
):
    measured()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("POCKETGAN_HISTORY", str(tmp_path / "file"))
    monkeypatch.setattr("deploy.gate_history.recall", lambda path: [])
    assert gate(sides) == 0
    assert "this machine's history is not kept" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(OSError, match="file"):
        gate(sides, "--history", tmp_path / "file" / "h.jsonl")


def test_how_far_equal_engines_were_apart_raises_the_floor(sides, measured, tmp_path, capsys):
    measured()
    gate((sides[0], sides[0]))
    (_, equal) = remembered()
    shaky = [equal.model_copy(update={"slowdown": 0.1 * (n % 2)}) for n in range(8)]
    history = tmp_path / "shaky.jsonl"
    history.write_text("".join(f"{one.model_dump_json()}\n" for one in shaky))
    measured(steady=1.2)
    assert gate(sides, "--history", history) == 0
    assert "equal engines seemed 10.0% apart on this machine before" in capsys.readouterr().out


def stored(store, candidate, *argv, name="restore"):
    return run("--baseline", f"store:{name}", "--candidate", candidate, "--store", store, *argv)


def test_without_a_baseline_nothing_is_compared_and_it_passes(sides, measured, tmp_path, capsys):
    fake = measured()
    files = [tmp_path / name for name in ("r.json", "r.md", "r.xml")]
    options = zip(("--json", "--markdown", "--junit"), files, strict=True)
    status = stored(tmp_path / "s", sides[1], *(word for option in options for word in option))
    assert status == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "no baseline for restore on here in" in out
    assert "nothing was compared" in out
    assert len(fake.order) == 3
    assert Steady.model_validate_json(files[0].read_text()).name == "restore on here"
    assert files[1].read_text().startswith("### Latency gate: no baseline\n")
    assert "skipped" in files[2].read_text()
    assert not (tmp_path / "s").exists()


def test_without_a_baseline_history_warns(sides, measured, tmp_path, capsys):
    measured()
    stored(tmp_path / "s", sides[1])
    measured(steady=1.5)
    assert stored(tmp_path / "s", sides[1]) == 0
    assert "warning: restore on here takes 7." in " ".join(capsys.readouterr().out.split())


def test_a_candidate_that_passes_becomes_the_baseline(sides, measured, tmp_path, capsys):
    measured()
    store = tmp_path / "s"
    assert stored(store, sides[0], "--accept") == 0
    first = Store(store).accepted("restore", "here")
    assert "accepted as the baseline of restore on here" in capsys.readouterr().out
    assert stored(store, sides[1]) == 0  # not asked to accept
    assert Store(store).accepted("restore", "here") == first
    assert stored(store, sides[1], "--accept") == 0
    assert Store(store).accepted("restore", "here").before == first.sha256


@pytest.mark.parametrize("options", [{"steady": 1.3}, {"noise": 1.0, "seed": 2}])
def test_a_candidate_that_does_not_pass_is_not_accepted(sides, measured, tmp_path, options):
    store = tmp_path / "s"
    measured()
    stored(store, sides[0], "--accept")
    first = Store(store).accepted("restore", "here")
    measured(**options)
    assert stored(store, sides[1], "--accept") in (1, 2)
    assert Store(store).accepted("restore", "here") == first


@pytest.mark.parametrize(
    ("noise", "steady", "status", "words"),
    [
        (0.001, 1.1, 0, "nothing speaks against this gate on this machine"),
        (0.001, 1.0, 1, "slow-downs pass more often than 5% here"),
        (1.0, 1.0, 2, "cannot say: every slower engine was inconclusive here"),
    ],
)
def test_self_test(sides, monkeypatch, tmp_path, capsys, noise, steady, status, words):
    fake = FakeMeasure(this_machine(), noise=noise, seed=3)

    def measure(bundle, *, work=0):
        # extra work slows a bundle only where this machine is honest
        once = fake(bundle)
        factor = steady if work else 1.0
        samples = tuple(factor * sample for sample in once.samples_ms)
        return once.model_copy(update={"samples_ms": samples})

    monkeypatch.setattr("devices.measure_once.in_fresh_process", measure)
    options = ("--self-test", "--gates", 4, "--json", tmp_path / "r.json")
    assert run("--baseline", sides[0], *options) == status
    out = capsys.readouterr().out
    assert words in out
    assert "equal engines, called slower (false alarms)" in out
    assert max(map(len, out.splitlines())) <= 100
    report = SelfTestReport.model_validate_json((tmp_path / "r.json").read_text())
    assert len(report.trials) == 8
    assert [type(one) for one in remembered()] == [Equal] * 4


@pytest.mark.slow
def test_a_gate_of_real_processes(tmp_path, monkeypatch, capfd):
    monkeypatch.undo()  # the real watch too
    monkeypatch.setenv("COLUMNS", "100")
    bundle = make_bundle(tmp_path / "bundle", profile={"backends": ("onnxruntime",)}).path
    history = tmp_path / "history.jsonl"
    report = tmp_path / "r.json"
    files = ("--json", report, "--history", history, "--rounds", 12)
    status = gate((bundle, bundle), *files)
    read = GateReport.model_validate_json(report.read_text())
    assert status == read.exit_status
    assert read.conditions is not None
    assert read.conditions.readings > 0
    (pair,) = read.pairs
    assert pair.images is None
    assert all(len(once.samples_ms) >= 16 for once in pair.baseline)
    assert pair.baseline[0].machine == this_machine()
    assert f"tiny on here, {len(pair.baseline)} rounds" in capfd.readouterr().out
