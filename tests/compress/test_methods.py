"""What every method promises, whatever the paper."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from compress.loop import Batch, Schedule, apply_update, make_optimizers, train
from compress.losses import discriminator_loss, generator_loss
from compress.methods import METHODS
from compress.methods.dcd import DiscriminatorFeatureLoss
from compress.models.generators import RESNET_TAPS
from tests.compress.conftest import tiny_discriminator, tiny_generator

GOLDEN = Path(__file__).parent.parent / "golden"


def build(name, **options):
    teacher, student = tiny_generator(8), tiny_generator(4, seed=1)
    torch.manual_seed(2)
    if name == "pix2pix":
        return METHODS[name](student, tiny_discriminator(), **options)
    if name == "l1":
        return METHODS[name](teacher, student, reconstruction_weight=1.0, **options)
    options = {"layers": RESNET_TAPS, "reconstruction_weight": 1.0} | options
    return METHODS[name](teacher, student, tiny_discriminator(), **options)


def batch_at(step):
    generator = torch.Generator().manual_seed(step)
    source = torch.rand(1, 3, 96, 96, generator=generator) * 2 - 1
    return Batch(source, -source)


def run(method, steps=2, **schedule):
    return list(
        train(
            method,
            batch_at,
            Schedule(steps, **schedule),
            optimizers=make_optimizers(method),
        )
    )


@pytest.fixture(
    params=[(name, {}) for name in METHODS] + [("dcd", {"online_teacher": True})],
    ids=lambda p: "-".join([p[0], *p[1]]),
)
def method(request):
    name, options = request.param
    return build(name, **options)


def snapshot(method):
    return {n: [p.detach().clone() for p in m.parameters()] for n, m in method.networks.items()}


def test_an_update_moves_its_network_and_no_other(method):
    outputs = method.forward(batch_at(0))
    for update in method.updates:
        before = snapshot(method)
        parameters = [p for p in method.networks[update.network].parameters() if p.requires_grad]
        apply_update(update, outputs, torch.optim.SGD(parameters, lr=0.1))
        moved = {
            name
            for name, tensors in snapshot(method).items()
            if any(not torch.equal(a, b) for a, b in zip(before[name], tensors, strict=True))
        }
        assert moved == {update.network}
        # the network that made these outputs has just moved: make them again
        outputs = method.forward(batch_at(0))


def test_every_loss_gives_its_own_network_a_gradient_and_no_other(method):
    for update in method.updates:
        names = update.objective(method.forward(batch_at(0)))
        for loss_name in names:
            loss = update.objective(method.forward(batch_at(0)))[loss_name]
            own = [p for p in method.networks[update.network].parameters() if p.requires_grad]
            gradients = torch.autograd.grad(loss, own, allow_unused=True)
            size = sum(float(g.abs().sum()) for g in gradients if g is not None)
            assert size > 0, f"{update.network}/{loss_name} moves nothing"


def test_training_is_deterministic(method, request):
    name, options = request.node.callspec.params["method"]
    assert run(build(name, **options)) == run(build(name, **options))


@pytest.mark.parametrize("name", METHODS)
def test_losses_are_the_golden_ones(name):
    """Change these only with a reason: they pin every term to its weight and its formula."""
    golden = json.loads((GOLDEN / f"{name}.json").read_text())
    for got, want in zip(run(build(name)), golden, strict=True):
        assert got == pytest.approx(want, rel=1e-4)


def test_student_approaches_a_teacher_that_holds_still():
    method = build("l1")
    logged = run(method, steps=25, learning_rate=2e-3)
    first, last = logged[0]["student/imitation"], logged[-1]["student/imitation"]
    assert last < 0.8 * first


def test_a_loss_that_is_not_finite_stops_with_its_name():
    method = build("l1")
    with torch.no_grad():
        next(iter(method.networks["student"].parameters())).fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="step 1: student/imitation is nan"):
        run(method)


def test_a_held_out_update_without_held_out_batches_says_so():
    method = build("l1")
    updates = [replace(update, split="held_out") for update in method.updates]
    with pytest.raises(ValueError, match="the update of 'student' needs held-out batches"):
        run(replace(method, updates=updates))


def test_a_paired_method_without_truth_says_so():
    method = build("pix2pix")
    outputs = method.forward(Batch(batch_at(0).source))
    with pytest.raises(ValueError, match="needs paired batches"):
        method.updates[0].objective(outputs)


def test_updates_run_every_nth_step():
    method = build("dcd", discriminator_every=2)
    moved = ["discriminator/adversarial" in losses for losses in run(method, steps=4)]
    assert moved == [False, True, False, True]


def test_learning_rate_holds_and_then_falls_to_zero():
    schedule = Schedule(steps=10, learning_rate=1.0, decay_from=0.5)
    assert [schedule.rate(step) for step in (1, 5)] == [1.0, 1.0]
    assert schedule.rate(6) == pytest.approx(5 / 6)
    assert schedule.rate(10) == pytest.approx(1 / 6)


def test_dcd_of_equal_features_and_connectors_is_zero():
    loss = DiscriminatorFeatureLoss({"x": (5, 5)}, tiny_discriminator().features, 6).eval()
    with torch.no_grad():
        loss.student[0][0].weight.copy_(loss.teacher[0].weight)
    features = {"x": torch.rand(1, 5, 24, 24)}
    # the student's BatchNorm is fresh: it divides by sqrt(1 + 1e-5)
    assert loss(features, features).item() == pytest.approx(0.0, abs=1e-4)


def test_dcd_teacher_connectors_are_fixed():
    loss = DiscriminatorFeatureLoss({"x": (5, 3)}, tiny_discriminator().features, 6)
    assert not any(p.requires_grad for p in loss.teacher.parameters())
    assert all(p.requires_grad for p in loss.student.parameters())


@pytest.mark.parametrize(
    ("mode", "real", "fake", "expected"),
    [("hinge", 2.0, -2.0, 0.0), ("lsgan", 1.0, 0.0, 0.0), ("lsgan", 0.0, 1.0, 1.0)],
)
def test_discriminator_loss(mode, real, fake, expected):
    got = discriminator_loss(torch.full((2,), real), torch.full((2,), fake), mode)
    assert float(got) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("mode", "fake", "expected"),
    [("hinge", 0.5, -0.5), ("lsgan", 1.0, 0.0), ("vanilla", 0.0, 0.6931472)],
)
def test_generator_loss(mode, fake, expected):
    assert float(generator_loss(torch.full((2,), fake), mode)) == pytest.approx(expected)
