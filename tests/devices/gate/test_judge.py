import math
from statistics import NormalDist

import numpy as np
import pytest

from devices import signed_rank
from devices.gate.judge import (
    ALPHA,
    CONFIDENCE,
    LOOKS,
    MANY_ROUNDS,
    benjamini_hochberg,
    hopeless,
    judge,
    rounds_wanted,
    visible_slowdown,
)
from devices.gate.rounds import SHARES

FLOOR = 0.05
CELLS = 1 / SHARES["steady"]
"""What the chance is divided by for the latency in a gate of one pair."""


def simulate(seed, *, slowdown=0.0, noise=0.02, rounds=12, drift=0.1):
    """Medians of a made-up gate: a drift that both sides of a round share, and noise of each."""
    rng = np.random.default_rng(seed)
    weather = 5.0 * np.exp(rng.normal(0, drift, rounds))
    baseline = weather * np.exp(rng.normal(0, noise, rounds))
    candidate = weather * (1 + slowdown) * np.exp(rng.normal(0, noise, rounds))
    return list(baseline), list(candidate)


def sequential_gates(logs, looks=LOOKS, cells=CELLS, floor=FLOOR):
    """Many gates at once, each with all its looks: what they say, and after how many rounds.

    The same rule as `judge`, for an array of gates: (G, rounds) of the logarithm of candidate over
    baseline, without ties. `test_the_array_rule_is_the_rule` holds the two together.

    Returns:
        A verdict for each gate, and the rounds it took.
    """
    chances = sum(1 for look in looks if 0.5**look * len(looks) < ALPHA)
    verdict = np.full(len(logs), "inconclusive")
    took = np.full(len(logs), looks[-1])
    for look in looks:
        going = np.flatnonzero(verdict == "inconclusive")
        seen = logs[going, :look]
        ranks = np.abs(seen).argsort(axis=1).argsort(axis=1) + 1
        above = (ranks * (seen > 0)).sum(axis=1)
        # twice the ranks, as the library counts them
        chance = signed_rank._distribution([2 * rank for rank in range(1, look + 1)])
        tail = chance[::-1].cumsum()[::-1]
        p_value = np.minimum(1, tail[2 * above] * chances)
        means = np.sort(signed_rank.pairwise_means(seen), axis=1)
        estimate = np.median(means, axis=1)
        dropped = signed_rank.droppable(look, (1 - CONFIDENCE) / len(looks))
        upper = np.full(len(seen), np.inf) if dropped is None else means[:, -1 - dropped]
        slower = (p_value < ALPHA / cells) & (estimate >= math.log1p(floor))
        passed = ~slower & (upper < math.log1p(floor))
        verdict[going[slower]] = "slower"
        verdict[going[passed]] = "pass"
        took[going[slower | passed]] = look
    return verdict, took


def gates(count, *, slowdown=0.0, noise, seed=0, shape="normal"):
    """Logarithms of candidate over baseline of many made-up gates, (count, rounds)."""
    rng = np.random.default_rng(seed)
    size = (count, 2, LOOKS[-1])
    if shape == "normal":
        sides = rng.normal(0, noise, size)
    else:
        # mostly quiet, and now and then a round in which a neighbour took the core
        sides = rng.normal(0, noise, size) + rng.exponential(1.0, size) * (rng.random(size) < 0.1)
    return math.log1p(slowdown) + sides[:, 1] - sides[:, 0]


def at_most(count, chance):
    """A bound that a rate of ``chance`` exceeds once in 10,000 tries."""
    margin = NormalDist().inv_cdf(1 - 1e-4) * math.sqrt(count * chance * (1 - chance))
    return count * chance + margin + 1


def test_the_array_rule_is_the_rule():
    for noise, slowdown in ((0.01, 0.0), (0.03, 0.05), (0.02, 0.1), (0.1, 0.0)):
        logs = gates(6, noise=noise, slowdown=slowdown)
        verdicts, took = sequential_gates(logs)
        for gate, verdict, rounds in zip(logs, verdicts, took, strict=True):
            said = [
                judge([1.0] * look, np.exp(gate[:look]), floor=FLOOR, cells=CELLS).verdict
                for look in LOOKS
                if look <= rounds
            ]
            assert said[-1] == verdict
            assert set(said[:-1]) <= {"inconclusive"}


@pytest.mark.parametrize("shape", ["normal", "neighbour"])
@pytest.mark.parametrize("noise", [0.005, 0.02, 0.08])
def test_equal_candidates_are_seldom_called_slower_over_all_looks(noise, shape):
    verdicts, _ = sequential_gates(gates(2000, noise=noise, shape=shape))
    assert (verdicts == "slower").sum() <= at_most(2000, ALPHA)


def test_without_a_floor_all_looks_together_still_keep_their_chance():
    # the floor makes false alarms rarer still; the looks must not need its help
    verdicts, _ = sequential_gates(gates(4000, noise=0.1), floor=1e-9, cells=1)
    false = (verdicts == "slower").sum()
    assert 0 < false <= at_most(4000, ALPHA)


@pytest.mark.parametrize("noise", [0.005, 0.015, 0.05, 0.2])
@pytest.mark.parametrize("shape", ["normal", "neighbour"])
def test_a_slow_down_at_the_floor_seldom_passes_over_all_looks(noise, shape):
    logs = gates(2000, noise=noise, shape=shape, slowdown=FLOOR)
    verdicts, _ = sequential_gates(logs)
    assert (verdicts == "pass").sum() <= at_most(2000, 1 - CONFIDENCE)


def test_a_tenth_is_found_in_the_usual_noise():
    verdicts, took = sequential_gates(gates(1000, noise=0.015, slowdown=0.1))
    assert (verdicts == "slower").sum() >= 990
    assert np.median(took) == 12


@pytest.mark.parametrize("noise", [0.01, 0.03])
def test_a_fifth_is_found_in_more_noise(noise):
    verdicts, _ = sequential_gates(gates(1000, noise=noise, slowdown=0.2))
    assert (verdicts == "slower").sum() >= 990


def test_a_quiet_machine_passes_what_is_equal_and_soon():
    verdicts, took = sequential_gates(gates(1000, noise=0.01))
    assert (verdicts == "pass").sum() >= 990
    assert np.median(took) == 7


def test_a_drift_that_both_sides_share_does_no_harm():
    said = {
        judge(*simulate(seed, noise=0.001, drift=0.5), floor=FLOOR).verdict for seed in range(20)
    }
    assert said == {"pass"}


def test_a_faster_candidate_passes_in_noise_too():
    said = {
        judge(*simulate(seed, noise=0.03, slowdown=-0.3), floor=FLOOR).verdict for seed in range(20)
    }
    assert said == {"pass"}


def test_significant_and_small_is_not_slower():
    baseline = [5.0 + 0.001 * number for number in range(18)]
    judgement = judge(baseline, [1.02 * value for value in baseline], floor=FLOOR)
    assert judgement.p_value < ALPHA
    assert judgement.verdict == "pass"
    assert judgement.slowdown == pytest.approx(0.02)


def test_the_floor_decides_what_concerns_somebody():
    baseline, candidate = simulate(0, noise=0.005, slowdown=0.1)
    assert judge(baseline, candidate, floor=0.05).verdict == "slower"
    assert judge(baseline, candidate, floor=0.2).verdict == "pass"


def test_one_wild_round_does_not_make_it_slower():
    baseline, candidate = simulate(0, noise=0.01, rounds=18)
    candidate[4] *= 10
    assert judge(baseline[:12], candidate[:12], floor=FLOOR).verdict == "inconclusive"
    assert judge(baseline, candidate, floor=FLOOR).verdict == "pass"


def test_seven_rounds_show_that_nothing_grew_and_never_that_something_did():
    assert judge([5.0] * 7, [5.01, 4.99, 5.0, 5.02, 4.98, 5.0, 5.01], floor=FLOOR).verdict == "pass"
    assert judge([5.0] * 7, [10.0 + i for i in range(7)], floor=FLOOR).verdict == "inconclusive"
    assert judge([5.0] * 12, [10.0 + i for i in range(12)], floor=FLOOR).verdict == "slower"


def test_slower_says_how_much_and_how_sure():
    judgement = judge([5.0] * 12, [6.0 + 0.001 * number for number in range(12)], floor=FLOOR)
    # all twelve above, three looks that can call it: 3 / 2^12
    assert judgement.p_value == pytest.approx(3 / 2**12)
    assert judgement.reason == "+20.1% (p = 0.00073), the floor is 5%"


def test_pass_says_below_what():
    judgement = judge(*simulate(0, noise=0.005), floor=FLOOR)
    assert judgement.reason.endswith(f"below {judgement.upper:+.1%} with 95 % confidence")


def test_inconclusive_says_what_it_could_have_seen_and_what_to_try():
    judgement = judge(*simulate(2, noise=0.06), floor=FLOOR)
    assert judgement.verdict == "inconclusive"
    assert f"show slow-downs from {judgement.visible:.0%} on" in judgement.reason
    assert judgement.reason.endswith(f"try --rounds {max(judgement.rounds_wanted, 24)}")
    assert judgement.visible > 0.1


def test_no_count_of_rounds_helps_against_chaos():
    judgement = judge(*simulate(1, noise=1.0), floor=FLOOR)
    assert judgement.rounds_wanted == MANY_ROUNDS
    assert judgement.reason.endswith("try a quieter machine")


def test_going_on_is_hopeless_where_more_rounds_would_not_answer():
    assert hopeless(judge(*simulate(3, noise=1.0, slowdown=-0.2), floor=FLOOR))
    # too early to tell
    early = judge(*simulate(3, noise=1.0, slowdown=-0.2, rounds=7), floor=FLOOR)
    assert not hopeless(early)
    # what seems to have grown may still be shown
    grown = judge(*simulate(3, noise=0.3, slowdown=0.5), floor=FLOOR)
    assert grown.slowdown >= FLOOR
    assert not hopeless(grown)
    assert not hopeless(judge(*simulate(0, noise=0.01), floor=FLOOR))


def test_more_rounds_see_more():
    seen = [visible_slowdown(0.07, rounds, floor=FLOOR) for rounds in (12, 20, 40)]
    assert seen == sorted(seen, reverse=True)
    assert visible_slowdown(0.0, 12, floor=FLOOR) == pytest.approx(0.05)
    assert visible_slowdown(0.0, 7, floor=FLOOR) is None  # seven can call nothing


def test_more_questions_see_less():
    few, many = (visible_slowdown(0.05, 27, floor=FLOOR, cells=cells) for cells in (1, 30))
    assert few < many


def test_what_is_called_visible_is_seen():
    spread = 0.05 * math.sqrt(2)
    slowdown = visible_slowdown(spread, 12, floor=FLOOR, cells=1, looks=(7, 12))
    verdicts, _ = sequential_gates(
        gates(1000, noise=0.05, slowdown=slowdown)[:, :12], looks=(7, 12), cells=1
    )
    assert 0.84 * 1000 <= (verdicts == "slower").sum() <= 0.96 * 1000


def test_more_noise_wants_more_rounds():
    wanted = [rounds_wanted(spread, floor=FLOOR) for spread in (0.0, 0.05, 0.1, 1.0)]
    assert wanted == sorted(wanted)
    assert wanted[0] == LOOKS[0]
    assert wanted[-1] == MANY_ROUNDS


@pytest.mark.parametrize("spread", [0.03, 0.06])
def test_so_many_rounds_are_wanted_as_equal_engines_need_to_pass(spread):
    wanted = rounds_wanted(spread, floor=FLOOR)
    logs = np.random.default_rng(1).normal(0, spread, (1000, wanted))
    dropped = signed_rank.droppable(wanted, (1 - CONFIDENCE) / len(LOOKS))
    means = np.sort(signed_rank.pairwise_means(logs), axis=1)
    assert (means[:, -1 - dropped] < math.log1p(FLOOR)).mean() >= 0.87


def test_benjamini_hochberg_by_hand():
    # q = 0.05, m = 5: thresholds 0.01, 0.02, 0.03, 0.04, 0.05 for the sorted p-values
    p_values = [0.039, 0.001, 0.2, 0.019, 0.035]
    # sorted 0.001 <= 0.01, 0.019 <= 0.02, 0.035 > 0.03, 0.039 <= 0.04, 0.2 > 0.05: four stand
    assert benjamini_hochberg(p_values, q=0.05) == [True, True, False, True, True]
    assert benjamini_hochberg([0.06, 0.9], q=0.05) == [False, False]
    assert benjamini_hochberg([], q=0.05) == []


def test_benjamini_hochberg_keeps_false_alarms_among_many_questions_rare():
    rng = np.random.default_rng(0)
    false = sum(any(benjamini_hochberg(list(p))) for p in rng.random((4000, 12)))
    assert false <= at_most(4000, ALPHA)


@pytest.mark.parametrize(
    ("baseline", "candidate", "message"),
    [
        ([], [], "0 baseline rounds and 0 of the other"),
        ([1.0] * 10, [1.0] * 9, "10 baseline rounds and 9 of the other"),
        ([1.0] * 10, [0.0] + [1.0] * 9, r"must be positive, got 0\.0"),
    ],
)
def test_what_cannot_be_judged(baseline, candidate, message):
    with pytest.raises(ValueError, match=message):
        judge(baseline, candidate, floor=FLOOR)
