import pytest

from devices.machine import Machine
from devices.telemetry.judge import FALL, GROUP, OTHERS, disturbed, throttled, unsteady
from devices.telemetry.reading import BUSY, Reading


def clock(*megahertz, busy=1.0):
    return [Reading(clocks_mhz={"gpu": mhz}, busy={"gpu": busy}) for mhz in megahertz]


def test_a_still_machine_is_not_disturbed(looks, machine):
    still = Reading(
        clocks_mhz={"gpu": 1300.0},
        busy={"gpu": 1.0},
        temperatures_c={"tj": 70.0},
        limits_c={"tj": 99.0},
        events={"under-voltage": 0, "core too hot": 4},
        settings={"governor": "schedutil"},
        other_load=0.05,
    )
    assert disturbed(looks(*[still] * 40), machine, machine) == ()
    assert disturbed([]) == ()
    assert disturbed(looks(Reading())) == ()


def test_a_flag_is_a_reason_once(looks):
    seen = looks(Reading(), Reading(throttled=("throttled", "hot")), Reading(throttled=("hot",)))
    assert throttled(seen) == ("throttled", "hot")
    assert disturbed(seen) == ("throttled: throttled", "throttled: hot")


def test_what_had_happened_before_does_not_count(looks):
    old = Reading(events={"under-voltage": 1, "core too hot": 7})
    assert throttled(looks(old, old, old)) == ()
    new = Reading(events={"under-voltage": 1, "core too hot": 8})
    assert throttled(looks(old, Reading(), new, new)) == ("core too hot",)


def test_a_flag_that_is_up_and_has_just_happened_is_one_reason(looks):
    before = Reading(events={"under-voltage": 0})
    after = Reading(throttled=("under-voltage",), events={"under-voltage": 1})
    assert throttled(looks(before, after)) == ("under-voltage",)


@pytest.mark.parametrize(
    ("name", "series", "fell"),
    [
        ("steady", clock(*[1300] * 40), None),
        ("slow all along", clock(*[306] * 40), None),
        ("one low look", clock(*[1300] * 12, 306, *[1300] * 12), None),
        ("two low looks in a group", clock(*[1300] * 10, 306, 306, *[1300] * 10), None),
        ("a step of a governor", clock(*[1300] * 10, *[1230] * 10), None),
        ("just at a tenth", clock(*[1000] * 10, *[1000 * (1 - FALL)] * 10), None),
        ("rises when work begins", clock(*[306] * 6, *[1300] * 20), None),
        ("too few looks to say", clock(*[1300] * (GROUP - 1), *[300] * GROUP), None),
        ("falls", clock(*[1300] * 10, *[816] * 10), (1300, 816)),
        ("falls at the very end", clock(*[1300] * 10, *[816] * GROUP), (1300, 816)),
        ("falls in the rest", clock(*[1300] * 8, *[816] * 6), (1300, 816)),
        ("falls and comes back", clock(*[1300] * 10, *[816] * 5, *[1300] * 10), (1300, 816)),
        ("falls in steps", clock(*[1300] * 5, *[1250] * 5, *[1100] * 5), (1300, 1100)),
        ("rises, then falls", clock(*[306] * 5, *[1300] * 5, *[816] * 7), (1300, 816)),
    ],
)
def test_a_clock_that_falls_under_load(looks, name, series, fell):
    expected = f"the gpu clock fell from {fell[0]} to {fell[1]} MHz under load" if fell else None
    assert disturbed(looks(*series)) == ((expected,) if expected else ())


def test_a_clock_that_falls_when_the_work_ends_is_none(looks):
    working = clock(*[1300] * 20)
    idle = clock(*[114] * 40, busy=0.0)
    little = clock(*[510] * 40, busy=BUSY - 0.01)
    assert disturbed(looks(*idle, *working, *idle, *little)) == ()


def test_a_clock_of_unknown_load_is_recorded_and_not_judged(looks):
    series = [Reading(clocks_mhz={"arm": mhz}) for mhz in [2400] * 20 + [1500] * 20]
    assert disturbed(looks(*series)) == ()


def test_seldom_read_sources_are_put_together(looks):
    """Every other look has no clock; those that have one are judged."""
    series = [part for reading in clock(*[1300] * 5, *[816] * 5) for part in (reading, Reading())]
    assert disturbed(looks(*series)) == ("the gpu clock fell from 1300 to 816 MHz under load",)


def test_a_sensor_at_its_limit(looks):
    cool = Reading(temperatures_c={"tj": 98.9, "board": 120.0}, limits_c={"tj": 99.0})
    hot = Reading(temperatures_c={"tj": 99.0})
    assert disturbed(looks(cool)) == ()
    assert disturbed(looks(cool, hot)) == (
        "tj reached 99.0 C, and from 99 C on the board slows down",
    )
    assert disturbed(looks(Reading(limits_c={"gone": 80.0}))) == ()


def test_settings_that_change_are_named_once(looks, machine):
    first = Reading(settings={"governor": "performance", "power mode": "25W"})
    other = Reading(settings={"governor": "powersave", "power mode": "25W"})
    expected = ("the governor changed from performance to powersave",)
    assert disturbed(looks(first, Reading(), other, first)) == expected
    before = machine.model_copy(update={"governor": "performance"})
    after = machine.model_copy(update={"governor": "powersave"})
    assert disturbed(looks(first, other), before, after) == expected
    assert disturbed([], before, after) == expected


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"power_mode": "7W"}, "the power mode changed from None to 7W"),
        ({"cores": 1}, None),  # a runtime that pins its threads
        ({"memory_mib": 7999, "runtimes": {}}, None),
    ],
)
def test_a_machine_that_changed(machine: Machine, change, reason):
    changed = machine.model_copy(update=change)
    assert disturbed([], machine, changed) == ((reason,) if reason else ())
    assert disturbed([], None, changed) == ()


def test_others_at_work(looks):
    quiet = [Reading(other_load=OTHERS)] * 3 + [Reading(other_load=2.0)] * 2 + [Reading()]
    assert disturbed(looks(*quiet)) == ()
    busy = [Reading(other_load=0.1)] * 2 + [Reading(other_load=0.9)] * 3
    assert disturbed(looks(*busy)) == (
        "others kept 0.90 cores busy (the middle of 5 looks, 0.25 is allowed)",
    )


def test_a_neighbour_disturbs_and_does_not_make_the_machine_unsteady(looks):
    busy = looks(*(Reading(other_load=0.9, throttled=("too hot",)) for _ in range(5)))
    assert unsteady(busy) == ("throttled: too hot",)
    assert len(disturbed(busy)) == 2
