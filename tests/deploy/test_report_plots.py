"""Plots of the report: axes with round numbers, drawings that are whole and say what they show."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest

from deploy.report.axes import latency, linear
from deploy.report.drawing import LETTER, WIDTH
from deploy.report.plots import BINS, LAYERS, Bar, Point, front, histogram, layers, pareto

HOSTILE = 'a<b> & "c" </svg><script>alert(1)</script>'


def drawn(plot):
    """The drawing as any reader of SVG would read it back."""
    return ElementTree.fromstring(ElementTree.tostring(plot, encoding="unicode"))


def words(plot):
    return [node.text for node in plot.iter("text")]


def point(ms, quality, *, series=0, shipped=False, name="engine"):
    return Point(name, name, ms, quality, series, shipped)


@pytest.mark.parametrize(
    ("values", "zero", "ticks"),
    [
        ([4.3, 14.1], False, (4, 6, 8, 10, 12, 14, 16)),
        ([4.3, 14.1], True, (0, 5, 10, 15)),
        ([0.0031], True, (0, 0.001, 0.002, 0.003, 0.004)),
        ([5.0], False, (4.4, 4.6, 4.8, 5, 5.2, 5.4, 5.6)),
        ([0.0, 0.0], True, (0, 0.2, 0.4, 0.6, 0.8, 1)),
        ([38.2, 100.0], False, (20, 40, 60, 80, 100)),
    ],
)
def test_ticks_are_round_and_hold_every_value(values, zero, ticks):
    axis = linear(values, 0, 100, zero=zero)
    assert axis.ticks == pytest.approx(ticks)
    assert axis.low <= min(values)
    assert axis.high >= max(values)


@pytest.mark.parametrize("seed", range(50))
def test_any_axis_has_a_few_even_ticks(seed):
    rng = np.random.default_rng(seed)
    values = (rng.normal(size=5) * 10.0 ** rng.integers(-6, 6)).tolist()
    axis = linear(values, 0, 100)
    steps = np.diff(axis.ticks)
    assert 3 <= len(axis.ticks) <= 9
    assert np.allclose(steps, steps[0])
    assert re.fullmatch(
        r"(1|2|2\.5|5)(e[+-]\d+)?",
        f"{steps[0] / 10.0 ** np.floor(np.log10(steps[0] * 1.0001)):.6g}",
    )
    assert axis.low <= min(values)
    assert max(values) <= axis.high
    places = [axis.at(value) for value in sorted(values)]
    assert places == sorted(places)
    assert 0 <= min(places) <= max(places) <= 100


def test_latencies_that_lie_far_apart_get_a_logarithmic_axis():
    assert not latency([4.0, 40.0], 0, 100).logarithmic
    axis = latency([4.3, 562.0], 0, 100)
    assert axis.logarithmic
    assert axis.ticks == (2, 5, 10, 20, 50, 100, 200, 500, 1000)
    assert axis.at(40) - axis.at(20) == pytest.approx(axis.at(200) - axis.at(100), abs=0.11)
    assert not latency([0.0, 900.0], 0, 100).logarithmic


def test_a_value_beyond_an_axis_lies_at_its_end():
    axis = linear([0.0, 10.0], 20, 120)
    assert (axis.at(-5), axis.at(0), axis.at(5), axis.at(99)) == (20, 20, 70, 120)


def test_the_front_holds_what_none_beats_in_both():
    slow_and_bad, fast, between, close = point(9, 0.3), point(1, 0.2), point(3, 0.1), point(5, 0.0)
    equal_but_slower = point(6, 0.0)
    everything = [slow_and_bad, equal_but_slower, close, between, fast]
    assert front(everything, low_is_good=True) == [fast, between, close]
    upside = [point(p.ms, 50 - p.quality) for p in everything]
    assert [p.ms for p in front(upside, low_is_good=False)] == [1, 3, 5]


def test_a_pareto_plot_has_every_engine_and_names_the_best():
    points = [
        point(4.3, 0.003, shipped=True, name="openvino int8"),
        point(5.0, 0.001, name="openvino bf16"),
        point(11.0, 0.004, name="onnxruntime int8"),
        point(7.0, 0.002, series=1, name="other"),
    ]
    plot = drawn(pareto(points, measure="LPIPS", floor=0.02))
    marks = [node for node in plot.iter() if "point" in (node.get("class") or "")]
    assert len(marks) == 4
    assert sum("shipped" in mark.get("class") for mark in marks) == 1
    assert len({mark.tag for mark in marks}) == 2, "colour is not all that tells series apart"
    assert {mark.find("title").text for mark in marks} >= {"openvino bf16: 5.00 ms, 0.001"}
    said = words(plot)
    assert "openvino int8" in said
    assert "openvino bf16" in said
    assert "onnxruntime int8" not in said, "another is faster and closer"
    assert "floor 0.02" in said
    assert "LPIPS: lower is closer to float" in said
    assert "openvino int8, 4.30 ms; openvino bf16, 5.00 ms" in plot.find("desc").text


def test_a_pareto_plot_by_psnr_turns_round():
    points = [point(4.0, 44.0, shipped=True), point(9.0, 100.0)]
    plot = drawn(pareto(points, measure="PSNR, dB", floor=None))
    fast, close = (node for node in plot.iter("circle"))
    if float(fast.get("cx")) > float(close.get("cx")):
        fast, close = close, fast
    assert float(close.get("cy")) < float(fast.get("cy")), "higher is better"
    assert "PSNR, dB: higher is closer to float" in words(plot)


def test_names_in_a_pareto_plot_never_cover_each_other():
    points = [point(4 + i / 50, 0.004 - i / 5000, name=f"engine number {i}") for i in range(20)]
    texts = [
        node
        for node in drawn(pareto(points, measure="LPIPS", floor=None)).iter("text")
        if node.text.startswith("engine")
    ]
    boxes = []
    for node in texts:
        width = LETTER * len(node.text)
        shift = {"start": 0, "middle": width / 2, "end": width}[node.get("text-anchor")]
        left, base = float(node.get("x")) - shift, float(node.get("y"))
        assert left >= 0
        assert left + width <= WIDTH
        boxes.append((left, base - 11, left + width, base + 3))
    assert 1 <= len(boxes) < 20
    for index, a in enumerate(boxes):
        for b in boxes[index + 1 :]:
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_a_histogram_has_all_samples_and_both_marks():
    samples = [*np.linspace(4, 5, 60), 400.0]
    plot = drawn(histogram("openvino int8", samples, shipped=True))
    bars = list(plot.iter("rect"))
    assert 2 <= len(bars) <= BINS
    assert all(bar.get("class") == "bar shipped" for bar in bars)
    said = words(plot)
    assert "openvino int8" in said
    (line,) = [text for text in said if text.startswith("p50")]
    assert "p50 4.51 ms, p90 4.92 ms, 61 images, 1 slower than" in line
    assert line.endswith("up to 400.0"), "one slow image does not squeeze the others"
    assert float(next(t for t in said[::-1] if t.replace(".", "").isdigit())) < 10
    assert sum("mark" in (node.get("class") or "") for node in plot.iter("line")) == 2


def test_a_histogram_of_few_samples_has_no_p90():
    plot = drawn(histogram("teacher", [88.0, 89.0, 90.5], shipped=False))
    assert "p50 89.00 ms, 3 images" in words(plot)
    assert sum("mark" in (node.get("class") or "") for node in plot.iter("line")) == 1
    assert list(drawn(histogram("same", [5.0, 5.0], shipped=False)).iter("rect"))


def test_bars_of_layers_are_as_long_as_what_they_cost():
    bars = [
        Bar("conv2", 0.004, "0.0040, 38.1 dB", True),
        Bar("conv1", 0.001, "0.0010, 44 dB", False),
    ]
    plot = drawn(layers(bars, measure="LPIPS"))
    first, second = plot.iter("rect")
    assert float(first.get("width")) == pytest.approx(4 * float(second.get("width")), rel=0.02)
    assert [first.get("class"), second.get("class")] == ["bar reverted", "bar"]
    assert {"conv2", "conv1", "0.0040, 38.1 dB", "LPIPS"} <= set(words(plot))


def test_only_so_many_layers_are_drawn_and_long_names_keep_their_end():
    bars = [Bar(f"/a/very/long/name/of/layer{i}/Conv", 9.0 - i / 9, "x", False) for i in range(60)]
    plot = drawn(layers(bars, measure="LPIPS"))
    assert len(list(plot.iter("rect"))) == LAYERS
    assert "...g/name/of/layer0/Conv" in words(plot)
    assert drawn(layers([Bar("a", 0.0, "0", False)], measure="LPIPS")) is not None


@pytest.mark.parametrize(
    "plot",
    [
        pareto([point(1, 1, name=HOSTILE, shipped=True)], measure="LPIPS", floor=None),
        histogram(HOSTILE, [1.0], shipped=False),
        layers([Bar(HOSTILE, 1.0, HOSTILE, False)], measure=HOSTILE),
    ],
    ids=["pareto", "histogram", "layers"],
)
def test_a_drawing_says_what_it_is_and_no_name_breaks_out_of_it(plot):
    read = drawn(plot)
    assert read.tag == "svg"
    assert read.get("role") == "img"
    assert read.get("aria-label")
    assert read.find("title").text
    tags = []
    browser = HTMLParser()
    browser.handle_starttag = lambda tag, attrs: tags.append(tag)
    browser.feed(ElementTree.tostring(plot, encoding="unicode", method="html"))
    assert "svg" in tags
    assert not {"script", "b"}.intersection(tags)
    _, _, width, height = map(float, read.get("viewBox").split())
    for node in read.iter("text"):
        assert 0 <= float(node.get("x")) <= width
        assert 0 <= float(node.get("y")) <= height
