import json
import logging
import multiprocessing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from devices.gate.history import (
    RECENT,
    Equal,
    Steady,
    equal_entry,
    history_file,
    known_spread,
    recall,
    remember,
    steady_entries,
    warn_from_history,
)
from devices.gate.lines import append_lines, read_lines
from devices.gate.report import Once
from devices.gate.rounds import Pair, compare
from devices.sealed import read_sealed

RUNTIMES = {"openvino": "2026.2.1"}
DAY = datetime(2026, 1, 1, tzinfo=UTC)


def equal(slowdown, *, day=0, runtimes=RUNTIMES):
    return Equal(
        at=DAY + timedelta(days=day),
        engine_sha256="ab" * 32,
        profile="cpu",
        runtimes=runtimes,
        slowdown=slowdown,
        rounds=7,
    )


def steady(*medians_ms, day=0, name="restore", runtimes=RUNTIMES):
    return Steady(
        at=DAY + timedelta(days=day),
        name=name,
        engine_sha256="ab" * 32,
        profile="cpu",
        runtimes=runtimes,
        medians_ms=medians_ms,
    )


def days(*latencies_ms):
    return [steady(ms, ms + 1, ms + 2, day=day) for day, ms in enumerate(latencies_ms)]


def test_what_is_remembered_is_recalled(tmp_path):
    path = tmp_path / "a" / "b.jsonl"
    entries = [equal(0.01), steady(4.0, 4.1, 4.2), equal(-0.02, day=1)]
    remember(path, entries[:2])
    remember(path, entries[2:])
    assert recall(path) == entries


def test_no_file_is_an_empty_history(tmp_path):
    assert recall(tmp_path / "none.jsonl") == []


def test_a_line_that_was_cut_off_costs_itself_only(tmp_path, caplog):
    path = tmp_path / "h.jsonl"
    remember(path, [equal(0.01), equal(0.02)])
    path.write_bytes(path.read_bytes()[:-20])
    with caplog.at_level(logging.WARNING):
        assert recall(path) == [equal(0.01)]
    assert "line 2 is left out: Unterminated string" in caplog.text
    remember(path, [equal(0.03)])
    assert recall(path) == [equal(0.01), equal(0.03)]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("[1]", "it has no schema_version"),
        ('{"kind": "equal"}', "it has no schema_version"),
        ('{"schema_version": 2}', "its schema_version is 2, this pocketgan reads 1"),
        ('{"schema_version": 0}', "its schema_version is 0, this pocketgan reads 1"),
        ('{"schema_version": 1, "kind": "odd"}', "'odd'"),
        ('{"schema_version": 1, "kind": "equal"}', "equal.at: Field required"),
    ],
)
def test_a_line_that_cannot_be_read_is_named_and_left_out(tmp_path, caplog, line, why):
    path = tmp_path / "h.jsonl"
    append_lines(path, [line])
    remember(path, [equal(0.01)])
    with caplog.at_level(logging.WARNING):
        assert recall(path) == [equal(0.01)]
    assert f"{path} line 1 is left out" in caplog.text
    assert why in caplog.text


def test_an_older_version_is_migrated_step_by_step(tmp_path):
    path = tmp_path / "h.jsonl"
    old = json.loads(equal(0.01).model_dump_json()) | {"schema_version": -1}
    old["percent"] = 100 * old.pop("slowdown")
    del old["rounds"]
    append_lines(path, [json.dumps(old)])

    def as_fraction(entry):
        return {**entry, "slowdown": entry.pop("percent") / 100}

    def with_rounds(entry):
        return {**entry, "rounds": 7}

    def fixed(entry):
        return {name: value for name, value in entry.items() if name != "percent"}

    migrations = {-1: lambda entry: fixed(as_fraction(entry)), 0: with_rounds}
    assert recall(path, migrations) == [equal(0.01)]


def add_many(path: str, number: int) -> None:
    for _ in range(50):
        append_lines(Path(path), [json.dumps([number] * 500), "1"])


def test_two_processes_may_add_at_once(tmp_path):
    path = tmp_path / "h.jsonl"
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=add_many, args=(str(path), number)) for number in (1, 2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    lines = [json.loads(line) for line in read_lines(path)]
    assert lines[1::2] == [1] * 100
    assert sorted(line[0] for line in lines[::2]) == [1] * 50 + [2] * 50


def test_the_file_is_named_after_the_machine():
    home = Path.home()
    name = "abc123.jsonl"
    assert history_file("abc123", {}) == home / ".local/state/pocketgan/latency" / name
    assert history_file("abc123", {"XDG_STATE_HOME": "/s"}) == Path("/s/pocketgan/latency") / name
    given = {"XDG_STATE_HOME": "/s", "POCKETGAN_HISTORY": "/h"}
    assert history_file("abc123", given) == Path("/h") / name


def test_the_known_spread_is_the_interquartile_range():
    entries = [equal(value / 100) for value in range(-4, 5)]  # -4 % to 4 %
    assert known_spread(entries, RUNTIMES) == pytest.approx(0.04)


def test_few_estimates_or_those_of_other_runtimes_tell_no_spread():
    others = [equal(value / 10, runtimes={"openvino": "2025"}) for value in range(20)]
    assert known_spread([*others, *(equal(0.0) for _ in range(7))], RUNTIMES) is None
    assert known_spread([*others, *(equal(0.0) for _ in range(8))], RUNTIMES) == 0.0


def test_only_the_latest_estimates_count():
    old = [equal(value, day=0) for value in (-0.5, 0.5) * 20]
    new = [equal(0.01, day=1) for _ in range(RECENT)]
    assert known_spread([*new, *old], RUNTIMES) == 0.0


def test_a_short_history_warns_above_a_tenth():
    entries = days(5.0)
    assert warn_from_history(entries, "restore", RUNTIMES, [5.49, 6, 6]) is None
    assert warn_from_history(entries, "restore", RUNTIMES, [5.51, 6, 6]) == (
        "restore takes 5.51 ms and took 5.00 ms before (+10.2%); above 10% is worth a word, "
        "0 earlier changes are too few to judge by. "
        "Compare it with the engine of then: pocketgan gate --baseline OLD --candidate NEW"
    )


def test_a_long_history_sets_the_limit_itself():
    # 3 changes of 0, 3 of 1 % and 3 of 2 %: quartiles 0 and 2 %, so the limit is 8 %
    latencies = [10.0]
    for change in (0, 0.01, 0.02) * 3:
        latencies.append(latencies[-1] * (1 + change))
    entries, last = days(*latencies), latencies[-1]
    assert warn_from_history(entries, "restore", RUNTIMES, [last * 1.079] * 3) is None
    warning = warn_from_history(entries, "restore", RUNTIMES, [last * 1.081] * 3)
    assert warning is not None
    assert "(+8.1%); 9 earlier changes put the limit at 8.0%" in warning


def test_only_the_smallest_of_the_first_three_counts():
    entries = [steady(9.0, 5.0, 9.0, 1.0)]
    assert warn_from_history(entries, "restore", RUNTIMES, [9.0, 9.0, 5.2, 99.0]) is None
    assert warn_from_history(entries, "restore", RUNTIMES, [9.0, 9.0, 9.0, 1.0]) is not None


def test_other_jobs_and_runtimes_are_no_history():
    entries = [
        steady(1.0, 1.0, 1.0, name="other"),
        steady(1.0, 1.0, 1.0, runtimes={}),
        steady(1.0, 1.0),
    ]
    assert warn_from_history(entries, "restore", RUNTIMES, [5.0, 5.0, 5.0]) is None


def test_two_processes_are_too_few_to_compare():
    with pytest.raises(ValueError, match="smallest of 3 processes, got 2; measure more"):
        warn_from_history([], "restore", RUNTIMES, [5.0, 5.0])


def test_a_gate_makes_an_entry_per_engine(make_bundle, machine):
    def measure(bundle):
        latency_ms = 5.0 if bundle.name == "old" else 4.0
        return Once(
            machine=machine,
            cold_ms=500.0,
            load_ms=100.0,
            first_ms=10.0,
            samples_ms=(latency_ms,) * 3,
            peak_rss_mib=100.0,
        )

    old, new = make_bundle("old"), make_bundle("new")
    [pair] = compare([Pair("restore", old, new)], measure).pairs
    sealed = read_sealed(old)
    entries = steady_entries(pair, sealed, sealed, DAY)
    assert [set(entry.medians_ms) for entry in entries] == [{4.0}]  # the same engine: one entry
    other = sealed.model_copy(update={"sha256": sealed.sha256 | {"engine.onnx": "cd" * 32}})
    entries = steady_entries(pair, sealed, other, DAY)
    assert [set(entry.medians_ms) for entry in entries] == [{5.0}, {4.0}]
    assert entries[0].runtimes == {"onnxruntime": "1.0"}
    assert entries[1].engine_sha256 == "cd" * 32
    entry = equal_entry(pair, sealed, DAY)
    assert entry.slowdown == pytest.approx(-0.2)
    assert entry.rounds == len(pair.baseline)
