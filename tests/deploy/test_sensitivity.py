from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from onnx import numpy_helper

from deploy import sensitivity as module
from deploy.evidence import LayerSensitivity
from deploy.imaging import range_spec, to_model
from deploy.reverting import only
from deploy.running import outputs
from deploy.sensitivity import sensitivity, worst_first
from deploy.verify import EngineError, psnr
from tests.deploy.by_hand import chain, quantized

BITS = {"conv1": 5, "conv2": 8, "conv3": 6.5}


def mean_error(images, references):
    """Stands in for LPIPS."""
    return np.abs(images - references).mean(axis=(1, 2, 3))


@pytest.fixture
def case(make_photos):
    model = chain(4)
    return SimpleNamespace(
        student=model, int8=quantized(model, BITS), judges=to_model(make_photos(3))
    )


def measure(case, **options):
    return sensitivity(case.student, case.int8, case.judges, **{"lpips": None} | options)


def test_the_layer_that_costs_most_comes_first(case):
    found = measure(case, lpips=mean_error)
    assert [one.layer for one in found] == ["conv1", "conv3", "conv2"]  # conv0 is float
    assert {one.operator for one in found} == {"Conv"}
    assert [one.psnr_db for one in found] == sorted(one.psnr_db for one in found)
    assert [one.lpips for one in found] == sorted((one.lpips for one in found), reverse=True)
    assert not any(one.reverted for one in found)


def test_the_figures_are_those_of_the_graph_with_that_layer_alone(case, run):
    worst = measure(case)[0]
    images = run(only(case.int8, case.student, [worst.layer]), case.judges)
    expected = run(case.student, case.judges)
    each = [psnr(a, b, data_range=2.0) for a, b in zip(images, expected, strict=True)]
    assert worst.psnr_db == pytest.approx(np.mean(each))
    assert worst.lpips is None
    # conv1 reads values rounded to 4 / 2**5; the others add nothing
    assert worst.psnr_db == pytest.approx(10 * np.log10(4 / (0.125**2 / 12)), abs=1.0)


def test_figures_are_of_images_whatever_the_student_calls_them(case):
    """The same values as half of the range are twice as close."""
    wide = measure(case, spec=range_spec(-2.0, 2.0))
    for one, other in zip(measure(case), wide, strict=True):
        assert other.psnr_db == pytest.approx(one.psnr_db + 20 * np.log10(2), abs=1e-3)


def test_equals_by_psnr_are_ordered_by_lpips_and_name():
    def layer(name, db, lpips):
        return LayerSensitivity(layer=name, operator="Conv", psnr_db=db, ssim=1.0, lpips=lpips)

    given = [layer("c", 40, None), layer("b", 30, 0.1), layer("a", 30, 0.2), layer("0", 40, None)]
    assert [one.layer for one in worst_first(given)] == ["a", "b", "0", "c"]


def test_a_run_that_was_killed_goes_on_where_it_was(case, tmp_path, monkeypatch):
    whole = measure(case)
    ran = []

    def dies(model, images, **options):
        if len(ran) == 3:  # the float student and two layers
            raise KeyboardInterrupt
        ran.append(model)
        return outputs(model, images, **options)

    monkeypatch.setattr(module, "outputs", dies)
    with pytest.raises(KeyboardInterrupt):
        measure(case, resume=tmp_path)
    told = []
    monkeypatch.setattr(module, "outputs", lambda *a, **o: ran.append(a) or outputs(*a, **o))
    assert measure(case, resume=tmp_path, progress=lambda *at: told.append(at)) == whole
    assert len(ran) == 3 + 2  # the float student again, and the one layer that was missing
    assert told[0] == (2, 3, None)
    assert told[-1] == (3, 3, 0.0)

    del ran[:], told[:]
    assert measure(case, resume=tmp_path, progress=lambda *at: told.append(at)) == whole
    assert (ran, told) == ([], [(3, 3, 0.0)])


def test_a_line_that_was_cut_short_is_measured_again(case, tmp_path, caplog):
    whole = measure(case, resume=tmp_path)
    (kept,) = tmp_path.iterdir()
    text = kept.read_bytes()
    caplog.set_level("INFO")
    for end in range(0, len(text), 37):
        kept.write_bytes(text[:end])
        assert measure(case, resume=tmp_path) == whole
        lines = [line for line in kept.read_bytes().splitlines() if line]
        assert sum(line.startswith(b"{") and line.endswith(b"}") for line in lines) == 3
    assert "is damaged; the layer is measured again" in caplog.text


def test_a_layer_of_another_name_in_the_file_is_ignored(case, tmp_path):
    whole = measure(case, resume=tmp_path)
    (kept,) = tmp_path.iterdir()
    line = json.loads(kept.read_text().split()[0]) | {"layer": "conv9"}
    kept.write_text(json.dumps(line) + "\n")
    assert measure(case, resume=tmp_path) == whole


@pytest.mark.parametrize("change", ["student", "int8", "judges", "lpips", "other lpips", "spec"])
def test_what_was_kept_is_for_these_inputs_only(change, case, tmp_path, make_photos):
    measure(case, resume=tmp_path)
    options = {}
    match change:
        case "student":
            case.student.graph.doc_string = "another"
        case "int8":
            case.int8 = quantized(case.student, BITS | {"conv3": 7})
        case "judges":
            case.judges = to_model(make_photos(3, seed=5))
        case "lpips":
            options = {"lpips": mean_error}
        case "other lpips":
            measure(case, resume=tmp_path, lpips=mean_error)
            options = {"lpips": lambda a, b: 2 * mean_error(a, b)}
        case "spec":
            options = {"spec": range_spec(-2.0, 2.0)}
    fresh = measure(case, **options)
    assert measure(case, resume=tmp_path, **options) == fresh
    assert len(list(tmp_path.iterdir())) == (3 if change == "other lpips" else 2)


def test_the_time_left_is_that_of_the_layers_left(case, monkeypatch):
    now = iter([100.0, 104.0, 106.0, 109.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(now))
    told = []
    measure(case, progress=lambda *at: told.append(at))
    assert told == [(0, 3, None), (1, 3, 8.0), (2, 3, 3.0), (3, 3, 0.0)]


def test_images_that_are_not_finite_are_no_measure(case):
    for tensor in case.int8.graph.initializer:
        if tensor.name == "conv1/wscale":
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(np.float32(np.nan)), tensor.name))
    with pytest.raises(EngineError, match="values that are not finite; they have no quality"):
        measure(case)
