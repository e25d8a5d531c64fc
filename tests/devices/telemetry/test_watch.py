import json
import threading
import time

import pytest
from pydantic import ValidationError

from devices.telemetry.conditions import Conditions, Span, span
from devices.telemetry.judge import OTHERS
from devices.telemetry.readers import readers_of_this_machine
from devices.telemetry.reading import ReaderError, Reading
from devices.telemetry.summary import energy_mj, summed_up
from devices.telemetry.watch import Sampler, Watch


class Fake:
    """A source that says what it is given, then its last word for ever; an error is raised."""

    def __init__(self, name, *said, every_s=0.0):
        self.name, self.every_s = name, every_s
        self.said = list(said)
        self.reads = self.closed = 0

    def read(self):
        word = self.said[min(self.reads, len(self.said) - 1)]
        self.reads += 1
        if isinstance(word, Exception):
            raise word
        return word

    def close(self):
        self.closed += 1
        if self.name == "clumsy":
            raise OSError("already gone")


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def sampled(readers, looks=9, every_s=0.25):
    clock = Clock()
    sampler = Sampler(readers, clock)
    for _ in range(looks):
        sampler.look()
        clock.now += every_s
    return sampler


def test_each_source_is_read_as_often_as_it_may_be():
    often, seldom = Fake("often", Reading()), Fake("seldom", Reading(), every_s=1.0)
    sampler = sampled([often, seldom], looks=9)
    assert (often.reads, seldom.reads) == (9, 3)
    assert [look.at_s for look in sampler.looks[:3]] == [100.0, 100.25, 100.5]


def test_where_two_tell_the_same_name_the_first_counts():
    first = Fake("a", Reading(clocks_mhz={"cpu": 1.0}, other_load=0.1, settings={"x": "1"}))
    second = Fake("b", Reading(clocks_mhz={"cpu": 2.0, "gpu": 3.0}, other_load=0.2))
    reading = sampled([first, second], looks=1).looks[0].reading
    assert (reading.clocks_mhz, reading.other_load) == ({"cpu": 1.0, "gpu": 3.0}, 0.1)


@pytest.mark.parametrize("error", [ReaderError("gone"), OSError("gone"), KeyError("gone")])
def test_a_source_that_fails_is_dropped_with_a_note_and_the_others_go_on(error):
    fails = Fake("fails", Reading(power_mw={"in": 5.0}), error, Reading(power_mw={"in": 9.0}))
    works = Fake("works", Reading(settings={"power mode": "15W"}))
    sampler = sampled([fails, works])
    assert (fails.reads, fails.closed, works.reads) == (2, 1, 9)
    assert sampler.labels == (f"fails, until it failed: {error}", "works: 15W")
    conditions = summed_up(sampler.looks, sampler.labels, 2.25)
    assert conditions.power_mw == {"in": Span(low=5.0, median=5.0, high=5.0)}


def test_a_source_that_cannot_be_closed_harms_nobody():
    clumsy = Fake("clumsy", ReaderError("gone"))
    assert sampled([clumsy]).labels == ("clumsy, until it failed: gone",)


def test_a_watch_sums_up(machine):
    source = Fake(
        "source",
        Reading(temperatures_c={"tj": 50.0}, other_load=None),
        Reading(temperatures_c={"tj": 60.0}, other_load=0.1),
        Reading(temperatures_c={"tj": 52.0}, other_load=0.2),
    )
    clock = Clock()
    with Watch([source], 60.0, look_at_machine=lambda: machine, clock=clock) as watch:
        assert watch.latest.temperatures_c == {"tj": 50.0}
        clock.now += 3.0
    conditions = watch.conditions()
    assert conditions == Conditions(
        seconds=3.0,
        readings=2,
        readers=("source",),
        clocks_mhz={},
        temperatures_c={"tj": Span(low=50.0, median=55.0, high=60.0)},
        power_mw={},
        throttled=(),
        other_load=Span(low=0.1, median=0.1, high=0.1),
        energy_mj=None,
        disturbed=(),
    )
    assert source.closed == 1
    assert Conditions.model_validate_json(conditions.model_dump_json()) == conditions
    assert json.loads(conditions.model_dump_json())["other_load"]["high"] == 0.1


def test_a_watch_goes_on_by_itself_and_ends(machine):
    source = Fake("source", Reading())
    threads = threading.active_count()
    with Watch([source], 0.01, look_at_machine=lambda: machine) as watch:
        end = time.monotonic() + 5
        while source.reads < 5 and time.monotonic() < end:
            time.sleep(0.01)
        during = watch.conditions()
    assert 5 <= during.readings < watch.conditions().readings + 1
    assert threading.active_count() == threads
    reads = source.reads
    time.sleep(0.05)
    assert source.reads == reads


def test_an_error_of_what_is_measured_comes_through_and_the_sources_are_closed(machine):
    source = Fake("source", Reading())
    with (
        pytest.raises(RuntimeError, match="the engine is broken"),
        Watch([source], 60.0, look_at_machine=lambda: machine),
    ):
        raise RuntimeError("the engine is broken")
    assert source.closed == 1


def test_a_machine_that_cannot_be_looked_at_does_not_end_the_measurement():
    def broken():
        raise OSError("no /proc")

    with Watch([Fake("source", Reading())], 60.0, look_at_machine=broken) as watch:
        pass
    assert watch.conditions().disturbed == ()


def test_a_machine_that_changes_meanwhile_is_marked(machine):
    machines = iter([machine, machine.model_copy(update={"governor": "powersave"})])
    with Watch([], 60.0, look_at_machine=lambda: next(machines)) as watch:
        pass
    assert watch.conditions().disturbed == ("the governor changed from None to powersave",)


def test_a_watch_needs_time_between_looks():
    with pytest.raises(ValueError, match=r"every_s must be above 0, got 0; 0\.25 is usual"):
        Watch([], 0)


def test_a_real_watch_of_this_machine():
    with Watch(readers_of_this_machine(), 0.1) as watch:
        time.sleep(0.5)
    conditions = watch.conditions()
    assert conditions.readings >= 3
    assert "psutil" in conditions.readers
    assert conditions.seconds >= 0.5
    # other work on the machine of these tests is real; nothing else may be found on it
    others = [reason for reason in conditions.disturbed if reason.startswith("others kept")]
    assert bool(others) == (conditions.other_load.median > OTHERS)


# ---- energy


def test_energy_is_the_input_of_the_board_over_time(looks):
    rail = [Reading(power_mw={"VDD_IN": mw, "VDD_SOC": 9.0}) for mw in (1000.0, 3000.0, 1000.0)]
    # two quarters of a second between three looks, 2000 mW in the middle of each
    assert energy_mj(looks(rail[0], rail[1], Reading(), rail[2])) == pytest.approx(500 + 1000)
    assert energy_mj(looks(*rail)) == pytest.approx(1000.0)
    assert energy_mj(looks(rail[0])) is None


def test_a_board_that_is_metered_whole_is_not_counted_twice(looks):
    both = Reading(power_mw={"VIN": 40_000.0, "gpu": 20_000.0}, energy_mj={"package-0": 7.0})
    assert energy_mj(looks(both, both, both)) == pytest.approx(20_000.0)


def test_parts_are_added_up(looks):
    readings = [
        Reading(power_mw={"gpu": 20_000.0}, energy_mj={"package-0": used}) for used in (5.0, 105.0)
    ]
    assert energy_mj(looks(*readings)) == pytest.approx(100.0 + 5_000.0)
    assert energy_mj(looks(*[Reading(energy_mj={"package-0": 5.0})] * 3)) is None
    assert energy_mj([]) is None


# ---- spans


def test_a_span():
    assert span([3.0, 1.0, 2.0]) == Span(low=1.0, median=2.0, high=3.0)
    with pytest.raises(ValidationError, match=r"low <= median <= high, got 2.0 / 1.0 / 3.0"):
        Span(low=2.0, median=1.0, high=3.0)
    with pytest.raises(ValidationError):
        Span(low=0.0, median=float("nan"), high=1.0)
