"""Methods on top of each other, by recipe alone."""

import json
import re
import shutil

import pytest

from compress.agent_search import FOLDER, PLAN
from compress.distillation import ALONE
from compress.pipeline import run
from compress.recipe import CompressRecipe, load_recipe
from deploy.precision_plan import PLAN as PRECISIONS
from tests.compress.conftest import RECIPE, Silent

AGENTS = """
[agents]
macs_reduction = 2.0
steps = 2
samples = 4
neighbours = 1
"""
PRUNING = """
[pruning]
macs_reduction = 2.0
importance = "magnitude"
"""
METHODS = {
    "mggc": """
[method]
name = "mggc"
adversarial = 1.0
reconstruction = 10.0
""",
    "crd": """
[method]
name = "crd"
relation = 1.0
adversarial = 1.0
imitation = 10.0
units = 16
""",
    "gcc": """
[method]
name = "gcc"
adversarial = 1.0
content = 1.0
gram = 1.0
dcd = 1.0
held_out = 0.5
[method.gates]
width = 4
norm = "instance"
""",
}
GUIDANCE = """
[guidance]
weight = 0.1
alone = 0.5
"""
GHOST = """
[ghost]
mean_bits = 9.0
steps = 2
learning_rate = 0.0002
attention = 1.0
"""


def recipe(folder, *tables):
    """The tiny recipe with other tables between [teacher] and [training]."""
    text = re.sub(r"\[pruning\].*(?=\[training\])", "".join(tables), RECIPE, flags=re.S)
    (folder / "mixed.toml").write_text(text.format(folder=folder))
    return load_recipe(str(folder / "mixed.toml"), CompressRecipe)[0]


def losses(path):
    return [set(json.loads(line)) - {"step"} for line in path.read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mggc", "crd"])
def test_what_the_agents_left_is_tuned_by_any_method(workshop, cpu, method):
    out = workshop / "build" / "cpu" / "export"
    fine = cpu.model_copy(update={"channel_multiple": 2})
    asked = recipe(workshop, AGENTS, METHODS[method])
    export, _ = run(asked, fine, out, Silent())
    manifest = export.manifest
    assert 2.0 <= manifest.teacher.macs / manifest.model.macs <= 2.0 * 1.02
    assert (out.with_name("train") / FOLDER / PLAN).is_file()
    (first, *_) = losses(out.with_name("train") / "metrics.jsonl")
    judged = {"discriminator/adversarial", "student/adversarial"}
    assert judged <= first
    assert ("student/rows" in first) == (method == "crd")
    shutil.rmtree(out)  # and a run that goes on ends with the same student
    again, made = run(asked, fine, out, Silent())
    assert made
    assert again.manifest.sha256 == manifest.sha256


@pytest.mark.slow
def test_gates_with_dcd_and_a_second_critic_and_a_last_stage_for_int8(workshop, cpu):
    out = workshop / "build" / "cpu" / "export"
    asked = recipe(workshop, PRUNING, METHODS["gcc"], GUIDANCE, GHOST)
    export, _ = run(asked, cpu, out, Silent())
    train = out.with_name("train")
    alone, guided = losses(train / ALONE / "metrics.jsonl"), losses(train / "metrics.jsonl")
    assert {"student/dcd", "student/content", "gates/coordination"} <= alone[0]
    assert {"student/guidance"} == guided[0] - alone[0]
    assert len(losses(train / "ghost" / "metrics.jsonl")) == 2
    assert PRECISIONS in export.manifest.sha256


def test_a_recipe_says_once_where_the_student_comes_from(workshop):
    with pytest.raises(ValueError, match=r"give \[pruning\] or \[student\], one of them"):
        recipe(workshop, PRUNING, AGENTS, METHODS["mggc"])
