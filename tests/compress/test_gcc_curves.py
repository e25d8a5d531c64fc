"""Curves of a log: what they show, and that the page is whole."""

import json
import re
from xml.etree import ElementTree

import pytest

from compress.curves import read_metrics, write_curves
from deploy.report.curves import DASHES, POINTS, Curve, curves

GATES = {f"gates/open_{n}": 1.0 for n in range(1, 5)}


def write_log(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def drawn(plot):
    """The drawing as any reader of SVG would read it back."""
    return ElementTree.fromstring(ElementTree.tostring(plot, encoding="unicode"))


def lines_of(plot):
    return [
        [tuple(map(float, place.split(","))) for place in node.get("points").split()]
        for node in drawn(plot).iter("polyline")
    ]


def test_a_curve_rises_where_its_number_does():
    plot = curves("Rising", [Curve("open", (1, 2, 3), (0.2, 0.5, 0.9))], measure="share")
    ((first, second, third),) = lines_of(plot)
    assert first[0] < second[0] < third[0]
    assert first[1] > second[1] > third[1]  # y counts from the top
    assert "open from 0.2 to 0.9" in plot.get("aria-label")


def test_shares_have_the_whole_axis_whatever_they_are():
    high, low = (
        lines_of(curves("x", [Curve("a", (1, 2), (v, v))], measure="share", share=True))[0][0][1]
        for v in (1.0, 0.0)
    )
    flat = drawn(curves("x", [Curve("a", (1, 2), (0.5, 0.5))], measure="share", share=True))
    ticks = [node.text for node in flat.iter("text")]
    assert {"0", "1"} <= set(ticks)
    assert low - high == pytest.approx(190.0)


def test_a_long_curve_is_drawn_by_the_means_of_its_pieces():
    steps = range(1, 8 * POINTS + 1)
    ((*places,),) = lines_of(
        curves("x", [Curve("a", steps, [s % 2 for s in steps])], measure="share", share=True)
    )
    assert len(places) == POINTS
    assert len({y for _, y in places}) == 1  # 0, 1, 0, 1, ... is a half everywhere


def test_a_single_point_can_be_seen():
    ((first, second),) = lines_of(curves("x", [Curve("a", (5,), (0.5,))], measure="share"))
    assert first == second


def test_each_curve_has_a_pattern_and_a_name():
    four = [Curve(f"layer {n}", (1, 2), (0.1 * n, 0.2 * n)) for n in range(4)]
    plot = drawn(curves("x", four, measure="share"))
    dashes = [node.get("stroke-dasharray", "") for node in plot.iter("polyline")]
    assert dashes == list(DASHES)
    words = [node.text for node in plot.iter("text")]
    assert all(curve.name in words for curve in four)


def test_more_curves_than_can_be_told_apart_are_refused():
    with pytest.raises(ValueError, match="1 to 4 curves can be told apart, got 5"):
        curves("x", [Curve("a", (1,), (1.0,))] * 5, measure="share")


def test_a_curve_without_points_is_refused():
    with pytest.raises(ValueError, match="a has 2 steps and 1 values"):
        curves("x", [Curve("a", (1, 2), (1.0,))], measure="share")


def test_numbers_that_are_not_there_at_every_step_keep_their_steps(tmp_path):
    rows = [{"step": 1, "student/l1": 3.0}, {"step": 2, "student/l1": 2.0, "gates/open": 0.5}]
    series = read_metrics([write_log(tmp_path / "metrics.jsonl", rows)])
    assert list(series["student/l1"].steps) == [1, 2]
    assert list(series["gates/open"].steps) == [2]
    assert list(series["gates/open"].values) == [0.5]


def test_stages_are_one_curve(tmp_path):
    logs = [
        write_log(tmp_path / f"{name}.jsonl", [{"step": s, "student/l1": s} for s in (1, 2)])
        for name in "ab"
    ]
    assert list(read_metrics(logs)["student/l1"].steps) == [1, 2, 3, 4]


def test_a_page_shows_the_balance_the_gaps_and_the_gates(tmp_path):
    row = {
        "discriminator/adversarial": 0.4,
        "student_discriminator/adversarial": 0.3,
        "student/content": 2.0,
        "gates/gap_teacher": 1.0,
        "gates/gap_student": 0.8,
        **GATES,
    }
    log = write_log(tmp_path / "metrics.jsonl", [{"step": s, **row} for s in (1, 2, 3)])
    write_curves([log], tmp_path / "curves.html")
    page = (tmp_path / "curves.html").read_text()
    assert [len(re.findall("<polyline", figure)) for figure in page.split("<figure>")[1:]] == [
        2,
        2,
        4,
    ]
    assert "student discriminator" in page
    assert "layer 4" in page
    assert "student/content" not in page
    assert not list(tmp_path.glob(".*"))


def test_a_training_without_gates_shows_its_discriminator(tmp_path):
    log = write_log(tmp_path / "m.jsonl", [{"step": 1, "discriminator/adversarial": 0.4}])
    write_curves([log], tmp_path / "curves.html")
    assert (tmp_path / "curves.html").read_text().count("<figure>") == 1


def test_a_training_without_a_discriminator_has_no_balance(tmp_path):
    log = write_log(tmp_path / "m.jsonl", [{"step": 1, "student/imitation": 0.4}])
    write_curves([log], tmp_path / "curves.html")
    assert not (tmp_path / "curves.html").exists()


@pytest.mark.parametrize("line", ["{", '{"student/l1": 1.0}', "[1]", '{"step": 1, "a": "x"}'])
def test_a_file_that_is_no_log_is_refused(tmp_path, line):
    path = tmp_path / "m.jsonl"
    path.write_text('{"step": 1, "a": 1.0}\n' + line + "\n")
    with pytest.raises(ValueError, match=r"line 2 of .*m\.jsonl is none of a log"):
        read_metrics([path])


def test_a_log_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"there is no log .*m\.jsonl"):
        read_metrics([tmp_path / "m.jsonl"])
