from __future__ import annotations

import itertools

import numpy as np
import pytest

from deploy.control import control, judge_on, marked
from deploy.evidence import LayerSensitivity
from deploy.imaging import range_spec, to_model
from deploy.manifests import QualityFloor
from deploy.reverting import quantized_layers
from deploy.verify import Closeness
from tests.deploy.by_hand import chain, quantized


def floor_of(psnr_db, lpips=None):
    return QualityFloor(psnr_db=psnr_db, truth_drop_db=1.0, lpips=lpips)


def worst_first(costs):
    """Sensitivities of a chain whose layers add these squared errors."""
    order = sorted(costs, key=costs.get, reverse=True)
    return [
        LayerSensitivity(
            layer=name, operator="Conv", psnr_db=decibel(costs[name]), ssim=1.0, lpips=None
        )
        for name in order
    ]


def decibel(squared):
    return 100.0 if squared <= 0 else float(min(100.0, 10 * np.log10(4 / squared)))


class Sum:
    """A judge by arithmetic: squared errors of the layers still in INT8 add up, and interact."""

    def __init__(self, costs, together=()):
        self.costs, self.together, self.asked = costs, dict(together), []

    def __call__(self, model):
        integer = frozenset(quantized_layers(model))
        self.asked.append(integer)
        squared = sum(self.costs[name] for name in integer)
        squared += sum(extra for pair, extra in self.together.items() if pair <= integer)
        return Closeness(decibel(squared), 1.0, None)


def student(count):
    model = chain(count)
    return model, quantized(model, {f"conv{i}": 8 for i in range(count)})


def names(*numbers):
    return tuple(f"conv{number}" for number in numbers)


def test_what_holds_already_is_left_alone():
    model, int8 = student(3)
    judge = Sum(dict.fromkeys(names(0, 1, 2), 1e-6))
    done = control(model, int8, worst_first(judge.costs), judge, floor_of(40))
    assert (done.holds, done.reverted, len(done.steps)) == (True, (), 1)
    assert quantized_layers(done.model) == list(names(0, 1, 2))


def test_the_worst_layers_are_reverted_and_no_more():
    model, int8 = student(5)
    costs = dict(zip(names(0, 1, 2, 3, 4), (1e-7, 1e-2, 1e-7, 1e-3, 1e-7), strict=True))
    judge = Sum(costs)
    done = control(model, int8, worst_first(costs), judge, floor_of(60))
    assert done.reverted == names(1, 3)
    assert quantized_layers(done.model) == list(names(0, 2, 4))
    assert done.steps[0].shortfall == "25.6 dB to the float student, floor 60"
    assert done.steps[0].reverted == ()


@pytest.mark.parametrize("seed", range(12))
def test_nothing_reverted_could_be_in_int8(seed):
    """Costs over six orders of magnitude; the floor anywhere; every answer checked by force."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 12))
    model, int8 = student(count)
    costs = {f"conv{i}": float(10 ** rng.uniform(-8, -2)) for i in range(count)}
    floor = floor_of(float(rng.uniform(20, 80)))
    judge = Sum(costs)
    done = control(model, int8, worst_first(costs), judge, floor)
    integer = set(costs) - set(done.reverted)

    def holds(layers):
        return decibel(sum(costs[name] for name in layers)) >= floor.psnr_db

    assert done.holds
    assert holds(integer)
    assert set(quantized_layers(done.model)) == integer
    assert not any(holds(integer | {name}) for name in done.reverted)
    order = [one.layer for one in worst_first(costs)]
    fewest = next(k for k in range(count + 1) if holds(order[k:]))
    assert len(done.reverted) <= fewest
    assert len(judge.asked) == len(set(judge.asked)) == len(done.steps)
    assert len(done.steps) <= 2 * (count.bit_length() + 1) + max(0, fewest - 1)


@pytest.mark.parametrize("seed", range(12))
def test_a_judge_that_is_not_monotone_ends_with_a_graph_that_holds(seed):
    """Two layers whose errors cancel: putting one of them in float makes it worse."""
    rng = np.random.default_rng(seed)
    model, int8 = student(8)
    costs = {f"conv{i}": float(10 ** rng.uniform(-5, -2)) for i in range(8)}
    pair = frozenset(rng.choice(list(costs), 2, replace=False).tolist())
    judge = Sum(costs, {pair: -sum(costs[name] for name in pair)})
    done = control(model, int8, worst_first(costs), judge, floor_of(35))
    assert done.holds
    assert judge(done.model).shortfall(floor_of(35)) == ""
    assert len(done.steps) <= 2 * 5 + 7


def test_everything_reverted_is_the_float_student(make_photos, run):
    model, int8 = student(3)
    costs = dict.fromkeys(names(0, 1, 2), 1.0)
    done = control(model, int8, worst_first(costs), Sum(costs), floor_of(60))
    assert set(done.reverted) == set(costs)
    assert done.holds
    assert quantized_layers(done.model) == []
    images = to_model(make_photos(1))
    np.testing.assert_array_equal(run(done.model, images), run(model, images))


def test_a_floor_that_nothing_holds_is_said():
    model, int8 = student(3)
    costs = dict.fromkeys(names(0, 1, 2), 1.0)
    judge = Sum(costs)
    done = control(model, int8, worst_first(costs), judge, floor_of(10, lpips=0.02))
    assert not done.holds
    assert set(done.reverted) == set(costs)
    assert "LPIPS to the float student is not known, floor 0.02" in done.shortfall
    assert len(done.steps) == 4  # none, 1, 2, all


def test_no_more_than_the_most_is_reverted():
    model, int8 = student(6)
    costs = {f"conv{i}": 10.0**-i for i in range(6)}
    done = control(model, int8, worst_first(costs), Sum(costs), floor_of(40), most=3)
    assert not done.holds
    assert done.reverted == names(0, 1, 2)
    assert done.shortfall == "35.6 dB to the float student, floor 40"
    assert max(len(step.reverted) for step in done.steps) == 3
    enough = control(model, int8, worst_first(costs), Sum(costs), floor_of(40), most=4)
    assert (enough.holds, enough.reverted) == (True, names(0, 1, 2, 3))
    none = control(model, int8, worst_first(costs), Sum(costs), floor_of(40), most=0)
    assert (none.holds, none.reverted, len(none.steps)) == (False, (), 1)


def test_sensitivities_of_another_graph_are_refused():
    model, int8 = student(3)
    costs = dict.fromkeys(names(0, 2), 1.0)
    with pytest.raises(ValueError, match=r"sensitivity says nothing of conv1: .* measure it again"):
        control(model, int8, worst_first(costs), Sum(costs), floor_of(60))


def test_a_layer_that_was_measured_and_is_float_already_is_no_harm():
    model, _ = student(3)
    int8 = quantized(model, {"conv0": 8, "conv2": 8})
    costs = {"conv0": 1e-7, "conv1": 1.0, "conv2": 1e-2}
    done = control(model, int8, worst_first(costs), Sum(costs), floor_of(60))
    assert done.holds
    assert quantized_layers(done.model) == ["conv0"]


def test_the_end_is_in_sight():
    told = []
    model, int8 = student(8)
    costs = {f"conv{i}": 10.0**-i for i in range(8)}
    done = control(
        model,
        int8,
        worst_first(costs),
        Sum(costs),
        floor_of(60),
        progress=lambda *at: told.append(at),
    )
    judged, at_most, left = zip(*told, strict=True)
    assert judged == (*range(1, len(done.steps) + 1), len(done.steps))
    assert all(b <= a for a, b in itertools.pairwise(at_most))
    assert all(d <= m for d, m in zip(judged, at_most, strict=True))
    assert at_most[-1] == len(done.steps)
    assert left[-1] == 0.0
    assert all(seconds >= 0 for seconds in left)


def test_a_judge_sees_what_the_backend_will_run(make_photos):
    model, int8 = student(2)
    images = to_model(make_photos(2))
    exact = judge_on(model, images, lpips=None)(model)
    assert (exact.psnr_db, exact.lpips) == (100.0, None)
    rounded = judge_on(model, images, lpips=None)(int8)
    assert 30 < rounded.psnr_db < 60
    placed = judge_on(
        model, images, lpips=None, placed=lambda graph: quantized(model, {"conv0": 4})
    )
    assert placed(int8).psnr_db < rounded.psnr_db - 10


def test_closeness_is_that_of_images_whatever_the_student_calls_them(make_photos):
    """The same values as half of the range are twice as close."""
    model, int8 = student(2)
    images = to_model(make_photos(2)) / 2  # in both ranges by far

    def largest(ours, theirs):
        return np.abs(ours - theirs).max(axis=(1, 2, 3))

    one = judge_on(model, images, lpips=largest, spec=range_spec(-2.0, 2.0))(int8)
    two = judge_on(model, images, lpips=largest)(int8)
    assert one.psnr_db == pytest.approx(two.psnr_db + 20 * np.log10(2), abs=1e-3)
    assert one.lpips == pytest.approx(two.lpips / 2, rel=1e-3)


def test_what_ended_in_float_is_marked():
    layers = worst_first({"conv0": 1.0, "conv1": 2.0})
    assert [one.reverted for one in marked(layers, ["conv1"])] == [True, False]
    assert not any(one.reverted for one in layers)
