"""The fixture `latency_gate` in suites of others, with measurements that are made up."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from deploy.baselines import Store
from deploy.cache_lock import hold
from deploy.gate_in_suites import alone, file_name, find_baseline
from deploy.pytest_gate import KEPT

# so that sessions inside of these tests do not import (and forget) them again and again
from devices.gate import history, markdown  # noqa: F401
from devices.gate.report import GateReport
from devices.profile import load_profile
from devices.sealed import MANIFEST, digest, seal_text

pytest_plugins = ["pytester"]

CONFTEST = """
import numpy as np
import pytest
from devices.gate.report import Once
from devices.machine import Machine

pytest_plugins = ["deploy.pytest_gate"]

MACHINE = Machine(
    cpu="Test CPU", architecture="x86_64", cores=2, memory_mib=8000, system="Linux", runtimes={}
)

@pytest.fixture
def latency_measure():
    random = np.random.default_rng(0)

    def measure(bundle):
        _, middle_ms, spread = bundle.name.split("_")
        ms = float(middle_ms) * float(np.exp(random.normal(0, float(spread))))
        return Once(
            machine=MACHINE, cold_ms=100.0, load_ms=50.0, first_ms=10.0, samples_ms=(ms,) * 3,
            peak_rss_mib=100.0,
        )

    return measure

@pytest.fixture
def latency_watching():
    return None
"""


def make_bundle(folder: Path) -> Path:
    """A sealed bundle, as far as a gate looks at it; its name says how fast it is."""
    folder.mkdir(parents=True)
    (folder / "engine.onnx").write_bytes(b"engine")
    manifest = {
        "schema_version": 1,
        "engine_file": "engine.onnx",
        "compiled": True,
        "backend": "onnxruntime",
        "precision": "fp32",
        "profile": json.loads(load_profile("cpu").model_dump_json()),
        "sha256": {"engine.onnx": digest(folder / "engine.onnx")},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest))
    (folder / f"{MANIFEST}.sha256").write_text(seal_text(digest(folder / MANIFEST), MANIFEST))
    return folder


@pytest.fixture
def suite(pytester, monkeypatch):
    """A suite of a user, with bundles of known speed beside it."""
    for variable in ("POCKETGAN_CACHE", "POCKETGAN_HISTORY"):
        monkeypatch.setenv(variable, str(pytester.path / variable.lower()))
    pytester.makeconftest(CONFTEST)
    for name in ("old_5.0_0.01", "new_5.0_0.01", "slow_5.6_0.01", "noisy_5.0_0.4"):
        make_bundle(pytester.path / name)
    return pytester


def one(suite, call: str) -> None:
    suite.makepyfile(test_speed=f"def test_it(latency_gate):\n    {call}\n")


def test_an_equal_bundle_passes_and_the_report_comes_back(suite):
    one(
        suite,
        "report = latency_gate('new_5.0_0.01', baseline='old_5.0_0.01')\n"
        "    assert report.verdict == 'pass'\n"
        "    assert report.pairs[0].name == 'test_it'\n"
        "    assert abs(report.pairs[0].cell('steady').slowdown) < 0.02",
    )
    result = suite.runpytest_inprocess()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [
            "*= latency gates =*",
            "verdict *growth *at most *floor *rounds *seconds *test",
            "pass * 5% * test_speed.py::test_it",
        ]
    )


def test_a_slower_bundle_fails_with_the_sentence_and_no_traceback(suite):
    one(suite, "latency_gate('slow_5.6_0.01', baseline='old_5.0_0.01')")
    result = suite.runpytest_inprocess()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["latency gate: slower", "  latency +1*% (p = *), the floor is 5%", "slower *test_it"]
    )
    assert "pytest_gate.py" not in result.stdout.str()


@pytest.mark.parametrize(
    ("setting", "outcome"),
    [
        ("", {"skipped": 1}),
        ("skip", {"skipped": 1}),
        ("fail", {"failed": 1}),
        ("pass", {"passed": 1}),
    ],
)
def test_what_cannot_be_said_is_skipped_or_as_the_suite_wants_it(suite, setting, outcome):
    one(suite, "latency_gate('noisy_5.0_0.4', baseline='old_5.0_0.01', rounds=12)")
    if setting:
        suite.makeini(f"[pytest]\nlatency_gate_inconclusive = {setting}\n")
    result = suite.runpytest_inprocess("-rs")
    result.assert_outcomes(**outcome)
    result.stdout.fnmatch_lines(["inconclusive * test_speed.py::test_it"])
    if outcome != {"passed": 1}:
        result.stdout.fnmatch_lines(["*latency gate: inconclusive*"])


def test_a_setting_that_is_none_is_refused_with_those_that_are(suite):
    suite.makeini("[pytest]\nlatency_gate_inconclusive = ignore\n")
    result = suite.runpytest_inprocess()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*latency_gate_inconclusive = 'ignore'*skip, fail, pass*"])


def test_a_summary_that_could_not_be_written_is_refused_before_measuring(suite):
    result = suite.runpytest_inprocess("--latency-markdown", "no/such/summary.md")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*there is no folder no/such; make it first*"])


def test_reports_and_summary_are_written_for_every_gate(suite):
    suite.makepyfile(
        test_speed="""
        import pytest

        @pytest.mark.parametrize("new", ["new_5.0_0.01", "slow_5.6_0.01"])
        def test_it(latency_gate, new):
            latency_gate(new, baseline="old_5.0_0.01")

        def test_two(latency_gate):
            latency_gate("new_5.0_0.01", baseline="old_5.0_0.01")
            latency_gate("new_5.0_0.01", baseline="old_5.0_0.01")
        """
    )
    (suite.path / "summary.md").write_text("what was there\n\n")
    result = suite.runpytest_inprocess(
        "--latency-json", "reports", "--latency-markdown", "summary.md"
    )
    result.assert_outcomes(passed=2, failed=1)
    reports = [
        GateReport.model_validate_json(path.read_text())
        for path in (suite.path / "reports").iterdir()
    ]
    assert sorted(report.verdict for report in reports) == ["pass", "pass", "pass", "slower"]
    summary = (suite.path / "summary.md").read_text()
    assert summary.startswith("what was there\n\n")
    assert summary.count("Latency gate:") == 4
    assert "test\\_two" in summary  # names of others are no markup


def test_without_a_gate_nothing_is_said_or_written(suite):
    suite.makepyfile("def test_it(): pass")
    result = suite.runpytest_inprocess("--latency-markdown", "summary.md")
    result.assert_outcomes(passed=1)
    assert "latency gates" not in result.stdout.str()
    assert not (suite.path / "summary.md").exists()


def test_a_budget_is_judged_as_well(suite):
    suite.makepyfile(
        test_speed="""
        def test_within(latency_gate):
            latency_gate("new_5.0_0.01", baseline="old_5.0_0.01", budget_ms=6)

        def test_over(latency_gate):
            latency_gate("new_5.0_0.01", baseline="old_5.0_0.01", budget_ms=4)

        def test_not_shown(latency_gate):
            latency_gate("new_5.0_0.01", baseline="old_5.0_0.01", budget_ms=5.01)

        def test_both(latency_gate):
            latency_gate("slow_5.6_0.01", baseline="old_5.0_0.01", budget_ms=4)
        """
    )
    result = suite.runpytest_inprocess("-rs")
    result.assert_outcomes(passed=1, failed=2, skipped=1)
    result.stdout.fnmatch_lines_random(
        [
            "  the median is [45].[09]* ms, the budget is 4 ms",
            "  the median is 5.[56]* ms, the budget is 4 ms",
            "*inconclusive: the median is * ms but may be * ms, the budget is 5.01 ms",
        ]
    )


def test_a_throttled_machine_says_nothing_of_a_budget_either(suite):
    with (suite.path / "conftest.py").open("a") as file:
        file.write(
            """
from devices.telemetry.conditions import Conditions

class Hot:
    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def conditions(self):
        sentence = "throttled: the board says so"
        return Conditions(
            seconds=1, readings=2, readers=(), clocks_mhz={}, temperatures_c={}, power_mw={},
            throttled=("hot",), other_load=None, energy_mj=None,
            disturbed=(sentence,), unsteady=(sentence,),
        )

@pytest.fixture
def latency_watching():
    return Hot
"""
        )
    one(suite, "latency_gate('slow_5.6_0.01', baseline='old_5.0_0.01', budget_ms=4)")
    result = suite.runpytest_inprocess("-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*inconclusive: throttled: the board says so"])


def test_baselines_may_lie_in_a_folder_of_their_own(suite):
    make_bundle(suite.path / "kept" / "released_5.0_0.01")
    one(suite, "latency_gate('new_5.0_0.01', baseline='released_5.0_0.01')")
    suite.runpytest_inprocess("--latency-baseline", "kept").assert_outcomes(passed=1)
    result = suite.runpytest_inprocess()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*no bundle at released_5.0_0.01; name the folder*"])


def test_a_baseline_may_be_what_was_accepted(tmp_path):
    new = make_bundle(tmp_path / "new")
    with pytest.raises(ValueError, match=r"where is store:restore\? Name the folder"):
        find_baseline("store:restore", new, None)
    with pytest.raises(ValueError, match="pocketgan gate --accept --baseline store:restore"):
        find_baseline("store:restore", new, tmp_path / "store")
    accepted = Store(tmp_path / "store").accept("restore", new)
    found = find_baseline("store:restore", new, tmp_path / "store")
    assert digest(found / MANIFEST) == accepted.sha256


def test_what_cannot_be_measured_is_one_sentence(suite):
    suite.makepyfile(
        test_speed="""
        def test_baseline(latency_gate):
            latency_gate("new_5.0_0.01", baseline="no/such/bundle")

        def test_candidate(latency_gate):
            latency_gate("no/such/bundle", baseline="old_5.0_0.01")

        def test_rounds(latency_gate):
            latency_gate("new_5.0_0.01", baseline="old_5.0_0.01", rounds=3)
        """
    )
    result = suite.runpytest_inprocess("--latency-baseline", "kept")
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines_random(
        [
            "*no bundle at no/such/bundle nor kept/no/such/bundle; keep one there",
            "the latency gate could not measure: *no/such/bundle*",
            "the latency gate could not measure: a verdict needs at least 12 rounds, got 3",
        ]
    )


def test_what_a_worker_reports_survives_the_way_to_the_main_process(suite):
    """pytest-xdist sends reports as JSON: what the summary needs must be on them."""
    one(suite, "latency_gate('new_5.0_0.01', baseline='old_5.0_0.01')")
    record = suite.inline_run()
    (called,) = (
        report for report in record.getreports("pytest_runtest_logreport") if report.when == "call"
    )
    sent = json.loads(json.dumps(called._to_json()))
    (line,) = vars(pytest.TestReport._from_json(sent))[KEPT]
    assert json.loads(line)["verdict"] == "pass"


def test_gates_do_not_run_side_by_side(tmp_path):
    order = []

    def other():
        with alone(tmp_path):
            order.append("second")

    with alone(tmp_path):
        thread = threading.Thread(target=other)
        thread.start()
        with hold(tmp_path / "latency-gate.lock", wait=False) as held:
            assert not held
        time.sleep(0.05)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


def test_names_of_reports_are_short_and_never_the_same():
    long = "tests/test_speed.py::test_it[" + "x" * 400 + "/../y]"
    names = {file_name(long, 1.0), file_name(long, 2.0), file_name(f"{long} ", 1.0)}
    assert len(names) == 3
    assert all(len(name) < 120 and "/" not in name for name in names)


def test_the_example_is_one(pytester):
    for path in (Path(__file__).parents[2] / "examples" / "ci").glob("*.py"):
        (pytester.path / path.name).write_bytes(path.read_bytes())
    result = pytester.runpytest_inprocess("--latency-baseline", "baselines")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines_random(["*build/restore/cpu/bundle*", "*release/bundle*"])


def test_by_default_fresh_processes_are_measured_on_a_machine_that_is_watched(pytester):
    pytester.makeconftest("pytest_plugins = ['deploy.pytest_gate']")
    pytester.makepyfile(
        """
        from devices.measure_once import in_fresh_process

        def test_it(latency_measure, latency_watching):
            assert latency_measure is in_fresh_process
            with latency_watching() as watch:
                pass
            assert watch.conditions().readings >= 1
        """
    )
    pytester.runpytest_inprocess().assert_outcomes(passed=1)
