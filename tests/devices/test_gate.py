import math

import numpy as np
import pytest

from devices.gate import (
    EXIT_STATUS,
    GateReport,
    Once,
    compare,
    judge,
    rounds_wanted,
    visible_slowdown,
)
from devices.profile import load_profile
from devices.sealed import MANIFEST, BundleError, digest


def simulate(seed, *, slowdown=0.0, noise=0.02, rounds=10, drift=0.1):
    """Medians of a made-up gate: a drift that both sides of a round share, and noise of each."""
    rng = np.random.default_rng(seed)
    weather = 5.0 * np.exp(rng.normal(0, drift, rounds))
    baseline = weather * np.exp(rng.normal(0, noise, rounds))
    candidate = weather * (1 + slowdown) * np.exp(rng.normal(0, noise, rounds))
    return list(baseline), list(candidate)


def verdicts(count, **options):
    return [judge(*simulate(seed, **options)).verdict for seed in range(count)]


@pytest.mark.parametrize("noise", [0.005, 0.02, 0.05, 0.2])
def test_a_candidate_that_is_equal_is_not_called_slower(noise):
    assert verdicts(300, noise=noise).count("slower") <= 2


def test_a_quiet_machine_passes_what_is_equal():
    assert verdicts(200, noise=0.02).count("pass") >= 190


@pytest.mark.parametrize("noise", [0.005, 0.02, 0.05])
def test_a_slow_down_of_a_fifth_is_found(noise):
    assert verdicts(200, noise=noise, slowdown=0.2).count("slower") >= 195


@pytest.mark.parametrize("noise", [0.01, 0.05, 0.1, 0.3])
def test_a_slow_down_at_the_floor_seldom_passes(noise):
    assert verdicts(200, noise=noise, slowdown=0.05).count("pass") <= 0.08 * 200


def test_huge_noise_is_inconclusive():
    assert verdicts(100, noise=0.3).count("inconclusive") >= 80  # the rest look much faster


def test_a_faster_candidate_passes_in_noise_too():
    assert set(verdicts(50, noise=0.03, slowdown=-0.3)) == {"pass"}


def test_a_drift_that_both_sides_share_does_no_harm():
    assert set(verdicts(50, noise=0.001, drift=0.5)) == {"pass"}


def test_significant_and_small_is_not_slower():
    baseline = [5.0 + 0.001 * number for number in range(12)]
    judgement = judge(baseline, [1.02 * value for value in baseline])
    assert judgement.p_value < 0.002
    assert judgement.verdict == "pass"
    assert judgement.slowdown == pytest.approx(0.02)


def test_one_wild_round_does_not_make_it_slower():
    baseline, candidate = simulate(0, noise=0.01)
    candidate[4] *= 10
    assert judge(baseline, candidate).verdict == "pass"


def test_slower_says_how_much_and_how_sure():
    judgement = judge([5.0] * 10, [6.0 + 0.001 * number for number in range(10)])
    assert judgement.reason == "+20.1% (p = 0.00098), the floor is 5%"


def test_inconclusive_says_what_it_could_have_seen_and_what_to_try():
    judgement = judge(*simulate(1, noise=0.1))
    assert judgement.verdict == "inconclusive"
    assert f"show slow-downs from {judgement.visible:.0%} on" in judgement.reason
    assert judgement.reason.endswith(f"try --rounds {judgement.rounds_wanted}")
    assert judgement.visible > 0.1


def test_no_count_of_rounds_helps_against_chaos():
    assert judge(*simulate(1, noise=1.0)).reason.endswith("try a quieter machine")


def test_more_rounds_see_more():
    assert visible_slowdown(0.07, 40) < visible_slowdown(0.07, 20) < visible_slowdown(0.07, 10)
    assert visible_slowdown(0.0, 10) == pytest.approx(0.05)


def test_what_is_called_visible_is_seen():
    spread = 0.05 * math.sqrt(2)
    slowdown = visible_slowdown(spread, 12)
    found = verdicts(300, noise=0.05, rounds=12, slowdown=slowdown).count("slower")
    assert 0.84 * 300 <= found <= 0.96 * 300


def test_more_noise_wants_more_rounds():
    assert [rounds_wanted(spread) for spread in (0.0, 0.07, 1.0)] == [10, 24, 128]


@pytest.mark.parametrize(
    ("baseline", "candidate", "message"),
    [
        ([1.0] * 8, [1.0] * 8, "at least 9 rounds, got 8"),
        ([1.0] * 10, [1.0] * 9, "10 baseline rounds and 9 of the other"),
        ([1.0] * 10, [0.0] + [1.0] * 9, "must be positive, got 0.0 ms"),
    ],
)
def test_what_cannot_be_judged(baseline, candidate, message):
    with pytest.raises(ValueError, match=message):
        judge(baseline, candidate)


@pytest.fixture
def sides(make_bundle):
    return make_bundle("baseline"), make_bundle("candidate")


def fake_measure(machine, order, *, slowdown=0.0):
    def measure(bundle):
        order.append(bundle.name[0])
        slow = 1 + slowdown if bundle.name == "candidate" else 1.0
        wobble = 1 + 0.001 * (len(order) % 7)
        return Once(machine=machine, samples_ms=(90.0, 5.0 * slow * wobble, 0.1))

    return measure


def test_rounds_are_interleaved_and_kept(sides, machine):
    order, done = [], []
    measure = fake_measure(machine, order)
    report = compare(*sides, measure, rounds=10, on_round=done.append)
    assert "".join(order) == "bccb" * 5
    assert done == list(range(1, 11))
    assert len(report.baseline) == len(report.candidate) == 10
    assert report.judgement.verdict == "pass"
    assert report.baseline_sha256 == digest(sides[0] / MANIFEST)
    assert GateReport.model_validate_json(report.model_dump_json()) == report


def test_the_median_of_a_round_is_its_sample(sides, machine):
    report = compare(*sides, fake_measure(machine, [], slowdown=0.2), rounds=10)
    assert report.judgement.verdict == "slower"
    assert report.judgement.slowdown == pytest.approx(0.2, abs=0.01)


def test_a_machine_that_changed_is_inconclusive(sides, machine):
    order = []
    steady = fake_measure(machine, order, slowdown=0.2)

    def measure(bundle):
        measured = steady(bundle)
        if len(order) < 15:
            return measured
        hot = machine.model_copy(update={"governor": "powersave"})
        return measured.model_copy(update={"machine": hot})

    judgement = compare(*sides, measure, rounds=10).judgement
    assert judgement.verdict == "inconclusive"
    assert "governor: None before, powersave after" in judgement.reason


def never(bundle):
    raise AssertionError(f"{bundle} was measured")


def test_too_few_rounds_are_refused_before_measuring(sides):
    with pytest.raises(ValueError, match="at least 9 rounds, got 3"):
        compare(*sides, never, rounds=3)


def test_different_devices_are_not_compared(make_bundle):
    other = make_bundle("other", profile=load_profile("cpu"))
    with pytest.raises(ValueError, match=r"for cpu at 16 x 16 pixels, .*cpu at 256 x 256.*deploy"):
        compare(make_bundle("one"), other, never, rounds=10)


def test_a_damaged_bundle_is_not_compared(sides):
    (sides[1] / "engine.onnx").write_bytes(b"")
    with pytest.raises(BundleError, match=r"candidate/engine\.onnx does not match"):
        compare(*sides, never, rounds=10)


def test_exit_status():
    assert EXIT_STATUS == {"pass": 0, "slower": 1, "inconclusive": 2}
