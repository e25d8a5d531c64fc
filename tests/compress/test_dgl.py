"""DGL: a second critic that stands still, alone with a student and on top of other methods."""

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from compress.loop import Batch, Schedule, make_optimizers, train
from compress.losses import generator_loss
from compress.methods.crd import crd
from compress.methods.dcd import dcd
from compress.methods.dgl import ALPHA, guided
from compress.methods.l1 import l1
from compress.methods.likeness import Likeness
from compress.methods.omgd import omgd
from compress.methods.pix2pix import pix2pix
from compress.methods.rivals import rival_of, rivals
from compress.methods.teaching import frozen, judged
from compress.models.blocks import initialize
from compress.models.discriminators import PatchDiscriminator, SharedPatchDiscriminator
from compress.models.srvgg import SrvggNet, SrvggWidths
from compress.pipeline import run as run_pipeline
from compress.recipe import CompressRecipe, load_recipe
from tests.compress.conftest import Silent, tiny_generator

TASKS = ["paired", "super_resolution", "teacher_only", "unpaired"]
TERMS = Likeness(imitation=1.0, reconstruction=1.0)


def judge(channels, *, norm="instance", seed=5):
    torch.manual_seed(seed)
    return initialize(PatchDiscriminator(channels, 4, norm=norm))


def upscaler(seed, width):
    torch.manual_seed(seed)
    return initialize(SrvggNet(SrvggWidths.uniform(width, 4), scale=2))


def networks_of(task):
    """A teacher and a student of a task."""
    if task == "super_resolution":
        return upscaler(0, 4), upscaler(1, 3)
    return tiny_generator(8), tiny_generator(4, seed=1)


def dgl(student, discriminator, critic, *, guidance=ALPHA, mode="lsgan", **options):
    """The paper's second stage: its first, and the critic."""
    alone = rivals(student, discriminator, mode=mode, **options)
    return guided(alone, critic, weight=guidance, mode=mode)


def dgl_case(task="paired", **options):
    """DGL with tiny networks, as a recipe of that task puts it together."""
    teacher, student = networks_of(task)
    channels = 6 if task in ("paired", "teacher_only") else 3
    options = {"likeness": TERMS} | options
    if task == "teacher_only":
        options |= {"likeness": Likeness(imitation=1.0), "real": "teacher"}
    if task == "unpaired":
        options |= {"likeness": Likeness(imitation=1.0)}
    return dgl(student, judge(channels, seed=6), judge(channels), teacher=teacher.eval(), **options)


def batches_for(task):
    def at(step):
        draw = torch.Generator().manual_seed(step)
        size = 64 if task == "super_resolution" else 96
        source = torch.rand(1, 3, size, size, generator=draw) * 2 - 1
        if task == "teacher_only":
            return Batch(source)
        return Batch(source, F.interpolate(-source, scale_factor=2) if size == 64 else -source)

    return at


batch_at = batches_for("paired")


def run(method, steps=2, at=batch_at, **schedule):
    return list(train(method, at, Schedule(steps, **schedule), optimizers=make_optimizers(method)))


def tensors(network):
    """Weights and statistics; not how often a BatchNorm was asked."""
    return {
        name: tensor.detach().clone()
        for name, tensor in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


def same(before, after):
    return all(torch.equal(tensor, after[name]) for name, tensor in before.items())


class Brightness(nn.Module):
    """A critic that likes bright images, and says how bright they are."""

    channels = 3

    def forward(self, images):
        return images.mean(1, keepdim=True)


def test_the_second_critic_is_worth_its_weight_times_its_adversarial_loss():
    critic, student = judge(6), tiny_generator(4, seed=1)
    method = dgl(student, judge(6, seed=6), critic, guidance=0.25, likeness=TERMS, teacher=student)
    batch = batch_at(1)
    outputs = method.forward(batch)
    (update,) = [u for u in method.updates if u.network == "student"]
    losses = update.objective(outputs)
    scores = critic(torch.cat([batch.source, outputs.student], 1))
    want = 0.25 * F.mse_loss(scores, torch.ones_like(scores))
    assert losses["guidance"].item() == pytest.approx(want.item(), rel=1e-6)
    # and all else is what it is without: the objectives add up, M(G, D) + alpha M(G, D of teacher)
    alone = rivals(student, judge(6, seed=6), likeness=TERMS, teacher=student)
    (update,) = [u for u in alone.updates if u.network == "student"]
    assert {name: loss.item() for name, loss in losses.items() if name != "guidance"} == {
        name: loss.item() for name, loss in update.objective(outputs).items()
    }
    assert "critic" not in alone.networks


@pytest.mark.parametrize("mode", ["hinge", "lsgan", "vanilla"])
def test_guidance_asks_for_what_the_critic_calls_real(mode):
    student = tiny_generator(4, norm="instance", seed=1)
    method = dgl(
        student,
        judge(3),
        Brightness(),
        guidance=2.0,
        adversarial_weight=0,
        likeness=Likeness(),
        mode=mode,
    )
    outputs = method.forward(batch_at(1))
    loss = method.updates[1].objective(outputs)["guidance"]
    brightness = outputs.student.mean(1, keepdim=True)
    assert loss.item() == pytest.approx(2 * generator_loss(brightness, mode).item(), rel=1e-6)


def test_a_student_learns_from_a_critic_that_stands_still():
    student = tiny_generator(4, norm="instance", seed=1)
    method = dgl(
        student,
        judge(3),
        Brightness(),
        adversarial_weight=0,
        likeness=Likeness(),
    )
    image = batch_at(1).source
    before = float(student(image).detach().mean())
    run(method, steps=10, at=lambda _: batch_at(1), learning_rate=2e-3)
    assert float(student(image).detach().mean()) > before + 0.05


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_the_critic_stands_still_while_the_same_network_learns_on(norm):
    teacher, student, trained = tiny_generator(8), tiny_generator(4, seed=1), judge(6, norm=norm)
    began = tensors(trained)
    method = guided(
        dcd(judged(teacher, trained, teacher.taps), teacher, student, likeness=TERMS), trained
    )
    run(method, steps=3)
    assert same(began, tensors(method.networks["critic"]))
    assert not same(began, tensors(trained))


def test_the_critic_judges_by_the_statistics_of_the_batch_as_it_was_trained_to():
    critic, student = judge(6, norm="batch"), tiny_generator(4, seed=1)
    with torch.no_grad():
        critic.model[3].running_mean.fill_(100.0)  # nothing that a batch ever shows
    method = guided(l1(frozen(tiny_generator(8)), student), critic)
    outputs = method.forward(batch_at(1))
    scores = critic.train()(torch.cat([outputs.batch.source, outputs.student], 1))
    want = ALPHA * generator_loss(scores, "lsgan").item()
    losses = method.updates[0].objective(outputs)
    assert losses["guidance"].item() == pytest.approx(want, rel=1e-5)


def test_the_student_has_a_discriminator_of_its_own():
    """It learns from the student's images; what the teacher makes does not matter to it."""
    teachers = [tiny_generator(8, seed=seed).eval() for seed in (0, 9)]
    critic = judge(6)
    losses = [
        run(
            dgl(
                tiny_generator(4, seed=1),
                judge(6, seed=6),
                critic,
                teacher=teacher,
                likeness=Likeness(reconstruction=1.0),
            )
        )
        for teacher in (*teachers, None)
    ]
    assert losses[0] == losses[1] == losses[2]
    rival = rival_of(critic)
    assert rival.spec == critic.spec
    assert not same(tensors(critic), tensors(rival))


def test_two_stages_are_one_student_and_one_discriminator():
    student, rival, critic = tiny_generator(4, seed=1), judge(6, seed=6), judge(6)
    first = rivals(student, rival, likeness=Likeness(reconstruction=1.0))
    second = guided(first, critic)
    alone = run(first)
    reached = tensors(student), tensors(rival)
    assert second.networks["student"] is student
    assert second.networks["discriminator"] is rival
    both = run(second)
    assert {"student/guidance"} == set(both[0]) - set(alone[0])
    assert not same(reached[0], tensors(student))
    assert not same(reached[1], tensors(rival))
    # stage one knows nothing of the critic: another one changes nothing
    again = rivals(
        tiny_generator(4, seed=1), judge(6, seed=6), likeness=Likeness(reconstruction=1.0)
    )
    assert run(again) == alone


def on_top_of(name):
    teacher, student = tiny_generator(8), tiny_generator(4, seed=1)
    terms = Likeness(imitation=1.0)
    torch.manual_seed(2)
    if name == "l1":
        return l1(frozen(teacher), student, likeness=terms)
    if name == "omgd":
        return omgd(frozen(teacher, teacher.taps), teacher, student, likeness=terms)
    teaching = judged(teacher, judge(6), teacher.taps)
    if name == "crd":
        return crd(teaching, student, units=16, likeness=terms)
    return dcd(teaching, teacher, student, likeness=terms)


@pytest.mark.parametrize("name", ["crd", "dcd", "l1", "omgd"])
def test_dgl_on_top_of_another_method_adds_one_loss_and_changes_no_other(name):
    plain, method = run(on_top_of(name), 1)[0], run(guided(on_top_of(name), judge(6, seed=8)), 1)[0]
    guidance = method.pop("student/guidance")
    assert guidance > 0
    assert method == plain


@pytest.mark.parametrize("name", ["crd", "dcd", "l1", "omgd"])
def test_dgl_on_top_of_another_method_moves_its_student_elsewhere(name):
    plain, method = on_top_of(name), guided(on_top_of(name), judge(6, seed=8), weight=10.0)
    run(plain, 1)
    run(method, 1)
    assert not same(tensors(plain.networks["student"]), tensors(method.networks["student"]))


def test_a_method_is_guided_once():
    with pytest.raises(ValueError, match="has a critic already"):
        guided(dgl_case(), judge(6))


def test_a_method_without_a_student_cannot_be_guided():
    method = pix2pix(tiny_generator(4), judge(6))
    with pytest.raises(ValueError, match=r"of 'student', and this method has 'discriminator', 'ge"):
        guided(method, judge(6))


def test_a_discriminator_of_two_teachers_guides_nobody():
    shared = SharedPatchDiscriminator(6, 4, shared=2)
    with pytest.raises(ValueError, match="a discriminator with 2 heads"):
        guided(on_top_of("l1"), shared)


@pytest.mark.parametrize(
    "options", [{"likeness": Likeness(imitation=1.0)}, {"likeness": TERMS}, {"real": "teacher"}]
)
def test_what_looks_at_a_teacher_needs_one(options):
    with pytest.raises(ValueError, match="no teacher is given: give one"):
        dgl(tiny_generator(4), judge(6), judge(6), **options)


def test_without_a_truth_it_says_so():
    method = dgl_case()
    with pytest.raises(ValueError, match="needs paired batches"):
        run(method, at=batches_for("teacher_only"))


DGL = """
[method]
name = "dgl"
adversarial = 1.0
reconstruction = 10.0

[guidance]
weight = 0.5
alone = 0.5
"""


@pytest.mark.slow
def test_a_recipe_runs_both_stages_one_after_the_other(workshop, cpu):
    text = (workshop / "tiny.toml").read_text()
    start, end = text.index("[method]"), text.index("[training]")
    (workshop / "tiny.toml").write_text(text[:start] + DGL + text[end:])
    recipe = load_recipe(str(workshop / "tiny.toml"), CompressRecipe)[0]
    out = workshop / "build" / "cpu" / "export"
    run_pipeline(recipe, cpu, out, Silent())
    first, second = (
        [json.loads(line) for line in (out.with_name("train") / at).read_text().splitlines()]
        for at in ("alone/metrics.jsonl", "metrics.jsonl")
    )
    assert [row["step"] for row in first] == [row["step"] for row in second] == [1, 2, 3]
    assert {"student/guidance"} == set(second[0]) - set(first[0])


@pytest.mark.slow
def test_guidance_without_a_trained_discriminator_is_refused(workshop):
    text = (workshop / "tiny.toml").read_text()
    start, end = text.index("[method]"), text.index("[training]")
    text = text[:start] + DGL + text[end:]
    lines = [line for line in text.splitlines() if not line.startswith("discriminator =")]
    (workshop / "tiny.toml").write_text("\n".join(lines))
    with pytest.raises(ValueError, match="guidance looks through the teacher's trained"):
        load_recipe(str(workshop / "tiny.toml"), CompressRecipe)


def test_the_replaced_update_keeps_what_it_was():
    method = on_top_of("l1")
    slower = replace(method, updates=[replace(u, every=3) for u in method.updates])
    (update,) = guided(slower, judge(6)).updates
    assert (update.network, update.every, update.split) == ("student", 3, "train")
