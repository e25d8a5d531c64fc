"""A recipe with a ``[ghost]`` table: a second stage, a plan in the export, and that it resumes."""

import json

import onnx
import pytest
import torch
from torch import nn

from compress.fake_quant import channel_axis, quantizable, round_weights
from compress.ghosted import ghosted
from compress.inputs import Inputs
from compress.loop import Batch
from compress.pipeline import run
from compress.precision_plan import choose_precisions
from compress.recipe import CompressRecipe, load_recipe
from deploy.precision_plan import PLAN, read_plan
from deploy.reverting import LAYERS
from tests.compress.conftest import RECIPE, Silent, tiny_generator

GHOST = """
[ghost]
mean_bits = 9.0
steps = 4
learning_rate = 0.0002
attention = 1.0
imitation = 50.0
reconstruction = 10.0
"""


class KilledError(Exception):
    """Stands in for SIGKILL."""


class Killing(Silent):
    """A progress that ends the run after so many steps of a stage."""

    def __init__(self, stage, steps):
        super().__init__()
        self.stage, self.last = stage, steps

    def step(self, step, losses):
        if self.stage in self.started[0] and step == self.last:
            raise KilledError


def recipe(folder, change=("", "")):
    path = folder / "ghost.toml"
    path.write_text((RECIPE + GHOST).format(folder=folder).replace(*change))
    return load_recipe(str(path), CompressRecipe)[0]


def batch_at(step):
    generator = torch.Generator().manual_seed(step)
    source = torch.rand(1, 3, 64, 64, generator=generator) * 2 - 1
    return Batch(source, -source)


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_an_export_holds_the_plan_that_its_student_was_trained_for(workshop, cpu):
    out = workshop / "build" / "cpu" / "export"
    export, made = run(recipe(workshop), cpu, out, Silent())
    assert made
    assert PLAN in export.manifest.sha256
    model = onnx.load(export.model)
    plan = read_plan(out / PLAN, model, export.manifest.sha256["student.onnx"])
    assert plan.model == f"sha256:{export.manifest.sha256['student.onnx']}"
    assert 8 <= plan.mean_bits <= 9
    assert len(plan.layers) == sum(node.op_type in LAYERS for node in model.graph.node)

    log = rows(out.with_name("train") / "ghost" / "metrics.jsonl")
    assert [row["step"] for row in log] == [1, 2, 3, 4]
    ours = {"attention", "switches", "imitation", "reconstruction"}
    assert set(log[0]) == {"step"} | {f"student/{name}" for name in ours}
    # the stage before is as it would be alone
    assert len(rows(out.with_name("train") / "metrics.jsonl")) == 6


@pytest.mark.slow
def test_killed_in_either_stage_it_ends_as_if_it_had_not_been(workshop, cpu):
    unbroken, broken = workshop / "a" / "cpu" / "export", workshop / "b" / "cpu" / "export"
    whole, _ = run(recipe(workshop), cpu, unbroken, Silent())
    for progress in (Killing("dcd", 3), Killing("ghost", 1), Killing("ghost", 3)):
        with pytest.raises(KilledError):
            run(recipe(workshop), cpu, broken, progress)
    again, _ = run(recipe(workshop), cpu, broken, Silent())
    assert again.manifest.sha256 == whole.manifest.sha256


@pytest.mark.slow
def test_the_stage_trains_the_float_student_and_leaves_its_statistics(workshop, cpu, tmp_path):
    inputs = Inputs.read(recipe(workshop), cpu)
    student = tiny_generator(8)
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    expected = choose_precisions(student, mean_bits=9.0)
    found = ghosted(inputs, inputs.recipe.ghost, student, batch_at, tmp_path / "g", Silent())
    assert found == expected
    after = student.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {f"{name}.weight" for name in found.layers} <= moved
    assert not any("running" in name or "num_batches" in name for name in moved)
    layers = quantizable(student)
    for name in found.int8:
        weight = layers[name].weight.detach()
        rounded = round_weights(weight, channel_axis(layers[name]))
        assert torch.allclose(weight, rounded, rtol=1e-6, atol=0), name
    kinds = {type(layer) for layer in quantizable(student).values()}
    assert kinds == {nn.Conv2d, nn.ConvTranspose2d}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("mean_bits = 9.0", "mean_bits = 16.0"), r"ghost\.mean_bits = 16"),
        (("mean_bits = 9.0", "mean_bits = 7.0"), r"ghost\.mean_bits = 7"),
        (("mean_bits = 9.0", ""), r"missing key 'ghost\.mean_bits'"),
        (("attention = 1.0", "style = 1.0\nattention = 1.0"), "set perceptual to vgg16 or alexnet"),
        (("mean_bits = 9.0", 'mean_bits = 9.0\nperceptual = "discriminator"'), "perceptual"),
        (
            ("attention = 1.0\nimitation = 50.0\nreconstruction = 10.0", "attention = 0.0"),
            "follows nothing",
        ),
    ],
)
def test_a_wrong_table_names_the_key(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        recipe(tmp_path, change)
