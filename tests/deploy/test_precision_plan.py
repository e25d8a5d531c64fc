from __future__ import annotations

import json

import pytest

from deploy.precision_plan import float_layers, read_plan


@pytest.fixture
def write(tmp_path):
    def write(**changes):
        plan = {
            "schema_version": 1,
            "layers": [
                {"layer": "conv3", "precision": "fp16", "score": 3.5},
                {"layer": "conv1", "precision": "int8", "score": 0.25},
            ],
            "mean_bits": 9.5,
        }
        path = tmp_path / "precision_plan.json"
        path.write_text(json.dumps(plan | changes))
        return path

    return write


def layer(name, precision="fp32"):
    return {"layer": name, "precision": precision, "score": 1.0}


def test_what_is_not_int8_stays_in_float(write, make_student):
    plan = read_plan(write(model="sha256:" + "a" * 64), make_student(), "a" * 64)
    assert float_layers(plan) == ["conv3"]
    assert [entry.layer for entry in plan.layers] == ["conv3", "conv1"]
    assert plan.mean_bits == 9.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": [layer("conv_1")]}, "has no layer 'conv_1'; did you mean 'conv1'"),
        ({"layers": [layer("tanh")]}, "has no layer 'tanh'; there are: conv1, conv2, conv3"),
        ({"layers": [layer("conv1"), layer("conv1")]}, "names layer 'conv1' twice; make the"),
        ({"layers": [layer("conv1", "int4")]}, "layers.0.precision = 'int4'"),
        ({"layers": [{"layer": "conv1", "precision": "int8"}]}, "missing key 'layers.0.score'"),
        ({"mean_bit": 8.0}, "unknown key 'mean_bit'; did you mean 'mean_bits'"),
        ({"mean_bits": 0}, "mean_bits = 0"),
        ({"schema_version": 2}, "schema_version = 2"),
        ({"model": "abc"}, "model = 'abc'"),
        ({"model": "sha256:" + "b" * 64}, "is for sha256:bbb.*, and the student is sha256:aaa"),
    ],
)
def test_a_plan_for_something_else(changes, message, write, make_student):
    with pytest.raises(ValueError, match=message) as caught:
        read_plan(write(**changes), make_student(), "a" * 64)
    assert "precision_plan.json" in str(caught.value)
    assert str(caught.value).endswith("with pocketgan compress")
