"""A whole run of GCC, from a recipe to an export, and the recipes that ship."""

import json
import re
import shutil

import onnxruntime as ort
import pytest

from compress.checkpoints import load_network
from compress.pipeline import run
from compress.recipe import CompressRecipe, load_recipe
from compress.schema.gcc import GccMethod
from compress.slimming import FOLDER
from tests.compress.conftest import RECIPE, Silent

GCC = """
[slimming]
macs_reduction = 2.0
steps = 2
by = "scales"
penalty = 0.01
weights = "inherit"
discriminator_width = 4
[method]
name = "gcc"
adversarial = 1.0
content = 1.0
gram = 1.0
reconstruction = 10.0
held_out = 0.5
gates_every = 2
mode = "hinge"
[method.gates]
width = 4
norm = "instance"
[training]
"""


def written(workshop, gcc=GCC):
    text = re.sub(r"\[pruning\].*\[training\]\n", gcc.lstrip(), RECIPE, flags=re.S)
    (workshop / "gcc.toml").write_text(text.format(folder=workshop))
    return load_recipe(str(workshop / "gcc.toml"), CompressRecipe)[0]


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_a_recipe_slims_trains_and_exports(workshop, cpu):
    out = workshop / "build" / "cpu" / "export"
    export, made = run(written(workshop), cpu, out, Silent())
    assert made
    face = export.manifest
    assert face.teacher.macs / face.model.macs >= 2.0
    train = out.with_name("train")
    sparse, trained = rows(train / FOLDER / "metrics.jsonl"), rows(train / "metrics.jsonl")
    assert ["generator/sparsity" in row for row in sparse] == [True, True]
    assert ["gates/open" in row for row in trained] == [False, True] * 3
    assert "polyline" in (train / "curves.html").read_text()
    session = ort.InferenceSession(str(out / "student.onnx"), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].name == "image"
    widths = load_network(out / "student.safetensors").widths
    assert widths.stream % cpu.channel_multiple == 0


def test_a_budget_out_of_reach_is_refused_before_anything_is_trained(workshop, cpu):
    recipe = written(workshop, GCC.replace("macs_reduction = 2.0", "macs_reduction = 5000.0"))
    progress = Silent()
    with pytest.raises(ValueError, match="macs_reduction 5000 is out of reach"):
        run(recipe, cpu, workshop / "build" / "cpu" / "export", progress)
    assert progress.started == ()


@pytest.mark.slow
def test_a_run_that_is_started_again_ends_with_the_same_student(workshop, cpu):
    recipe, out = written(workshop), workshop / "build" / "cpu" / "export"
    first, _ = run(recipe, cpu, out, Silent())
    # everything but the export is there: sparse training and training are both resumed at their end
    shutil.rmtree(out)
    again, made = run(recipe, cpu, out, Silent())
    assert made
    assert again.manifest.sha256 == first.manifest.sha256


@pytest.mark.slow
def test_the_teacher_pair_can_start_from_scratch(workshop, cpu):
    gcc = GCC.replace('mode = "hinge"', 'mode = "hinge"\nonline_teacher = true')
    text = re.sub(r"\[pruning\].*\[training\]\n", gcc.lstrip(), RECIPE, flags=re.S)
    shapes = (
        'generator = {{family = "resnet", width = 16, blocks = 9, norm = "batch"}}\n'
        'discriminator = {{family = "patchgan", width = 4, norm = "instance"}}\n'
    )
    text = re.sub(r"generator = .*\ndiscriminator = .*\n", shapes, text)
    (workshop / "gcc.toml").write_text(text.format(folder=workshop))
    recipe, _ = load_recipe(str(workshop / "gcc.toml"), CompressRecipe)
    out = workshop / "build" / "cpu" / "export"
    run(recipe, cpu, out, Silent())
    logged = rows(out.with_name("train") / "metrics.jsonl")
    assert all({"teacher/reconstruction", "discriminator/adversarial"} <= set(r) for r in logged)


@pytest.mark.parametrize("name", ["restore-gcc", "facades-gcc"])
def test_shipped_recipes_slim_and_train_with_gates(name):
    recipe, _ = load_recipe(name, CompressRecipe)
    assert isinstance(recipe.method, GccMethod)
    assert recipe.slimming is not None


def test_pruning_and_slimming_are_two_ways(workshop):
    both = '[pruning]\nmacs_reduction = 2.0\nimportance = "magnitude"\n' + GCC
    with pytest.raises(ValueError, match="give \\[pruning\\] or \\[student\\]"):
        written(workshop, both)


def test_photos_without_a_truth_are_refused(workshop):
    written(workshop)
    text = (workshop / "gcc.toml").read_text()
    text = re.sub(r"\[data\.damage\].*\[teacher\]", "[teacher]", text, flags=re.S)
    (workshop / "gcc.toml").write_text(text.replace('kind = "restoration"', 'kind = "photos"'))
    with pytest.raises(ValueError, match="photos without a truth have none of: take dcd"):
        load_recipe(str(workshop / "gcc.toml"), CompressRecipe)
