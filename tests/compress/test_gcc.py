"""GCC's third stage: the gates, what coordinates them, and what the student follows."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from compress.features import counterparts
from compress.loop import Batch, Schedule, apply_update, make_optimizers, train
from compress.methods.gates import LEAST_SHARE, Gates, gap, without_gates
from compress.methods.gcc import content_loss, gcc, judge_taps, texture_loss
from compress.methods.likeness import Likeness
from compress.methods.teaching import frozen, judged
from compress.models.blocks import initialize
from compress.models.discriminators import (
    PatchDiscriminator,
    PixelDiscriminator,
    SharedPatchDiscriminator,
)
from compress.models.gates import GatedPatchDiscriminator
from compress.models.srgan import SrganDiscriminator
from compress.models.unet import UnetGenerator, UnetWidths
from compress.stage import METRICS, STATE, Options, run_stage
from tests.compress.conftest import tiny_generator
from tests.compress.small import Silent, weights


def batch_at(step, size=64):
    generator = torch.Generator().manual_seed(step)
    source = torch.rand(1, 3, size, size, generator=generator) * 2 - 1
    return Batch(source, -source)


def held_out_at(step, size=64):
    return batch_at(step + 1000, size)


def gated(seed=5, channels=6):
    torch.manual_seed(seed)
    return initialize(GatedPatchDiscriminator(channels, 4, norm="instance"))


def make(*, online=False, student=None, judge=None, steps=4, **options):
    teacher = tiny_generator(8)
    student = tiny_generator(4, seed=1) if student is None else student
    torch.manual_seed(2)
    discriminator = initialize(PatchDiscriminator(6, 4))
    teaching = judged(teacher, discriminator, teacher.taps, online=online, mode="hinge")
    torch.manual_seed(3)
    judge = gated() if judge is None else judge
    return gcc(teaching, teacher, student, judge, steps=steps, **options)


def run(method, steps=2, *, held_out=held_out_at, at=batch_at, rate=1e-3):
    return list(
        train(
            method,
            at,
            Schedule(steps, rate, decay_from=1.0),
            optimizers=make_optimizers(method),
            held_out_at=held_out,
        )
    )


def update_of(method, name):
    (update,) = [u for u in method.updates if u.network == name]
    return update


# the gates


@pytest.mark.parametrize(
    ("mode", "score", "expected"),
    [
        ("hinge", 0.0, 1.0),  # |0 - 1|
        ("hinge", -2.0, 2.0),  # |2 - 0|
        ("hinge", -0.5, 0.0),  # a draw
        ("lsgan", 0.5, 0.0),
        ("lsgan", 0.0, 1.0),
        ("vanilla", 0.0, 0.0),
    ],
)
def test_a_gap_is_how_far_a_game_is_from_a_draw(mode, score, expected):
    assert float(gap(torch.full((1, 1, 6, 6), score), mode)) == pytest.approx(expected)


def play(gates, teacher, student=0.0):
    distance = gates.coordination(torch.tensor(teacher), torch.tensor(student))
    gates.settle()
    return float(distance)


def test_the_teachers_gap_is_followed_closely_at_first_and_then_steadily():
    gates = Gates(gated(), updates=4)
    assert play(gates, 2.0) == 2.0  # the first one is the average
    assert play(gates, 6.0) == pytest.approx(0.75 * 6 + 0.25 * 2)
    assert float(gates.followed) == pytest.approx(5.0)
    assert gates.share() == 0.5


def test_the_teachers_gap_is_followed_to_the_end():
    """The share of the newest one falls to nothing in the released code."""
    gates = Gates(gated(), updates=2)
    for _ in range(5):
        play(gates, 1.0)
    assert gates.share() == LEAST_SHARE
    before = float(gates.followed)
    play(gates, 11.0)
    assert float(gates.followed) == pytest.approx(before + LEAST_SHARE * 10)


def test_gaps_of_the_parts_of_a_batch_count_as_their_mean():
    gates = Gates(gated(), updates=2)
    for teacher, student in ((1.0, 0.0), (3.0, 1.0)):
        gates.coordination(torch.tensor(teacher), torch.tensor(student))
    gates.settle()
    assert float(gates.followed) == 2.0
    assert float(gates.played) == 0.5


def test_coordination_gives_the_teacher_no_gradient():
    gates = Gates(gated(), updates=2)
    teacher, student = (torch.tensor(x, requires_grad=True) for x in (1.0, 3.0))
    gates.coordination(teacher, student).backward()
    assert teacher.grad is None
    assert float(student.grad) == 1.0


def test_gates_brought_back_into_the_unit_interval():
    judge = gated()
    gates = Gates(judge, updates=2)
    with torch.no_grad():
        judge.gates[0].alpha.copy_(torch.tensor([-0.5, 0.2, 1.5, 1.0]))
    play(gates, 0.0)
    assert judge.gates[0].alpha.tolist() == pytest.approx([0.0, 0.2, 1.0, 1.0])


def test_gates_and_weights_are_two_networks_that_share_nothing():
    judge = gated()
    gates = {id(p) for p in Gates(judge, updates=1).parameters()}
    others = {id(p) for p in without_gates(judge).parameters()}
    assert not gates & others
    assert gates | others == {id(p) for p in judge.parameters()}
    assert len(gates) == 4


def test_gates_that_are_never_updated_are_refused():
    with pytest.raises(ValueError, match="updated once or more, got 0"):
        Gates(gated(), updates=0)


def test_open_gates_are_counted_layer_by_layer():
    judge = gated()
    with torch.no_grad():
        judge.gates[1].alpha[:2] = 0.1
        judge.gates[3].alpha.fill_(0.2)
    figures = {name: float(x) for name, x in Gates(judge, updates=1).figures().items()}
    assert [figures[f"open_{n}"] for n in (1, 2, 3, 4)] == [1.0, 0.75, 1.0, 0.0]
    assert figures["open"] == pytest.approx((4 + 6 + 16) / (4 + 8 + 16 + 32))


# the method


def test_every_step_says_how_many_gates_are_open():
    logged = run(make())
    assert [row["gates/open"] for row in logged] == [1.0, 1.0]
    assert {"gates/open_1", "gates/open_4", "gates/gap_teacher", "gates/gap_student"} <= set(
        logged[0]
    )


def test_what_is_logged_beside_the_losses_is_not_minimised():
    method = make()
    update = update_of(method, "gates")
    assert set(update.objective(method.forward(batch_at(0)))) == {"capacity", "coordination"}


def test_gates_learn_from_held_out_images_and_nothing_else_does():
    asked = {"train": [], "held_out": []}

    def watched(split, at):
        def inner(step):
            asked[split].append(step)
            return at(step)

        return inner

    method = make(gates_every=2)
    logged = run(
        method, 4, at=watched("train", batch_at), held_out=watched("held_out", held_out_at)
    )
    assert asked == {"train": [1, 2, 3, 4], "held_out": [2, 4]}
    assert ["gates/capacity" in row for row in logged] == [False, True, False, True]
    others = [u.split for u in method.updates if u.network != "gates"]
    assert others == ["train"] * 3


def test_gates_learn_at_a_pace_of_their_own():
    judge = gated()
    run(make(judge=judge, gates_pace=3.0), steps=1, rate=1e-2)
    # Adam's first step is the learning rate; gates that would open further stay at 1
    moved = torch.cat([1 - gate.alpha.detach() for gate in judge.gates])
    assert float(moved.max()) == pytest.approx(3e-2, rel=1e-3)
    assert float(moved.min()) == 0.0


def test_the_weights_of_the_judge_learn_with_the_gates_as_they_are():
    judge = gated()
    method = make(judge=judge)
    before = [gate.alpha.detach().clone() for gate in judge.gates]
    parameters = list(method.networks["student_discriminator"].parameters())
    update = update_of(method, "student_discriminator")
    apply_update(update, method.forward(batch_at(0)), torch.optim.SGD(parameters, lr=0.1))
    assert all(torch.equal(a, g.alpha) for a, g in zip(before, judge.gates, strict=True))


def test_teachers_go_before_the_student_and_the_judge_before_the_one_it_judges():
    order = [update.network for update in make(online=True).updates]
    assert order == ["discriminator", "teacher", "student_discriminator", "student", "gates"]


def test_the_teachers_discriminator_gives_the_student_a_gradient():
    """In the released code for unpaired data the student's image is detached before it."""
    method = make(gram_weight=0.0, likeness=Likeness())
    outputs = method.forward(batch_at(0))
    blind = replace(outputs, student_features=tuple(x.detach() for x in outputs.student_features))
    loss = update_of(method, "student").objective(blind)["content"]
    generator = method.networks["student"][0]
    found = torch.autograd.grad(loss, list(generator.parameters()), allow_unused=True)
    assert sum(float(g.abs().sum()) for g in found if g is not None) > 0


def test_feature_maps_of_both_generators_give_the_student_a_gradient():
    method = make(gram_weight=0.0, likeness=Likeness())
    outputs = method.forward(batch_at(0))
    blind = replace(outputs, student=outputs.student.detach())
    loss = update_of(method, "student").objective(blind)["content"]
    first = next(method.networks["student"][0].parameters())
    (found,) = torch.autograd.grad(loss, [first])
    assert float(found.abs().sum()) > 0


def test_where_student_and_teacher_agree_the_gradient_is_finite():
    x = torch.rand(1, 4, 8, 8, requires_grad=True)
    for loss in (content_loss, texture_loss):
        value = loss([x, x], [x, x])
        assert float(value.detach()) == pytest.approx(2e-6, rel=1e-3)
        (found,) = torch.autograd.grad(value, [x])
        assert torch.isfinite(found).all()


def test_content_is_the_root_of_the_mean_square_summed_over_layers():
    zeros, threes = torch.zeros(1, 2, 4, 4), torch.full((1, 2, 4, 4), 3.0)
    assert float(content_loss([threes, zeros], [zeros, threes])) == pytest.approx(6.0)
    # Gram matrices of a constant c are c * c / 2 here, of zeros 0
    assert float(texture_loss([threes], [zeros])) == pytest.approx(4.5)


def test_dcd_can_be_one_of_its_terms():
    logged = run(
        make(content_weight=0.0, gram_weight=0.0, dcd_weight=1.0),
        at=lambda step: batch_at(step, 96),
        held_out=lambda step: held_out_at(step, 96),
    )
    assert {"student/dcd", "student/adversarial", "gates/coordination"} <= set(logged[0])
    assert "student/content" not in logged[0]


@pytest.mark.parametrize(
    ("blocks", "layers"),
    [
        (9, ("model.9", "model.12", "model.15", "model.18")),
        (5, ("model.9", "model.11", "model.12", "model.14")),
        (1, ("model.9", "model.9", "model.10", "model.10")),
        (0, ("model.9", "model.9", "model.9", "model.9")),
    ],
)
def test_a_student_that_lost_blocks_is_looked_at_after_the_same_share_of_them(blocks, layers):
    student = tiny_generator(4, blocks=blocks, seed=1)
    assert counterparts(tiny_generator(8), student) == layers
    assert "student/content" in run(make(student=student), steps=1)[0]


def test_a_student_of_another_family_is_refused():
    with pytest.raises(ValueError, match="feature maps do not fit: ResnetGenerator has"):
        make(student=UnetGenerator(UnetWidths.uniform(4, 5)))


def test_where_nothing_is_compared_another_family_will_do():
    upset = make(
        student=UnetGenerator(UnetWidths.uniform(4, 5)), content_weight=0.0, gram_weight=0.0
    )
    assert "student/content" not in run(upset, steps=1)[0]


def test_a_discriminator_with_two_heads_coordinates_nothing():
    teacher = tiny_generator(8)
    shared = replace(
        judged(teacher, gated(), teacher.taps),
        discriminator=SharedPatchDiscriminator(6, 4, shared=2),
    )
    with pytest.raises(ValueError, match="no discriminator with one head"):
        gcc(shared, teacher, tiny_generator(4), gated(), steps=1)


def test_discriminators_are_looked_into_behind_the_second_and_the_fourth_activation():
    assert judge_taps(PatchDiscriminator(6, 4)) == ("model.4", "model.10")
    assert judge_taps(PixelDiscriminator(6, 4)) == ("net.4",)
    second, fourth = judge_taps(SrganDiscriminator(4, hidden=8))
    assert second.startswith("conv_blocks.1.")
    assert fourth.startswith("conv_blocks.3.")
    with pytest.raises(ValueError, match="Sequential has 0: take a PatchGAN"):
        judge_taps(nn.Sequential(nn.Conv2d(3, 1, 1)))


def test_without_a_discriminator_there_is_no_game_to_follow():
    teacher = tiny_generator(8)
    with pytest.raises(ValueError, match="no discriminator with one head"):
        gcc(frozen(teacher), teacher, tiny_generator(4), gated(), steps=1)


def test_without_a_truth_there_is_no_game_to_play():
    with pytest.raises(ValueError, match="needs paired batches, and target is None"):
        run(make(), at=lambda step: Batch(batch_at(step).source))


class KilledError(Exception):
    """Stands in for SIGKILL."""


class Killer(Silent):
    def step(self, step, losses):
        if step == 3:
            raise KilledError


def stage(method, out, progress):
    run_stage(
        "gcc",
        method,
        batch_at,
        Schedule(4, 1e-2),
        Options(2),
        student=method.networks["student"][0],
        out=out,
        run="a",
        progress=progress,
        held_out_at=held_out_at,
    )


def test_killed_and_resumed_it_ends_with_the_same_bits(tmp_path):
    unbroken, first, second = (make(online=True, gates_pace=5.0) for _ in range(3))
    stage(unbroken, tmp_path / "a", Silent())
    with pytest.raises(KilledError):
        stage(first, tmp_path / "b", Killer())
    stage(second, tmp_path / "b", Silent())
    want = weights(unbroken)
    assert float(want["gates/followed"]) > 0
    assert int(want["gates/done"]) == 4
    for name, got in weights(second).items():
        assert torch.equal(got, want[name]), name
    states = [load_file(tmp_path / folder / STATE) for folder in "ab"]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    rows = [(tmp_path / folder / METRICS).read_text().splitlines() for folder in "ab"]
    assert rows[0] == rows[1]
    assert 0 <= json.loads(rows[0][-1])["gates/open"] <= 1
