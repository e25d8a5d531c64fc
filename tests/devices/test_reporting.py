from xml.etree import ElementTree

import numpy as np
import pytest

from devices.budget import Checked, judge_budget, judged
from devices.latency import UNWATCHED
from devices.profile import LatencyBudget, load_profile
from devices.reporting.files import write_reports
from devices.reporting.histogram import ASCII, EIGHTHS, blocks_for, histogram
from devices.reporting.junit import junit
from devices.reporting.markdown import markdown, plain
from devices.reporting.table import HEADERS, facts, rows, verdict_line
from devices.reporting.xunit import clean
from devices.telemetry.conditions import Span

BUDGET = LatencyBudget(p50_ms=10, p90_ms=20, p99_ms=30)


def flat(value):
    return Span(low=value, median=value, high=value)


WATCHED = UNWATCHED.model_copy(
    update={
        "seconds": 10.0,
        "readings": 40,
        "readers": ("thermal", "cpufreq: performance"),
        "clocks_mhz": {f"cpu{i}": flat(1500.0) for i in range(6)},
        "temperatures_c": {"gpu": Span(low=51.0, median=58.0, high=61.0)},
        "power_mw": {"VDD_IN": flat(9000.0)},
        "throttled": ("soft temperature limit",),
        "other_load": flat(0.0),
        "energy_mj": 5000.0,
    }
)


@pytest.fixture
def check(make_report):
    """A check of such latencies and conditions against a budget of 10, 20 and 30 ms."""

    def make(samples_ms=(8.0,) * 500, *, title="build/bundle", disturbed=(), watched=UNWATCHED):
        conditions = watched.model_copy(update={"disturbed": disturbed})
        report = make_report(samples_ms, conditions=conditions)
        return Checked(title, report, judge_budget(report, BUDGET, 512), "cpu")

    return make


# the table


def test_a_row_for_each_percentile(check):
    table = rows(check((8.0,) * 64 + (12.0,)))
    assert [row.name for row in table] == ["p50", "p90", "p95", "p99"]
    assert table[0].cells == ("8.00", "8.00", "10", "65")
    assert (table[0].note, table[0].verdict) == ("within", "pass")
    assert table[3].cells == ("-", "-", "30", "-")
    assert (table[3].note, table[3].verdict) == ("needs 459 images, has 65", None)
    assert all(len(row.cells) == len(HEADERS) for row in table)


def test_a_row_says_what_became_of_its_promise(check):
    few = (9.0,) * 21 + (11.0,) * 20
    assert rows(check(few))[0].note == "not shown"
    assert [row.note for row in rows(check((15.0,) * 50))][:2] == ["over", "within"]
    assert [row.note for row in rows(check(disturbed=("hot",)))] == [
        "disturbed",
        "disturbed",
        "",
        "disturbed",
    ]


def test_facts_of_a_board_that_tells_all(check):
    assert facts(check(watched=WATCHED)) == {
        "cold start": "655 ms from process start to first image, median of 3 (640 to 700)",
        "load": "120 ms, then 11.0 ms for the first image",
        "memory": "100 MiB at most, of 512",
        "energy": "10.0 mJ an image, of all that the board meters",
        "clocks": "cpu0 1500 MHz, cpu1 1500 MHz, cpu2 1500 MHz, cpu3 1500 MHz and 2 more",
        "temperature": "gpu 58 (51 to 61) C",
        "power": "VDD_IN 9000 mW",
        "throttled": "soft temperature limit",
        "other load": "others kept 0.0 cores busy (0.0 to 0.0)",
        "watched": "40 looks in 10 s: thermal, cpufreq: performance",
    }


def test_facts_of_a_machine_that_tells_nothing(check):
    told = facts(check())
    assert set(told) == {"cold start", "load", "memory", "watched"}
    assert told["watched"] == "nobody looked at the machine meanwhile"


def test_no_cold_starts_are_no_fact(make_report):
    report = make_report().model_copy(update={"cold_ms": ()})
    assert "cold start" not in facts(judged("b", report, load_profile("cpu")))


def test_clumps_are_said_where_a_bound_stands_on_too_few_images(check):
    calm, slow = (8.0,) * 475, tuple(12 + number / 100 for number in range(25))
    spread = tuple(np.random.default_rng(0).permutation(calm + slow))
    assert "clumps" not in facts(check(spread))
    told = facts(check(calm + slow))["clumps"]
    assert "so these 500 count as fewer independent ones" in told
    assert "p99 needs 459 and has" in told


@pytest.mark.parametrize(
    ("samples", "disturbed", "words"),
    [
        ((8.0,) * 500, (), "within the budget of cpu"),
        (
            (8.0,) * 64,
            (),
            "within the budget of cpu; p99 not judged, --mode normal takes more images",
        ),
        ((15.0,) * 64, (), "over the budget of cpu"),
        ((15.0,) * 64, ("hot",), "cannot be judged against the budget of cpu"),
    ],
)
def test_the_verdict_in_one_line(check, samples, disturbed, words):
    assert verdict_line(check(samples, disturbed=disturbed)) == words


# the histogram


def bar_of(line: str) -> str:
    return line.split("ms ", 1)[1].split(" ", 1)[0]


def counts(lines: list[str]) -> list[int]:
    bars = [line for line in lines if not line.startswith("beyond")]
    return [int(line.split("ms ", 1)[1].split(" ")[1]) for line in bars]


def test_bars_hold_every_image_and_marks_lie_in_theirs():
    samples = [10.0] * 50 + [11.0] * 30 + [14.0] * 20
    lines = histogram(samples, marks={"p50": 10.5, "budget": 12.1, "far": 99.0}, width=80)
    assert sum(counts(lines)) == 100
    assert bar_of(lines[0]).count("#") == max(len(bar_of(line)) for line in lines[:-1])
    (p50,) = [line for line in lines if "p50" in line]
    assert p50.split()[:2] == ["10.5", "ms"]
    (budget,) = [line for line in lines if "budget" in line]
    assert budget.split()[:2] == ["12.0", "ms"]
    assert lines[-1] == "beyond: far 99 ms"


def test_the_tail_is_gathered_in_one_last_bar():
    samples = [*np.random.default_rng(0).normal(10, 0.3, 990), *range(20, 30)]
    lines = histogram(samples, marks={"p99": 25.0}, width=80)
    assert len(lines) < 20
    assert lines[-1].lstrip().startswith("> ")
    assert lines[-1].endswith("p99, up to 29.0 ms")
    assert sum(counts(lines)) == 1000
    assert 10 <= counts(lines)[-1] <= 40


@pytest.mark.parametrize("width", [40, 80, 120, 200])
@pytest.mark.parametrize("blocks", [ASCII, EIGHTHS])
def test_no_line_is_wider_than_the_terminal(width, blocks):
    samples = list(np.random.default_rng(1).gamma(3.0, 2.0, 2000) + 4)
    lines = histogram(samples, marks={"p50": 9.0, "p99": 20.0}, width=width, blocks=blocks)
    assert max(map(len, lines)) <= width


def test_a_single_image_is_never_drawn_as_nothing():
    lines = histogram([10.0] * 5000 + [20.0], marks={}, width=80, blocks=EIGHTHS)
    assert bar_of(lines[-1]) == EIGHTHS[0]
    assert counts(lines)[-1] == 1


def test_an_empty_bar_is_empty():
    lines = histogram([10.0] * 50 + [20.0] * 50, marks={}, width=80)
    assert 0 in counts(lines)
    assert any(line.rstrip().endswith("ms  0") for line in lines)


@pytest.mark.parametrize("samples", [[5.0], [5.0] * 1000, [1e-4, 2e-4], [0.0, 0.0], [90_000.0]])
def test_strange_samples_have_a_histogram_too(samples):
    assert sum(counts(histogram(samples, marks={"p50": 5.0}, width=80))) == len(samples)


def test_blocks_only_where_the_terminal_has_them():
    assert blocks_for("utf-8") == EIGHTHS
    assert blocks_for("ascii") == blocks_for("latin-1") == blocks_for("no such") == ASCII


# Markdown


def test_markdown_of_a_check(check):
    text = markdown([check((8.0,) * 64)])
    assert text.startswith("### build/bundle: within the budget\n\n**within the budget of cpu;")
    assert "| 64 images | ms | at most | budget | count as |  |\n" in text
    assert "| p50 | 8.00 | 8.00 | 10 | 64 | within |\n" in text
    assert "| p99 | - | - | 30 | - | needs 459 images, has 64 |\n" in text
    assert text.count("<details>") == text.count("</details>") == 1


def test_every_row_of_a_markdown_table_has_as_many_cells(check):
    text = markdown([check(disturbed=("a | b\n<b>",), watched=WATCHED)])
    table = [line for line in text.splitlines() if line.startswith("|")]
    wide = [line.replace("\\|", "").count("|") for line in table]
    assert wide[:6] == [7] * 6
    assert set(wide[6:]) == {3}


def test_markdown_says_why_it_does_not_pass(check):
    text = markdown([check((15.0,) * 64, disturbed=("the clock fell",))])
    assert "### build/bundle: cannot be judged\n" in text
    assert "\n- the clock fell\n- p50 is 15.00 ms, the budget is 10 ms\n" in text


def test_markdown_of_what_failed(check):
    text = markdown([check(title="board1")], {"board2": "it hung up | half-way"})
    assert "### board1: within the budget\n" in text
    assert text.endswith("### board2: failed\n\n- it hung up \\| half-way\n")


def test_nothing_in_a_name_becomes_markdown():
    assert plain("a|b `c`\n<img> [x](y) # *z*") == (r"a\|b \`c\` \<img\> \[x\](y) \# \*z\*")


def test_a_name_that_no_file_can_hold_is_written_all_the_same(check, tmp_path):
    strange = check(title="b\ud800\x1b[31m")
    write_reports([strange], to_markdown=tmp_path / "m", to_junit=tmp_path / "j")
    assert (tmp_path / "m").read_text().startswith(r"### b??\[31m: within")


# JUnit XML


def parsed(*checks, failed=None):
    return ElementTree.fromstring(junit(checks, failed or {}).encode())


def outcomes(suite) -> dict[str, str]:
    """The name of each test and what became of it."""
    return {
        case.get("name"): next((child.tag for child in case if child.tag != "system-out"), "passed")
        for case in suite.iter("testcase")
    }


def test_a_test_for_each_promise(check):
    root = parsed(check((15.0,) * 64))
    (suite,) = root.findall("testsuite")
    assert outcomes(suite) == {
        "p50 within 10 ms": "failure",
        "p90 within 20 ms": "passed",
        "p99 within 30 ms": "error",
        "peak memory within 512 MiB": "passed",
        "the machine is still": "passed",
    }
    numbers = {key: suite.get(key) for key in ("tests", "failures", "errors", "skipped")}
    assert numbers == {"tests": "5", "failures": "1", "errors": "1", "skipped": "0"}
    assert suite.find("testcase/failure").get("message") == "p50 is 15.00 ms, the budget is 10 ms"


def test_a_promise_without_enough_images_is_skipped_where_the_rest_passes(check):
    (suite,) = parsed(check((8.0,) * 64))
    assert outcomes(suite)["p99 within 30 ms"] == "skipped"
    assert suite.find("testcase/skipped").get("message") == "p99 needs 459 images, has 64"


def test_nothing_passes_on_a_disturbed_machine(check):
    (suite,) = parsed(check(disturbed=("the clock fell",)))
    assert set(outcomes(suite).values()) == {"error"}


def test_what_failed_is_an_error_too(check):
    good, bad = parsed(check(title="board1"), failed={"board2": "no route"})
    assert set(outcomes(good).values()) == {"passed"}
    assert outcomes(bad) == {"measured": "error"}
    assert bad.get("errors") == "1"


def test_properties_tell_machine_and_verdict(check):
    (suite,) = parsed(check(watched=WATCHED))
    told = {one.get("name"): one.get("value") for one in suite.iter("property")}
    assert told["verdict"] == "within the budget"
    assert told["budget of"] == "cpu"
    assert "Test CPU" in told["machine"]
    assert told["temperature"] == "gpu 58 (51 to 61) C"


def test_any_text_makes_valid_xml(check):
    nasty = 'a<b & "c"\x00\x1b[31m\ud800'
    (suite,) = parsed(check(title=nasty, disturbed=(nasty,)))
    assert suite.get("name") == clean(nasty)
    assert "\x00" not in clean(nasty)
    assert clean('plain <&> "text"') == 'plain <&> "text"'


def test_reports_are_written_where_they_are_asked_for(check, tmp_path):
    write_reports([check()], to_markdown=None, to_junit=None)
    assert not list(tmp_path.iterdir())
    write_reports([check()], {"x": "y"}, to_markdown=tmp_path / "m", to_junit=tmp_path / "j")
    assert "### x: failed" in (tmp_path / "m").read_text()
    assert len(ElementTree.parse(tmp_path / "j").getroot()) == 2
