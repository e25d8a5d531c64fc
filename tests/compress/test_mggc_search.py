import json
import tomllib
from dataclasses import replace

import numpy as np
import onnxruntime as ort
import pytest
import torch
from pydantic import ValidationError

from compress.agent_search import FOLDER, MEASURED, PLAN, search_pair
from compress.checkpoints import load_network, save_network
from compress.export import to_onnx
from compress.inputs import Inputs
from compress.macs import cost
from compress.pruning.hardening import TOLERANCE
from compress.recipe import RECIPES, CompressRecipe, load_recipe
from compress.schema.mggc import Agents
from tests.compress.small import Silent

AGENTS = Agents(
    macs_reduction=3.0, steps=4, samples=6, neighbours=2, kernel_density=1.0, imitation=10.0
)


def states(*networks):
    return [{k: v.clone() for k, v in network.state_dict().items()} for network in networks]


def equal(one, other):
    return all(torch.equal(value, other[key]) for key, value in one.items())


def read(workshop):
    return load_recipe(str(workshop / "tiny.toml"), CompressRecipe)[0]


class Killed(Silent):
    def step(self, step, losses):
        super().step(step, losses)
        if step == 3:
            raise KeyboardInterrupt


@pytest.fixture
def fine(cpu):
    """A device that takes any even width: the test's teacher is small."""
    return cpu.model_copy(update={"channel_multiple": 2})


def test_both_networks_come_out_within_their_budgets(workshop, fine, tmp_path):
    inputs = Inputs.read(read(workshop), fine)
    side = inputs.teacher
    before = states(side.generator, side.discriminator)
    progress = Silent()
    student, judge = search_pair(inputs, AGENTS, fine, tmp_path / "train", progress)
    assert progress.started[:2] == ("tiny: agents", 4)
    after = states(side.generator, side.discriminator)
    assert all(equal(*two) for two in zip(before, after, strict=True))

    size, crop = inputs.recipe.image_size, inputs.recipe.training.crop
    goal = cost(side.generator, size).macs / 3
    assert (1 - TOLERANCE) * goal <= cost(student, size).macs <= goal
    half = cost(side.discriminator, crop, channels=6).macs / 2
    # one channel of a discriminator as narrow as this is 2 % of it
    assert 0.95 * half <= cost(judge, crop, channels=6).macs <= half
    assert judge(torch.zeros(1, 6, crop, crop)).shape == (1, 1, 10, 10)

    save_network(tmp_path / "student.safetensors", student)
    again = load_network(tmp_path / "student.safetensors").eval()
    to_onnx(student, tmp_path / "student.onnx")
    image = torch.rand(1, 3, 64, 96) * 2 - 1
    with torch.no_grad():
        want = student.eval()(image)
        assert torch.equal(again(image), want)
    session = ort.InferenceSession(tmp_path / "student.onnx", providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"image": image.numpy()})
    assert np.abs(got - want.numpy()).max() < 1e-4

    rows = [
        json.loads(line)
        for line in (tmp_path / "train" / FOLDER / "metrics.jsonl").read_text().splitlines()
    ]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert "student/kernel_density" in rows[0]


def test_a_killed_search_ends_where_an_unbroken_one_does(workshop, fine, tmp_path):
    inputs = Inputs.read(read(workshop), fine)
    unbroken = search_pair(inputs, AGENTS, fine, tmp_path / "one", Silent())
    with pytest.raises(KeyboardInterrupt):
        search_pair(inputs, AGENTS, fine, tmp_path / "other", Killed())
    progress = Silent()
    resumed = search_pair(inputs, AGENTS, fine, tmp_path / "other", progress)
    assert progress.started[2] == 2
    for one, other in zip(unbroken, resumed, strict=True):
        assert equal(*states(one, other))
    plans = [json.loads((tmp_path / f / FOLDER / PLAN).read_text()) for f in ("one", "other")]
    assert plans[0] == plans[1]
    # what is found is not looked for again
    progress = Silent()
    third = search_pair(inputs, AGENTS, fine, tmp_path / "other", progress)
    assert progress.started == ()
    assert equal(*states(third[0], unbroken[0]))


def test_a_budget_may_be_milliseconds(workshop, fine, tmp_path, monkeypatch):
    inputs = Inputs.read(read(workshop), fine)

    def measured_here(teacher, profile):
        return lambda network: 1.0 + cost(network, 64).macs / 1e7

    monkeypatch.setattr("compress.pruning.recipe.measured_here", measured_here)
    monkeypatch.setattr("platform.machine", lambda: fine.architecture)
    milliseconds = 1 + cost(inputs.teacher.generator, 64).macs / 3e7
    options = AGENTS.model_copy(update={"macs_reduction": None, "latency_ms": milliseconds})
    student, _ = search_pair(inputs, options, fine, tmp_path / "train", Silent())
    reached = 1 + cost(student, 64).macs / 1e7
    assert (1 - TOLERANCE) * milliseconds <= reached <= milliseconds
    fitted = json.loads((tmp_path / "train" / FOLDER / MEASURED).read_text())["found"]
    assert len(fitted) == 4
    assert fitted[0] + fitted[1] + fitted[3] == pytest.approx(
        1 + cost(inputs.teacher.generator, 64).macs / 1e7, rel=0.01
    )


def test_agents_need_a_discriminator_that_has_learned(workshop, fine, tmp_path):
    inputs = Inputs.read(read(workshop), fine)
    for side in (
        replace(inputs.teacher, discriminator=None),
        replace(inputs.teacher, fresh_discriminator=True),
    ):
        with pytest.raises(ValueError, match=r"no discriminator that is trained: give its file"):
            search_pair(replace(inputs, teacher=side), AGENTS, fine, tmp_path, Silent())


def test_a_budget_out_of_reach_is_refused_before_the_agents_learn(workshop, fine, tmp_path):
    inputs, progress = Inputs.read(read(workshop), fine), Silent()
    options = AGENTS.model_copy(update={"macs_reduction": 5000.0})
    with pytest.raises(ValueError, match="2 channels in every layer still cost"):
        search_pair(inputs, options, fine, tmp_path, progress)
    assert progress.started == ()


@pytest.mark.parametrize("name", ["restore-mggc", "facades-mggc"])
def test_the_shipped_recipes_say_what_agents_understand(name):
    table = tomllib.loads((RECIPES / f"{name}.toml").read_text())
    options = Agents.model_validate(table["agents"])
    assert options.feedback
    assert Agents.model_validate_json(options.model_dump_json()) == options
    assert table["method"]["name"] == "mggc"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"macs_reduction": None}, "give macs_reduction or latency_ms, one of them"),
        ({"latency_ms": 3.0}, "give macs_reduction or latency_ms, one of them"),
        ({"neighbours": 8, "samples": 8}, "neighbours = 8 cannot be found among samples = 8"),
        ({"adversarial": 0.0}, "adversarial"),
        ({"macs_reduction": 1.0}, "macs_reduction"),
    ],
)
def test_agents_that_cannot_work_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        Agents(**{"macs_reduction": 2.0, "steps": 10} | options)
