import pytest

from devices.gate.judge import LOOKS
from devices.gate.report import EXIT_STATUS, GateReport
from devices.gate.rounds import FLOORS, MIN_ROUNDS, Pair, baseline_first, compare, looks_up_to
from devices.profile import load_profile
from devices.sealed import MANIFEST, BundleError, digest


@pytest.fixture
def pair(make_bundle):
    return Pair("tiny", make_bundle("baseline"), make_bundle("candidate"))


def letters(measure):
    return "".join(bundle.name[0] for bundle in measure.order)


def test_every_two_rounds_mirror_each_other_and_no_rhythm_is_left():
    first = [baseline_first(number) for number in range(400)]
    assert all(first[at] != first[at + 1] for at in range(0, 400, 2))
    begins = first[::2]
    assert 80 <= sum(begins) <= 120
    # as often followed by the same as by the other, at any distance
    for distance in range(1, 8):
        same = sum(a == b for a, b in zip(begins, begins[distance:], strict=False))
        assert 70 <= same <= 130


def test_rounds_are_interleaved_and_kept(pair, fake):
    done, measure = [], fake()
    report = compare([pair], measure, on_round=lambda at, most: done.append((at, most)))
    assert letters(measure) == "cbbcbccbcbbcbc"
    assert done == [(number, LOOKS[-1]) for number in range(1, 8)]
    (one,) = report.pairs
    assert len(one.baseline) == len(one.candidate) == 7
    assert one.baseline_sha256 == digest(pair.baseline / MANIFEST)
    assert one.candidate_sha256 == digest(pair.candidate / MANIFEST)
    assert GateReport.model_validate_json(report.model_dump_json()) == report


def test_what_is_equal_stops_at_the_first_look(pair, fake):
    report = compare([pair], fake())
    assert report.verdict == "pass"
    assert report.exit_status == 0
    assert report.pairs[0].cell("steady").rounds == LOOKS[0]
    assert report.reasons[0].startswith("latency ")


def test_what_is_slower_stops_as_soon_as_it_can_be_called(pair, fake):
    report = compare([pair], fake(steady=1.2))
    assert report.verdict == "slower"
    assert report.exit_status == 1
    judgement = report.pairs[0].cell("steady")
    assert judgement.rounds == MIN_ROUNDS
    assert judgement.slowdown == pytest.approx(0.2, abs=0.01)


def test_what_is_near_the_floor_goes_on(pair, fake):
    report = compare([pair], fake(steady=1.03, noise=0.02))
    assert report.pairs[0].cell("steady").rounds > MIN_ROUNDS


def jumping(pair, usual, factors):
    """Measures as usual, but the images of the candidate take so many times as long, in turn."""

    def measure(bundle):
        measured = usual(bundle)
        number = sum(one == pair.candidate for one in usual.order) - 1
        factor = factors[number % len(factors)] if bundle == pair.candidate else 1.0
        samples = tuple(factor * sample for sample in measured.samples_ms)
        return measured.model_copy(update={"samples_ms": samples})

    return measure


def test_the_last_look_ends_it(pair, fake):
    usual = fake()
    report = compare([pair], jumping(pair, usual, (0.98, 1.14)), rounds=20)
    assert len(usual.order) == 2 * 20
    assert report.verdict == "inconclusive"
    assert report.exit_status == 2
    assert "try --rounds" in report.reasons[0]


def test_hopeless_rounds_are_not_gone_on_with(pair, fake):
    report = compare([pair], jumping(pair, fake(), (0.2, 3.0)))
    assert report.verdict == "inconclusive"
    assert len(report.pairs[0].baseline) == MIN_ROUNDS
    assert report.reasons[0].endswith("try a quieter machine")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cold": 1.5}, "cold start +5"),
        ({"memory": 1.3}, "peak memory +30"),
    ],
)
def test_cold_start_and_memory_are_asked_too(pair, fake, options, words):
    report = compare([pair], fake(**options))
    assert report.verdict == "slower"
    assert report.reasons[0].startswith(words)
    assert report.reasons[-1].startswith("latency ")
    assert report.pairs[0].cell("steady").verdict == "pass"


def test_growth_below_its_floor_concerns_nobody(pair, fake):
    report = compare([pair], fake(steady=1.02, cold=1.1, memory=1.05, noise=0.0005))
    assert report.verdict == "pass"
    assert {cell.measured: cell.judgement.floor for cell in report.pairs[0].cells} == FLOORS


def test_a_cold_start_that_cannot_be_judged_does_not_stop_what_passes(pair, machine, fake):
    steady = fake()
    colds = iter([300.0, 900.0] * 40)

    def measure(bundle):
        return steady(bundle).model_copy(update={"cold_ms": next(colds)})

    report = compare([pair], measure)
    assert report.pairs[0].cell("cold").verdict == "inconclusive"
    assert report.verdict == "pass"


@pytest.mark.parametrize(("spread", "floor"), [(None, 0.05), (0.01, 0.05), (0.04, 0.12)])
def test_the_floor_is_three_times_what_equal_engines_were_apart(pair, fake, spread, floor):
    report = compare([pair], fake(steady=1.1), known_spread=spread)
    assert report.known_spread == spread
    assert report.pairs[0].cell("steady").floor == pytest.approx(floor)
    assert report.verdict == ("pass" if floor > 0.1 else "slower")


def test_several_pairs_take_turns(make_bundle, fake):
    pairs = [
        Pair(name, make_bundle(f"{name}-b"), make_bundle(f"{name}-c")) for name in ("x", "y", "z")
    ]
    measure = fake()
    report = compare(pairs, measure)
    names = [bundle.name for bundle in measure.order]
    assert names[:6] == ["x-c", "x-b", "y-c", "y-b", "z-c", "z-b"]
    # the next round begins with another pair, and with the other side of each
    assert names[6:12] == ["y-b", "y-c", "z-b", "z-c", "x-b", "x-c"]
    assert [one.name for one in report.pairs] == ["x", "y", "z"]


def test_a_pair_that_is_done_is_not_measured_further(make_bundle, fake):
    quick = Pair("quick", make_bundle("one"), make_bundle("two"))
    slow = Pair("slow", make_bundle("baseline"), make_bundle("candidate"))
    measure = fake(steady=1.2)
    report = compare([quick, slow], measure)
    assert [len(one.baseline) for one in report.pairs] == [7, 12]
    assert report.verdict == "slower"
    assert report.reasons[0].startswith("slow: latency +")
    assert any(reason.startswith("quick: latency ") for reason in report.reasons[1:])


def test_what_stands_beside_other_questions_is_called_at_the_end(make_bundle, machine, fake):
    # two of twelve rounds are below, the least ones: signed ranks of 3, p = 5 / 2^12 = 0.0012. The
    # latency of one of two pairs alone needs 0.005 x 0.8 / 2 = 0.002, its cold start and memory
    # 0.005 x 0.1 / 2 = 0.00025; beside all that are as small, 0.0012 is enough for them too
    usual = fake(noise=0.0)
    factors = [1.5 + 0.01 * number for number in range(10)] + [0.99, 0.98]

    def measure(bundle):
        measured = usual(bundle)
        number = sum(one == bundle for one in usual.order) - 1
        factor = factors[number] if "candidate" in bundle.name else 1.0
        update = {
            "samples_ms": tuple(factor * sample for sample in measured.samples_ms),
            "cold_ms": factor * measured.cold_ms,
            "peak_rss_mib": factor * measured.peak_rss_mib,
        }
        return measured.model_copy(update=update)

    pairs = [
        Pair(name, make_bundle(f"{name}-baseline"), make_bundle(f"{name}-candidate"))
        for name in ("x", "y")
    ]
    report = compare(pairs, measure, rounds=12)
    assert report.verdict == "slower"
    for cell in (cell for one in report.pairs for cell in one.cells):
        assert cell.judgement.p_value == pytest.approx(5 / 2**12)
        assert cell.judgement.verdict == "slower"
        together = "(p = 0.0012 among the questions of this gate)" in cell.judgement.reason
        assert together == (cell.measured != "steady")


def test_a_machine_that_changed_is_inconclusive(pair, machine, fake):
    steady = fake(steady=1.2)

    def measure(bundle):
        measured = steady(bundle)
        if len(steady.order) < 15:
            return measured
        hot = machine.model_copy(update={"governor": "powersave"})
        return measured.model_copy(update={"machine": hot})

    report = compare([pair], measure)
    assert report.verdict == "inconclusive"
    assert "governor: None before, powersave after" in report.reasons[0]
    assert report.reasons[1].startswith("latency +20")


def test_it_says_how_long_it_took(pair, fake):
    assert compare([pair], fake(), clock=iter([10.0, 13.5]).__next__).seconds == 3.5


def never(bundle):
    raise AssertionError(f"{bundle} was measured")


def test_too_few_rounds_are_refused_before_measuring(pair):
    with pytest.raises(ValueError, match="at least 12 rounds, got 3"):
        compare([pair], never, rounds=3)


def test_looks_end_with_the_last_round():
    assert looks_up_to(LOOKS[-1]) == LOOKS
    assert looks_up_to(12) == (7, 12)
    assert looks_up_to(20) == (7, 12, 18, 20)
    assert looks_up_to(100) == (*LOOKS, 100)


def test_different_devices_are_not_compared(make_bundle):
    other = make_bundle("other", profile=load_profile("cpu"))
    with pytest.raises(ValueError, match=r"for cpu at 16 x 16 pixels, .*cpu at 256 x 256.*deploy"):
        compare([Pair("x", make_bundle("one"), other)], never)


def test_a_damaged_bundle_is_not_compared(pair):
    (pair.candidate / "engine.onnx").write_bytes(b"")
    with pytest.raises(BundleError, match=r"candidate/engine\.onnx does not match"):
        compare([pair], never)


def test_pairs_need_names_of_their_own(pair):
    with pytest.raises(ValueError, match="two pairs are called 'tiny'"):
        compare([pair, pair], never)


def test_nothing_is_not_compared():
    with pytest.raises(ValueError, match="nothing to compare"):
        compare([], never)


def test_exit_status():
    assert EXIT_STATUS == {"pass": 0, "slower": 1, "inconclusive": 2}
