import json
import sys

import pytest

from devices import check, latency
from devices.check import measure_bundle, noise, over_budget, ready
from devices.latency import LatencyReport, Mode
from devices.measure_once import in_fresh_process, main
from devices.percentiles import Percentile
from devices.profile import LatencyBudget, load_profile
from devices.sealed import BundleError
from devices.session import DeviceError

BUDGET = LatencyBudget(p50_ms=10, p90_ms=20, p99_ms=30)


@pytest.fixture
def quick(monkeypatch):
    """Every mode ends after a blink."""
    for name in ("rapid", "fast", "normal"):
        monkeypatch.setitem(latency.MODES, name, Mode(44, 0.0, 5.0))
    monkeypatch.setattr("devices.measure_once.MODE", Mode(5, 0.0, 5.0))


@pytest.fixture
def report(make_bundle, quick) -> LatencyReport:
    return measure_bundle(make_bundle())


def test_a_report_says_what_was_measured_and_where(report):
    assert (report.profile, report.backend, report.precision) == ("cpu", "onnxruntime", "fp32")
    assert report.image_size == 16
    assert report.fingerprint == report.machine.fingerprint()
    assert len(report.engine_sha256) == 64
    assert len(report.samples_ms) >= 44
    assert min(report.load_ms, report.first_ms, report.peak_rss_mib, *report.samples_ms) > 0
    assert report.p50.value_ms <= report.p50.upper_ms <= report.p90.upper_ms
    assert report.p99 is None


def test_a_report_survives_a_file(report):
    assert LatencyReport.model_validate_json(report.model_dump_json()) == report
    assert json.loads(report.model_dump_json())["schema_version"] == 1


def test_the_image_is_the_same_every_time(profile):
    image = noise(profile)
    assert image.shape == (1, 3, 16, 16)
    assert image.dtype == "float32"
    assert -1 <= image.min() < -0.9 < 0.9 < image.max() <= 1
    assert (image == noise(profile)).all()


@pytest.mark.parametrize(
    ("p50", "p99", "memory", "reasons"),
    [
        pytest.param((8, 9), (20, 29), 100, [], id="within"),
        pytest.param((8, 9), None, 100, [], id="a percentile that cannot be judged"),
        pytest.param((12, 13), (20, 29), 100, ["p50 is 12.00 ms, the budget is 10 ms"], id="over"),
        pytest.param(
            (8, 9),
            (20, 31),
            100,
            [
                "p99 is 20.00 ms but may be 31.00 ms, the budget is 30 ms: measure longer "
                "(--mode normal) or on a quieter machine"
            ],
            id="not shown",
        ),
        pytest.param(
            (8, 9), (20, 29), 513, ["peak memory is 513 MiB, the budget is 512 MiB"], id="memory"
        ),
    ],
)
def test_over_budget(report, p50, p99, memory, reasons):
    def bound(pair):
        return pair and Percentile(value_ms=float(pair[0]), upper_ms=float(pair[1]))

    changed = report.model_copy(
        update={
            "p50": bound(p50),
            "p90": bound((1, 2)),
            "p99": bound(p99),
            "peak_rss_mib": float(memory),
        }
    )
    assert over_budget(changed, BUDGET, 512) == reasons


def test_a_bundle_that_is_not_compiled_says_how_to_finish_it(make_bundle):
    bundle = make_bundle(profile=load_profile("jetson"), compiled=False)
    with pytest.raises(
        BundleError, match=r"not compiled yet: .*`pocketgan deploy EXPORT --device jetson`"
    ):
        ready(bundle)


def test_another_machine_is_refused_with_the_reasons(make_bundle, machine):
    bundle = make_bundle(profile=load_profile("raspberrypi5"))
    with pytest.raises(
        DeviceError, match=r"for raspberrypi5 and this machine is not one: it is x86_64, .*board"
    ):
        ready(bundle, machine)


def test_a_fresh_process_measures_a_bundle(make_bundle):
    once = in_fresh_process(make_bundle())
    assert len(once.samples_ms) >= 16
    assert once.machine == check.this_machine()


def test_a_fresh_process_that_fails_says_why(tmp_path):
    with pytest.raises(DeviceError, match=r"failed with status 2: .*manifest\.json is missing"):
        in_fresh_process(tmp_path)


def test_a_fresh_process_that_prints_nonsense(tmp_path, monkeypatch):
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho no json\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(DeviceError, match="printed no measurement: it said nothing"):
        in_fresh_process(tmp_path)


def test_a_fresh_process_that_hangs(tmp_path, monkeypatch):
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr("devices.measure_once.TIME_LIMIT_S", 0.05)
    with pytest.raises(DeviceError, match=r"took over 0\.05 s"):
        in_fresh_process(tmp_path)


def test_one_measurement_is_one_line_of_json(make_bundle, quick, capsys):
    assert main([str(make_bundle())]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert len(json.loads(line)["samples_ms"]) >= 5
