import re
from xml.etree import ElementTree

import pytest

from devices.gate.junit import junit
from devices.gate.junit import not_compared as not_compared_junit
from devices.gate.markdown import markdown, not_compared
from devices.gate.report import Images


def with_images(report, **changes):
    facts = {
        "against": "truth",
        "images": 9,
        "baseline_psnr_db": 29.45,
        "candidate_psnr_db": 28.4,
        "baseline_lpips": 0.29,
        "candidate_lpips": 0.31,
        "worse": "images lose 1.05 dB",
    }
    pairs = tuple(
        one.model_copy(update={"images": Images(**facts | changes)}) for one in report.pairs
    )
    return report.model_copy(update={"pairs": pairs})


def test_the_verdict_comes_first(report):
    lines = markdown(report()).splitlines()
    assert lines[0] == "### :white_check_mark: Latency gate: not slower"
    assert lines[2].startswith("**not slower: latency ")


@pytest.mark.parametrize(
    ("options", "mark", "words"),
    [
        ({"steady": 1.2}, ":x:", "slower"),
        ({"memory": 1.3}, ":x:", "more memory"),
        ({"noise": 1.0, "seed": 2}, ":grey_question:", "cannot say"),
    ],
)
def test_every_verdict_has_its_words(report, options, mark, words):
    assert markdown(report(**options)).startswith(f"### {mark} Latency gate: {words}\n")


def test_there_is_a_line_for_each_pair(report):
    text = markdown(report("one", "two", steady=1.2))
    assert "| pair | latency | cold start | peak memory | images |" in text
    (line,) = [line for line in text.splitlines() if line.startswith("| two |")]
    assert re.search(r"5\.\d\d ms to \d\.\d\d ms \(\+[12]\d\.\d%\): \*\*slower\*\*", line)
    assert "300 ms to 300 ms" in line
    assert "120 MiB to 120 MiB" in line
    assert "not compared, as both are the same engine" in line


def test_it_says_what_it_could_have_seen(report):
    seen = markdown(report()).partition("What it could have seen:")[2]
    assert re.search(
        r"- restore on cpu: 7 rounds that spread by 0\.\d% rule out \+0\.\d% and more with "
        "95 % confidence, for what is slower there would have been more\n",
        seen,
    )
    seen = markdown(report(steady=1.2))
    assert "and more with 95 % confidence, would show slow-downs from 5% on 9 times in 10" in seen


def test_images_have_their_figures(report):
    text = markdown(with_images(report()))
    assert "PSNR 29.45 to 28.40 dB, LPIPS 0.2900 to 0.3100 (9 images, truth): worse images" in text
    text = markdown(with_images(report(), worse="", baseline_lpips=None))
    assert "PSNR 29.45 to 28.40 dB (9 images, truth): not worse" in text
    text = markdown(with_images(report(), candidate_psnr_db=None))
    assert "29.45 dB, the candidate's images are none" in text


def test_the_rest_is_folded_away(report):
    one = report()
    folded = markdown(one).partition("<details>")[2]
    assert "Test CPU" in folded
    assert one.pairs[0].candidate_sha256 in folded
    assert folded.rstrip().endswith("</details>")


def test_other_reasons_and_notes_are_listed(report):
    text = markdown(report(memory=1.3), ["a note | with a bar"])
    assert "\n- latency " in text
    assert "\n- a note \\| with a bar\n" in text


def test_nothing_of_a_file_is_markdown(report):
    name = "x|y <script>alert(1)</script> [a](b)\n## c"
    text = markdown(report(name))
    assert "<script>" not in text
    assert "\n## c" not in text
    assert "[a]" not in text
    rows = [line for line in text.splitlines() if line.startswith("| x")]
    assert len(re.findall(r"(?<!\\)\|", rows[0])) == 6


def test_without_a_baseline_it_says_so():
    text = not_compared("no baseline for a|b", ["latency 5.00 ms"])
    assert text.startswith("### Latency gate: no baseline\n\n**no baseline for a\\|b**\n")
    assert "- latency 5.00 ms" in text


def cases(text):
    return {case.get("name"): case for case in ElementTree.fromstring(text).iter("testcase")}


def test_junit_has_a_test_for_each_question(report):
    tests = cases(junit(report()))
    assert list(tests) == [
        "the gate passes",
        "latency within 5% of the baseline",
        "cold start within 20% of the baseline",
        "peak memory within 10% of the baseline",
        "images as good as the baseline's",
    ]
    assert not any(case.findall(tag) for case in tests.values() for tag in ("failure", "error"))


def test_junit_fails_what_grew(report):
    root = ElementTree.fromstring(junit(with_images(report(steady=1.2))))
    tests = cases(ElementTree.tostring(root))
    failed = {name for name, case in tests.items() if case.find("failure") is not None}
    assert failed == {
        "the gate passes",
        "latency within 5% of the baseline",
        "images as good as the baseline's",
    }
    assert [suite.get("failures") for suite in root] == ["1", "2"]


def test_junit_of_what_cannot_be_said_is_an_error(report):
    tests = cases(junit(report(noise=1.0, seed=2)))
    assert tests["the gate passes"].find("error") is not None
    assert tests["latency within 5% of the baseline"].find("error") is not None
    assert tests["cold start within 20% of the baseline"].find("error") is None


def test_junit_holds_no_character_that_xml_forbids(report):
    assert "x\ufffdy" in junit(report("x\x00y"))


def test_junit_without_a_baseline_is_skipped():
    (case,) = cases(not_compared_junit("a on b", "no baseline")).values()
    assert case.find("skipped").get("message") == "no baseline"
