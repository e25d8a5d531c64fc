import itertools
import math

import numpy as np
import pytest

from devices import signed_rank


def by_hand(differences):
    """The p-value by trying every sign; no ties and no zeros."""
    order = np.argsort(np.argsort(np.abs(differences))) + 1
    observed = sum(rank for rank, value in zip(order, differences, strict=True) if value > 0)
    sums = [
        sum(itertools.compress(order, signs))
        for signs in itertools.product((0, 1), repeat=len(differences))
    ]
    return sum(total >= observed for total in sums) / len(sums)


@pytest.mark.parametrize("seed", range(5))
def test_the_p_value_counts_every_sign(seed):
    differences = np.random.default_rng(seed).normal(0.4, 1.0, 9)
    assert signed_rank.p_value_above_zero(differences) == pytest.approx(by_hand(differences))


def test_the_rarest_result_of_ten_pairs():
    assert signed_rank.p_value_above_zero(range(1, 11)) == pytest.approx(0.5**10)


def test_equal_pairs_are_no_evidence():
    assert signed_rank.p_value_above_zero([0.0] * 10) == 1.0


def test_ties_share_their_rank():
    # ranks 1.5, 1.5, 3; sums of at least 4.5: {1.5, 3} twice and all three, of 8
    assert signed_rank.p_value_above_zero([1.0, -1.0, 2.0]) == pytest.approx(3 / 8)


@pytest.mark.parametrize(("pairs", "drop"), [(4, None), (5, 0), (6, 2), (10, 10), (20, 60)])
def test_critical_values_of_the_published_tables(pairs, drop):
    # Wilcoxon's table, one-sided 5 %
    assert signed_rank.droppable(pairs, 0.05) == drop


def test_the_limit_is_infinite_with_too_few_pairs():
    assert signed_rank.upper_limit([1.0, 2.0, 3.0], 0.95) == math.inf


def test_the_limit_agrees_with_the_test():
    differences = list(np.random.default_rng(3).normal(0.0, 1.0, 12))
    limit = signed_rank.upper_limit(differences, 0.95)

    def refused(shift):  # is a shift this large refused as too high?
        return signed_rank.p_value_above_zero([shift - value for value in differences]) <= 0.05

    assert refused(limit + 1e-9)
    assert not refused(limit - 1e-9)


def test_one_wild_pair_does_not_move_the_estimate():
    calm = [0.01, 0.02, 0.03, 0.02, 0.01, 0.02, 0.03, 0.02, 0.02]
    assert signed_rank.estimate([*calm, 5.0]) == pytest.approx(0.02, abs=0.005)


def test_a_hundred_pairs_are_counted_too():
    differences = np.random.default_rng(0).normal(0.0, 1.0, 100)
    assert 0.01 < signed_rank.p_value_above_zero(differences) < 1.0
