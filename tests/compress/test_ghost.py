"""GHOST as a method: who is rounded, what is followed, and what the switches learn."""

import copy

import pytest
import torch

from compress.fake_quant import Int8Conv2d, quantizable
from compress.loop import Batch, Schedule, make_optimizers, train
from compress.methods.ghost import Switches, attention_distance, ghost, thrown
from compress.methods.likeness import Likeness
from compress.methods.teaching import frozen
from tests.compress import small
from tests.compress.conftest import tiny_generator
from tests.compress.small import SmallGenerator


def batch_at(step):
    generator = torch.Generator().manual_seed(step)
    source = torch.rand(1, 3, 64, 64, generator=generator) * 2 - 1
    return Batch(source, -source)


def self_taught(student=None, **options):
    """A student that follows a copy of itself in float, as the paper has it."""
    student = student or tiny_generator(4)
    itself = copy.deepcopy(student)
    torch.manual_seed(3)
    return ghost(frozen(itself, itself.taps), itself, student, **options)


def run(method, steps, rate=2e-3):
    schedule, optimizers = Schedule(steps, rate), make_optimizers(method)
    return list(train(method, batch_at, schedule, optimizers=optimizers))


def student_of(method):
    return method.networks["student"][0]


def test_the_student_that_is_trained_is_rounded_and_its_teacher_is_not():
    student = tiny_generator(4)
    method = self_taught(student)
    rounded = quantizable(student_of(method)).values()
    assert all(type(layer).__name__.startswith("Int8") for layer in rounded)
    outputs = method.forward(batch_at(0))
    assert torch.equal(outputs.teacher, student(batch_at(0).source))
    gap = float((outputs.student.detach() - outputs.teacher).abs().mean())
    assert 0 < gap < 0.2


def test_only_the_layers_of_the_plan_are_rounded():
    method = self_taught(int8=["model.1"])
    kinds = {n: isinstance(m, Int8Conv2d) for n, m in quantizable(student_of(method)).items()}
    assert {name for name, rounded in kinds.items() if rounded} == {"model.1"}
    with pytest.raises(ValueError, match=r"has no layers \['model\.2'\] to round"):
        self_taught(int8=["model.1", "model.2"])


def test_training_moves_the_float_student_itself():
    student = tiny_generator(4)
    before = copy.deepcopy(student.state_dict())
    run(self_taught(student), steps=2)
    moved = {n for n, tensor in student.state_dict().items() if not torch.equal(tensor, before[n])}
    assert {f"{name}.weight" for name in quantizable(student)} <= moved
    assert not any(isinstance(module, Int8Conv2d) for module in student.modules())


def test_a_rounded_student_approaches_a_teacher_that_holds_still():
    teacher, student = tiny_generator(8), tiny_generator(4, seed=1)
    method = ghost(frozen(teacher, teacher.taps), teacher, student)
    logged = run(method, steps=25)
    assert logged[-1]["student/imitation"] < 0.8 * logged[0]["student/imitation"]


def test_without_attention_there_are_only_images():
    logged = run(self_taught(attention_weight=0.0), steps=1)
    assert list(logged[0]) == ["student/imitation"]
    logged = run(self_taught(likeness=Likeness()), steps=1)
    assert list(logged[0]) == ["student/attention", "student/switches"]


def test_attention_is_where_and_not_how_much():
    x = torch.rand(2, 5, 6, 6)
    assert attention_distance(3 * x, x).tolist() == pytest.approx([0, 0], abs=1e-6)
    assert attention_distance(x[:, [4, 0, 3, 1, 2]], x).tolist() == pytest.approx([0, 0], abs=1e-6)
    assert attention_distance(x, torch.cat([x, x], 1)).tolist() == pytest.approx([0, 0], abs=1e-6)


def test_attention_to_other_places_is_two_apart():
    here, there = torch.zeros(1, 2, 4, 4), torch.zeros(1, 3, 4, 4)
    here[..., :2], there[..., 2:] = 1.0, -1.0
    assert float(attention_distance(here, there)) == pytest.approx(2.0)
    big = [torch.nn.functional.interpolate(x, scale_factor=4) for x in (here, there)]
    assert float(attention_distance(*big)) == pytest.approx(2.0)


def test_attention_gives_the_teacher_no_gradient_and_nothing_no_nan():
    student = torch.zeros(1, 2, 4, 4, requires_grad=True)
    teacher = torch.rand(1, 2, 4, 4, requires_grad=True)
    loss = attention_distance(student, teacher).sum()
    ours, theirs = torch.autograd.grad(loss, [student, teacher], allow_unused=True)
    assert theirs is None
    assert torch.isfinite(ours).all()


def test_switches_are_open_or_shut_and_pass_a_gradient_either_way():
    logits = torch.tensor([30.0, -30.0, 0.0], requires_grad=True)
    torch.manual_seed(0)
    drawn = thrown(logits)
    assert drawn[:2].tolist() == [1.0, 0.0]
    assert float(drawn[2].detach()) in (0.0, 1.0)
    torch.manual_seed(0)
    mild = torch.tensor([-4.0, 4.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(thrown(mild).sum(), mild)
    assert (gradient > 0).all()


@pytest.mark.parametrize("logit", [-1.5, 0.0, 2.0])
def test_a_switch_is_open_as_often_as_its_logit_says(logit):
    torch.manual_seed(0)
    drawn = thrown(torch.full((20_000,), logit))
    assert set(drawn.tolist()) == {0.0, 1.0}
    assert float(drawn.mean()) == pytest.approx(float(torch.sigmoid(torch.tensor(logit))), abs=0.02)


def test_a_switch_steers_nobody():
    torch.manual_seed(0)
    features = [torch.rand(2, 3, 4, 4, requires_grad=True) for _ in range(2)]
    logits = Switches([(3, 3)])([features[0]], [features[1]])
    assert logits.shape == (1, 2)
    gradients = torch.autograd.grad(logits.sum(), features, allow_unused=True)
    assert gradients == (None, None)


def test_every_image_has_switches_of_its_own():
    torch.manual_seed(0)
    theirs, ours = torch.rand(2, 8, 4, 4), torch.rand(2, 4, 4, 4)
    switches = Switches([(8, 4), (8, 4)])
    logits = switches([theirs, theirs], [ours, ours])
    alone = switches([theirs[1:], theirs[1:]], [ours[1:], ours[1:]])
    assert torch.allclose(logits[:, 1:], alone, atol=1e-5)
    assert len({round(float(x), 4) for x in logits.detach().flatten()}) == 4


@pytest.mark.parametrize("share", [0.2, 0.8])
def test_switches_learn_where_and_not_how_many(share):
    """Held by nothing, they would learn to close: every open one only adds to the loss."""
    student = SmallGenerator()
    method = self_taught(student, open_share=share, likeness=Likeness())
    schedule = Schedule(150, 3e-3)
    list(train(method, small.batch_at, schedule, optimizers=make_optimizers(method)))
    switches = method.networks["student"][1]
    seen = [method.forward(small.batch_at(step)) for step in range(200, 210)]
    logits = torch.cat([switches(o.teacher_features, o.student_features) for o in seen], 1)
    assert torch.sigmoid(logits).mean().item() == pytest.approx(share, abs=0.15)


def test_the_same_every_time():
    assert run(self_taught(), steps=3) == run(self_taught(), steps=3)
