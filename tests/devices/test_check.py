import json
import time

import pytest

from devices import check, latency
from devices.check import measure_bundle, noise, ready
from devices.latency import UNWATCHED, LatencyReport, Mode, read_report
from devices.measure_once import in_fresh_process, main
from devices.profile import load_profile
from devices.sealed import BundleError
from devices.session import DeviceError


class FakeWatch:
    """Saw what it was told to see, and remembers when it was entered."""

    def __init__(self, log, conditions=UNWATCHED):
        self.log = log
        self.saw = conditions

    def __enter__(self):
        self.log.append("watch")

    def __exit__(self, *args):
        self.log.append("watched")

    def conditions(self):
        return self.saw


@pytest.fixture
def quick(monkeypatch):
    """Every mode ends after a blink."""
    for name in ("rapid", "fast", "normal"):
        monkeypatch.setitem(latency.MODES, name, Mode(44, 0.0, 5.0))
    monkeypatch.setattr("devices.measure_once.MODE", Mode(5, 0.0, 5.0))


@pytest.fixture
def measured(make_bundle, quick):
    """Measures with everything outside of this process faked; a report and what happened."""

    def measure(**mode):
        log = []
        latency.MODES["fast"] = Mode(44, 0.0, 5.0, **mode)
        report = measure_bundle(
            make_bundle(),
            cold_start=lambda bundle: log.append("cold") or 600.0 + len(log),
            watch=FakeWatch(log, UNWATCHED.model_copy(update={"energy_mj": 4400.0})),
            on_phase=lambda words: log.append(words.split(",")[0]),
            sleep=lambda seconds: log.append(seconds),
        )
        return report, log

    return measure


@pytest.fixture
def report(measured) -> LatencyReport:
    return measured()[0]


def test_a_report_says_what_was_measured_and_where(report):
    assert (report.profile, report.backend, report.precision) == ("cpu", "onnxruntime", "fp32")
    assert report.image_size == 16
    assert report.fingerprint == report.machine.fingerprint()
    assert len(report.engine_sha256) == 64
    assert len(report.samples_ms) >= 44
    assert min(report.load_ms, report.first_ms, report.peak_rss_mib, *report.samples_ms) > 0
    assert report.mode == "fast"
    assert report.p50.value_ms <= report.p50.upper_ms <= report.p90.upper_ms
    assert report.p99 is None


def test_a_report_survives_a_file(report):
    assert read_report(report.model_dump_json()) == report
    assert json.loads(report.model_dump_json())["schema_version"] == 2


def test_cold_starts_and_a_pause_come_before_anything_is_loaded(measured):
    report, log = measured(cold_starts=2, cooldown_s=1.5)
    assert log == [
        "2 cold starts",
        "cold",
        "cold",
        "1.5 s to cool down",
        1.5,
        "load",
        "watch",
        "watched",
    ]
    assert report.cold_ms == (602.0, 603.0)


def test_a_mode_without_cold_starts_and_pause_has_neither(measured):
    report, log = measured()
    assert log == ["load", "watch", "watched"]
    assert report.cold_ms == ()


def test_energy_is_that_of_the_watch_over_its_images(report):
    assert report.energy_mj_per_image == 4400.0 / len(report.samples_ms)


def test_a_board_without_a_meter_tells_no_energy(make_report):
    assert make_report().energy_mj_per_image is None


def test_the_image_is_the_same_every_time(profile):
    image = noise(profile)
    assert image.shape == (1, 3, 16, 16)
    assert image.dtype == "float32"
    assert -1 <= image.min() < -0.9 < 0.9 < image.max() <= 1
    assert (image == noise(profile)).all()


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


def test_a_fresh_process_that_prints_nonsense(tmp_path):
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho no json\n")
    program.chmod(0o755)
    with pytest.raises(DeviceError, match="printed no measurement: it said nothing"):
        in_fresh_process(tmp_path, python=str(program))


def test_a_fresh_process_that_hangs(tmp_path, monkeypatch):
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setattr("devices.measure_once.TIME_LIMIT_S", 0.05)
    with pytest.raises(DeviceError, match=r"took over 0\.05 s"):
        in_fresh_process(tmp_path, python=str(program))


def test_one_measurement_is_one_line_of_json(make_bundle, quick, capsys):
    assert main([str(make_bundle()), str(time.monotonic_ns())]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert len(json.loads(line)["samples_ms"]) >= 5
