"""The simulation of gates: rules on made-up samples, recorded noise in order, and the claim."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from devices.gate.judge import LOOKS

GATE = Path(__file__).parents[2] / "benchmarks" / "gate"

with pytest.MonkeyPatch.context() as patch:
    # scripts that import each other by name, as they do when one of them is run
    patch.syspath_prepend(GATE)
    import replay
    import rules
    import scores
    import simulate


def runs(*levels_ms, images=20):
    """A process for each level, with images around it whose mean and median are the level."""
    wobble = np.linspace(-0.01, 0.01, images)
    return [level * (1 + wobble) for level in levels_ms]


def stream(*levels_ms, took_s=1.0, condition="idle"):
    return replay.Stream(
        condition,
        {"engine": "made up"},
        tuple(
            replay.Process(at * took_s, took_s, run, 0.25)
            for at, run in enumerate(runs(*levels_ms))
        ),
    )


# the test of Mann and Whitney


@pytest.mark.parametrize(("each", "orderings"), [(5, 252), (6, 924), (7, 3432), (9, 48620)])
def test_two_separate_samples_have_the_least_p_value_there_is(each, orderings):
    low, high = list(range(each)), list(range(100, 100 + each))
    assert rules.u_test(low, high, exact=True) == pytest.approx(2 / orderings)
    assert rules.u_test(high, low, exact=True) == pytest.approx(2 / orderings)


def test_the_exact_test_counts_orderings():
    # of the 20 orderings of 3 and 3 four have a U of 0, 1, 8 or 9
    assert rules.u_test([1, 2, 4], [3, 5, 6], exact=True) == pytest.approx(4 / 20)


def test_interleaved_samples_are_alike():
    assert rules.u_test([1, 3, 5, 7], [2, 4, 6, 8], exact=True) > 0.6
    assert rules.u_test([4.0] * 9, [4.0] * 9, exact=True) == 1.0


def test_the_normal_test_is_near_the_exact_one_and_knows_ties():
    low, high = [float(n) for n in range(12)], [n + 4.5 for n in range(12)]
    exact = rules.u_test(low, high, exact=True)
    assert rules.u_test(low, high, exact=False) == pytest.approx(exact, rel=0.25)
    # as scipy.stats.mannwhitneyu prints it
    assert rules.u_test([1, 2, 2, 3, 4], [2, 4, 5, 5, 6], exact=False) == pytest.approx(
        0.07048, abs=1e-5
    )


# rules


def test_pytest_benchmark_compares_the_quickest_image():
    assert rules.pytest_benchmark(runs(4.0), runs(4.3))
    assert not rules.pytest_benchmark(runs(4.0), runs(4.1))
    one_quick = runs(4.3)
    one_quick[0][7] = 3.5
    assert not rules.pytest_benchmark(runs(4.0), one_quick)


def test_github_action_benchmark_compares_means():
    assert rules.github_action_benchmark(runs(4.0), runs(4.5), percent=110)
    assert not rules.github_action_benchmark(runs(4.0), runs(4.3), percent=110)
    assert not rules.github_action_benchmark(runs(4.0), runs(7.9), percent=200)
    assert rules.github_action_benchmark(runs(4.0), runs(8.1), percent=200)


def test_google_benchmark_wants_only_significance():
    base = runs(*np.linspace(4.0, 4.1, 9))
    barely = runs(*np.linspace(4.11, 4.2, 9))
    assert rules.google_benchmark(base, barely)
    assert not rules.google_benchmark(barely, base)
    assert not rules.google_benchmark(base, runs(*np.linspace(4.0, 4.1, 9)))
    # two a side can never be significant
    assert not rules.google_benchmark(runs(4.0, 4.1), runs(8.0, 8.1))


def test_asv_wants_a_factor_and_significance():
    base = runs(4.0, 4.0, 4.1, 4.1)
    assert rules.asv(base, runs(4.8, 4.8, 4.9, 4.9))
    assert not rules.asv(base, runs(4.3, 4.3, 4.3, 4.3))
    assert not rules.asv(runs(3.0, 3.0, 6.0, 6.0), runs(3.3, 3.4, 6.6, 6.7))


def test_asv_takes_five_samples_of_ten_milliseconds_from_a_process():
    slow_later = runs(4.0, 4.0)
    for run in slow_later:
        run[15:] *= 10  # three images last 10 ms
    assert not rules.asv(runs(4.0, 4.0), slow_later)
    for run in slow_later:
        run[:15] *= 2
    assert rules.asv(runs(4.0, 4.0), slow_later)


def test_asv_refuses_what_cannot_be_significant():
    with pytest.raises(ValueError, match="5 and 5 samples; asv's U test needs six of each"):
        rules.asv(runs(4.0), runs(8.0))


def test_a_t_test_on_images_takes_the_mood_of_a_process_for_a_slow_down():
    assert rules.t_test(runs(4.0), runs(4.1))
    assert not rules.t_test(runs(4.1), runs(4.0))
    assert not rules.t_test(runs(4.0), runs(4.0))


def test_our_gate_passes_an_equal_engine_at_its_first_look():
    playback = replay.Playback(stream(*[4.0, 4.01, 3.99] * 10), 0, 0.0)
    assert rules.pocketgan(playback) == "pass"
    assert playback.processes == 2 * LOOKS[0]


def test_our_gate_calls_a_slow_down_at_its_second_look():
    playback = replay.Playback(stream(*[4.0, 4.01, 3.99] * 10), 0, 0.1)
    assert rules.pocketgan(playback) == "slower"
    assert playback.processes == 2 * LOOKS[1]


def test_our_gate_goes_first_where_the_product_does():
    asked = []

    class Noting(replay.Playback):
        def baseline(self):
            asked.append("A")
            return super().baseline()

        def candidate(self):
            asked.append("B")
            return super().candidate()

    rules.pocketgan(Noting(stream(4.0), 0, 0.0))
    assert "".join(asked) == "BAABABBABAABAB"


# playing back


@pytest.mark.parametrize(
    ("order", "baseline", "candidate"),
    [
        ("interleaved", [12, 14, 16], [13, 15, 17]),
        ("in turn", [12, 13, 14], [15, 16, 17]),
        ("stored", [12, 13, 14], [19, 10, 11]),
    ],
)
def test_processes_are_played_back_in_the_order_in_which_they_ran(order, baseline, candidate):
    playback = replay.Playback(stream(*range(10, 20), took_s=2.0), 2, 0.5)
    # four processes of 2 s pass while one waits for 7 s
    sides = replay.both_sides(playback, order, 3, wait_s=7.0)
    assert [round(np.median(run)) for run in sides[0]] == baseline
    assert [round(np.median(run) / 1.5) for run in sides[1]] == candidate
    assert playback.processes == 6
    assert playback.seconds == 12.0


def test_a_stream_is_read_as_it_was_written(tmp_path):
    written = stream(4.0, 4.2, 4.1, condition="busy")
    replay.write_stream(tmp_path / "busy.jsonl.gz", written)
    read = replay.read_stream(tmp_path / "busy.jsonl.gz")
    assert (read.condition, read.about) == ("busy", {"engine": "made up"})
    assert [one.at_s for one in read.processes] == [0.0, 1.0, 2.0]
    assert [one.others_cores for one in read.processes] == [0.25] * 3
    for one, other in zip(read.processes, written.processes, strict=True):
        np.testing.assert_allclose(one.samples_ms, other.samples_ms, atol=5.1e-4)
    assert read.seconds == 3.0


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (b"nothing", "is no recorded noise"),
        (b'{"schema_version":1}\n', "is no recorded noise"),
        (b'{"schema_version":2,"condition":"idle"}\n', "has schema_version 2, this reads 1"),
        (b'{"schema_version":1,"condition":"idle"}\n', "has no process"),
    ],
)
def test_a_file_that_is_no_stream_is_refused(tmp_path, lines, said):
    path = tmp_path / "idle.jsonl.gz"
    path.write_bytes(gzip.compress(lines))
    with pytest.raises(ValueError, match=said):
        replay.read_stream(path)


def test_a_stream_out_of_order_is_refused(tmp_path):
    straight = stream(4.0, 4.2)
    turned = replay.Stream("idle", {}, straight.processes[::-1])
    replay.write_stream(tmp_path / "idle.jsonl.gz", turned)
    with pytest.raises(ValueError, match="not in the order in which it was recorded"):
        replay.read_stream(tmp_path / "idle.jsonl.gz")


def test_gates_begin_at_different_processes():
    assert simulate.starts(stream(*[4.0] * 10), 2000) == list(range(10))
    assert simulate.starts(stream(*[4.0] * 10), 5) == [0, 2, 4, 6, 8]


def test_a_process_is_repeated_until_there_is_a_second_of_images():
    # twenty images of 10 ms are 0.2 s
    assert simulate.processes_for(1.0, stream(10.0, 10.0)) == 5


# the claim


def score(rule, alarms, caught, *, given="ours", processes=20.0, gates=100):
    return scores.Score(
        rule=rule,
        given=given,
        processes=processes,
        seconds=20.0,
        gates=gates,
        false_alarms=alarms,
        caught=dict(zip(scores.SLOWDOWNS, caught, strict=True)),
    )


OURS = score("pocketgan", 2, (0, 40, 95, 100))


@pytest.mark.parametrize(
    ("alarms", "caught", "better"),
    [
        (1, 96, True),
        (2, 96, False),  # as many alarms are not fewer
        (1, 95, False),  # as much power is not more
        (3, 100, False),
        (0, 94, False),
    ],
)
def test_a_rule_is_better_with_fewer_alarms_and_more_power(alarms, caught, better):
    other = score("other", alarms, (0, 0, caught, 0))
    assert scores.dominating(OURS, [other], 0.10) == ([other] if better else [])
    assert scores.dominating(OURS, [other], 0.20) == []


def test_the_claim_names_what_is_better_and_where():
    lines = scores.claim("idle", OURS, [score("other", 0, (50, 40, 96, 100))])
    assert lines == [
        "idle, 3% slower: FAILED: other (ours)",
        "idle, 5% slower: kept: no rule is better in both",
        "idle, 10% slower: FAILED: other (ours)",
        "idle, 20% slower: kept: no rule is better in both",
    ]


def test_rules_that_were_played_less_often_are_not_compared():
    with pytest.raises(ValueError, match="other: 50 gates, ours had 100"):
        scores.dominating(OURS, [score("other", 0, (0, 0, 0, 0), gates=50)], 0.10)


def test_a_rule_in_more_time_than_ours_is_not_compared():
    quick = score("one", 0, (0, 0, 0, 0), given="its own", processes=8)
    slow = score("one", 0, (0, 0, 0, 0), given="its own", processes=26)
    equal = score("one", 0, (0, 0, 0, 0), processes=24)
    assert simulate.in_no_more_time([OURS, equal, quick, slow]) == [equal, quick]


def test_a_simulation_of_quiet_noise_finds_what_each_rule_can(capsys):
    rng = np.random.default_rng(0)
    quiet = stream(*4.0 * np.exp(0.004 * rng.standard_normal(60)))
    played = simulate.play(quiet, simulate.starts(quiet, 6), 10.0)
    simulate.show(quiet, played)
    assert "| pocketgan | ours | " in capsys.readouterr().out
    by_name = {(one.rule, one.given): one for one in played}
    assert len(by_name) == 1 + 2 * len(rules.RULES)
    assert by_name["pocketgan", "ours"].false_alarms == 0
    assert by_name["pocketgan", "ours"].caught[0.10] == 6
    assert by_name["github-action-benchmark 200 %", "ours"].caught[0.20] == 0
    assert by_name["asv factor 1.1, U test 0.002", "ours"].caught[0.05] == 0
    assert by_name["asv factor 1.1, U test 0.002", "its own"].processes == 4
    assert by_name["google/benchmark U test 0.05", "its own"].processes == 18


# what is in the repository


@pytest.mark.parametrize("condition", simulate.CONDITIONS)
def test_the_recorded_noise_is_long_enough_and_says_where_it_is_from(condition):
    recorded = replay.read_stream(simulate.NOISE / f"{condition}.jsonl.gz")
    assert recorded.condition == condition
    assert len(recorded.processes) > 2 * LOOKS[-1]
    assert {"recorded", "engine", "machine", "runtimes"} <= recorded.about.keys()


def test_the_recorded_noise_is_small():
    assert sum(path.stat().st_size for path in simulate.NOISE.iterdir()) < 400_000
