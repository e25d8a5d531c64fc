"""Scores by k-means, the precisions that a budget allows, and the plan for the exported student."""

import json

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from compress.export import to_onnx
from compress.fake_quant import quantizable
from compress.kmeans import distortion, inertia
from compress.precision_plan import choose_precisions, precision_plan, write_plan
from deploy.precision_plan import PLAN, float_layers, read_plan
from deploy.reverting import LAYERS
from devices.sealed import digest
from tests.compress.pruned import network
from tests.compress.small import SmallGenerator


def normal(count, seed=0):
    return np.random.default_rng(seed).normal(size=count)


@pytest.mark.parametrize(
    ("bits", "best"), [(1, 0.3634), (2, 0.1175), (3, 0.03454), (4, 0.009497), (5, 0.002499)]
)
def test_normal_weights_lose_what_the_best_quantizer_loses(bits, best):
    """Max, "Quantizing for Minimum Distortion", 1960, table I."""
    assert distortion(normal(400_000), bits) == pytest.approx(best, rel=0.02)


def test_many_bits_lose_what_the_limit_says():
    """Panter and Dite, 1951: times 4 ** -bits."""
    rng = np.random.default_rng(0)
    for values, limit in (
        (rng.normal(size=400_000), np.pi * 3**0.5 / 2),
        (np.linspace(-1, 1, 400_001), 1.0),
        (rng.laplace(size=400_000), 4.5),
    ):
        assert distortion(values, 8) * 4**8 == pytest.approx(limit, rel=0.08)


def test_scores_do_not_depend_on_how_large_weights_are():
    values = normal(5000)
    assert distortion(1e-3 * values, 8) == pytest.approx(distortion(values, 8), rel=1e-6)
    assert distortion(values + 5, 4) == pytest.approx(distortion(values, 4), rel=1e-6)


def test_weights_that_are_the_centres_lose_nothing():
    levels = np.repeat(np.linspace(-1, 1, 16), 100)
    assert distortion(levels, 4) == pytest.approx(0.0, abs=1e-12)
    assert distortion(levels, 3) > 1e-3
    assert distortion(np.full(100, 0.5), 4) == 0.0


def test_one_centre_loses_the_variance_and_more_lose_less():
    values = normal(3000)
    assert inertia(values, 1) == pytest.approx(3000 * values.var())
    found = [inertia(values, 2**bits) for bits in range(9)]
    assert found == sorted(found, reverse=True)


@pytest.mark.parametrize("count", [144, 500, 3000])
def test_a_small_layer_is_not_taken_for_an_easy_one(count):
    small = np.mean([distortion(normal(count, seed), 8) for seed in range(10)])
    # centres lie closer to a few numbers than to many; not nearly all of them on one
    assert small == pytest.approx(distortion(normal(200_000), 8), rel=0.4)


class Three(nn.Module):
    """Three layers of one size; by how their weights are spread, the second is the worst."""

    def __init__(self):
        super().__init__()
        rng = np.random.default_rng(0)
        self.even = nn.Conv2d(64, 64, 3, bias=False)
        self.long = nn.ConvTranspose2d(64, 64, 3)
        self.plain = nn.Conv2d(64, 64, 3)
        shape = (64, 64, 3, 3)
        for layer, drawn in (
            (self.even, rng.uniform(-1, 1, shape)),
            (self.long, rng.laplace(size=shape)),
            (self.plain, rng.normal(size=shape)),
        ):
            layer.weight.data = torch.from_numpy(drawn).float()


def kinds(mean_bits):
    return {name: one.precision for name, one in choose(mean_bits).layers.items()}


def choose(mean_bits):
    return choose_precisions(Three(), mean_bits=mean_bits)


@pytest.mark.parametrize(
    ("mean_bits", "expected"),
    [
        (8, "int8 int8 int8"),
        (10.6, "int8 int8 int8"),
        (8 + 8 / 3, "int8 fp16 int8"),
        (13.3, "int8 fp16 int8"),
        (13.4, "int8 fp16 fp16"),
        (16, "fp16 fp16 fp16"),
        (32, "fp32 fp32 fp32"),
    ],
)
def test_the_budget_raises_the_worst_layers_first(mean_bits, expected):
    assert list(kinds(mean_bits).values()) == expected.split()
    assert choose(mean_bits).mean_bits <= mean_bits + 1e-6


def test_a_layer_that_does_not_fit_ends_the_raising():
    student = Three()
    student.long = nn.ConvTranspose2d(256, 64, 3)  # four times the weights, and the worst of all
    student.long.weight.data = torch.from_numpy(
        np.random.default_rng(1).laplace(size=(256, 64, 3, 3))
    ).float()
    assert choose_precisions(student, mean_bits=10).int8 == ("even", "long", "plain")


def test_scores_do_not_depend_on_a_norm_that_is_folded_in():
    plain, folded = Three(), Three()
    factor = torch.linspace(-3, 3, 64)
    folded.plain.weight.data *= factor[:, None, None, None]
    folded.long.weight.data *= factor[None, :, None, None]
    before, after = (choose_precisions(net, mean_bits=8).layers for net in (plain, folded))
    for name in before:
        # a negative factor mirrors a channel, which moves the centres a little
        assert after[name].score == pytest.approx(before[name].score, rel=0.05)


def test_weights_that_half_precision_cannot_hold_go_to_float():
    student = Three()
    student.long.weight.data *= 1e5
    assert choose_precisions(student, mean_bits=16).layers["long"].precision == "fp32"


@pytest.mark.parametrize("mean_bits", [7.9, 32.1])
def test_a_budget_that_is_none(mean_bits):
    with pytest.raises(ValueError, match=f"mean_bits = {mean_bits} is not between 8"):
        choose(mean_bits)


def test_a_network_without_convolutions():
    with pytest.raises(ValueError, match="Linear has no convolution that could run in INT8"):
        choose_precisions(nn.Linear(2, 2), mean_bits=9)


def weight_of(model, layer):
    (node,) = [node for node in model.graph.node if node.name == layer]
    return node.input[1]


@pytest.mark.parametrize(
    "name",
    [
        "resnet_batch",
        pytest.param("resnet_instance", marks=pytest.mark.slow),
        pytest.param("mobile", marks=pytest.mark.slow),
        pytest.param("unet", marks=pytest.mark.slow),
        pytest.param("cartoon", marks=pytest.mark.slow),
        pytest.param("rrdb", marks=pytest.mark.slow),
        pytest.param("srvgg", marks=pytest.mark.slow),
        pytest.param("srgan", marks=pytest.mark.slow),
    ],
)
def test_every_layer_of_the_onnx_file_is_in_the_plan_under_its_own_name(tmp_path, name):
    student = network(name)
    precisions = choose_precisions(student, mean_bits=9)
    to_onnx(student, tmp_path / "student.onnx")
    write_plan(precisions, tmp_path / "student.onnx")

    model = onnx.load(tmp_path / "student.onnx")
    plan = read_plan(tmp_path / PLAN, model, digest(tmp_path / "student.onnx"))
    assert plan.model == f"sha256:{digest(tmp_path / 'student.onnx')}"
    assert plan.mean_bits == precisions.mean_bits <= 9
    layers = [node.name for node in model.graph.node if node.op_type in LAYERS]
    assert sorted(entry.layer for entry in plan.layers) == sorted(layers)
    assert len(layers) == len(quantizable(student))
    scores = [entry.score for entry in plan.layers]
    assert scores == sorted(scores, reverse=True)
    for entry in plan.layers:
        one = precisions.layers[weight_of(model, entry.layer).removesuffix(".weight")]
        assert (entry.precision, entry.score) == (one.precision, one.score)
    kept = {weight_of(model, layer) for layer in float_layers(plan)}
    assert {f"{n}.weight" for n in set(precisions.layers) - set(precisions.int8)} == kept


def test_a_student_that_is_not_this_one(tmp_path):
    to_onnx(SmallGenerator(), tmp_path / "student.onnx")
    with pytest.raises(ValueError, match=r"are called 'block\.0\.0\.weight', and the student has"):
        precision_plan(choose(9), tmp_path / "student.onnx")
    write_plan(choose_precisions(SmallGenerator(), mean_bits=8), tmp_path / "student.onnx")
    said = json.loads((tmp_path / PLAN).read_text())
    assert {entry["precision"] for entry in said["layers"]} == {"int8"}
    assert said["mean_bits"] == 8.0
