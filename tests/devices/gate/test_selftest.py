import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from devices.gate.history import Equal, recall
from devices.gate.rates import at_least, at_most
from devices.gate.report import Once
from devices.gate.rounds import compare
from devices.gate.selftest import (
    Twins,
    calibrated_units,
    known_gate,
    rate,
    run_self_test,
)
from devices.machine import Machine

UNIT_MS = 0.002


@dataclass
class Pretended:
    """A machine that takes no time: 5 ms an image and 2 us for each unit of work, with noise."""

    machine: Machine
    noise: float = 0.01
    seed: int = 0
    asked: list[tuple[Path, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.seed)

    def __call__(self, bundle, *, work=0):
        self.asked.append((bundle, work))
        median = (5.0 + work * UNIT_MS) * math.exp(self._rng.normal(0, self.noise))
        return Once(
            machine=self.machine,
            cold_ms=500.0,
            load_ms=100.0,
            first_ms=10.0,
            samples_ms=(median,) * 5,
            peak_rss_mib=100.0,
        )


def test_a_quiet_machine_finds_the_work_and_raises_no_alarm(make_bundle, machine):
    report = run_self_test(make_bundle(), Pretended(machine), gates=6)
    assert (report.false_alarms.hits, report.false_alarms.of) == (0, 6)
    assert (report.caught.hits, report.caught.of) == (6, 6)
    assert report.missed.hits == 0
    assert report.injected == pytest.approx(0.1, abs=0.02)
    assert report.spread is not None
    assert report.spread < 0.02
    assert [trial.kind for trial in report.trials] == ["equal", "slower"] * 6
    assert report.fingerprint == machine.fingerprint()


def test_a_noisy_machine_says_that_it_cannot_say(make_bundle, machine):
    report = run_self_test(make_bundle(), Pretended(machine, noise=0.3), gates=4)
    assert report.false_alarms.hits == 0
    assert report.caught.hits + report.missed.hits < 4
    assert "inconclusive" in {trial.verdict for trial in report.trials}


def test_only_the_copy_works_and_only_in_every_other_gate(make_bundle, machine):
    bundle, measure = make_bundle(), Pretended(machine)
    report = run_self_test(bundle, measure, gates=1)
    copies = {path for path, _ in measure.asked} - {bundle}
    assert len(copies) == 1
    assert not copies.pop().exists()  # it was for the test only
    in_gates = measure.asked[-2 * sum(trial.rounds for trial in report.trials) :]
    assert {work for path, work in in_gates if path == bundle} == {0}
    assert {work for path, work in in_gates if path != bundle} == {0, report.units}


def test_the_estimates_of_equal_candidates_are_remembered(make_bundle, machine, tmp_path):
    path = tmp_path / "h.jsonl"
    report = run_self_test(make_bundle(), Pretended(machine), gates=3, history=path)
    entries = recall(path)
    assert all(isinstance(entry, Equal) for entry in entries)
    assert [entry.slowdown for entry in entries] == [
        trial.slowdown for trial in report.trials if trial.kind == "equal"
    ]


def test_a_gate_is_given_and_used(make_bundle, machine):
    asked = []

    def gate(pairs, measure):
        asked.append([pair.name for pair in pairs])
        return compare(pairs, measure, rounds=12)

    report = run_self_test(make_bundle(), Pretended(machine, noise=0.2), gates=2, gate=gate)
    assert asked == [["self-test"]] * 4
    assert max(trial.rounds for trial in report.trials) <= 12


def test_progress_is_told(make_bundle, machine):
    told = []
    run_self_test(
        make_bundle(),
        Pretended(machine),
        gates=2,
        on_trial=lambda done, trial: told.append((done, trial.kind)),
    )
    assert told == [(1, "equal"), (2, "slower"), (3, "equal"), (4, "slower")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gates": 0}, "at least one gate of each kind, got 0"),
        ({"slowdown": 0.0}, r"between 0 and 10 \(0.1 is 10 %\), got 0.0"),
        ({"slowdown": 10.0}, r"between 0 and 10 \(0.1 is 10 %\), got 10.0"),
    ],
)
def test_what_makes_no_test_is_refused(make_bundle, machine, options, message):
    with pytest.raises(ValueError, match=message):
        run_self_test(make_bundle(), Pretended(machine), **options)


@pytest.mark.parametrize("slowdown", [0.05, 0.1, 0.5])
def test_work_is_calibrated_as_it_is_measured(make_bundle, machine, slowdown):
    units = calibrated_units(make_bundle(), Pretended(machine, noise=0.002), slowdown)
    assert units * UNIT_MS / 5 == pytest.approx(slowdown, rel=0.1)


def test_a_hopeless_machine_still_gets_some_work(make_bundle, machine):
    class Backwards(Pretended):
        def __call__(self, bundle, *, work=0):
            return super().__call__(bundle, work=-min(work, 1000))

    assert calibrated_units(make_bundle(), Backwards(machine, noise=0.0), 0.1) >= 1


def test_a_known_gate_of_equals_gives_no_work(make_bundle, machine):
    measure = Pretended(machine)
    report = known_gate(Twins(make_bundle("a"), make_bundle("b")), measure, units=0)
    assert {work for _, work in measure.asked} == {0}
    assert report.pairs[0].name == "self-test"


def test_limits_are_those_of_clopper_and_pearson():
    # with no hit: 1 - 0.05 ** (1 / n)
    assert at_most(0, 300) == pytest.approx(1 - 0.05 ** (1 / 300))
    assert at_least(100, 100) == pytest.approx(0.05 ** (1 / 100))
    # tables: 1 of 20, one-sided 95 %
    assert at_most(1, 20) == pytest.approx(0.2161, abs=1e-4)
    assert at_least(1, 20) == pytest.approx(0.00256, abs=1e-5)
    assert (at_least(0, 5), at_most(5, 5)) == (0.0, 1.0)


def test_of_nothing_nothing_is_known():
    none = rate(0, 0)
    assert (none.at_least, none.at_most) == (0.0, 1.0)
