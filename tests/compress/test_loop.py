"""The loop, whatever the method: parts of batches, precision, chance, what a step shares."""

from dataclasses import fields, replace

import pytest
import torch
from torch import nn

from compress.loop import Batch, Method, Outputs, Schedule, Update, make_optimizers, train
from compress.methods.pix2pix import pix2pix
from compress.models.discriminators import PatchDiscriminator
from compress.precision import in_bfloat16
from tests.compress.small import SmallGenerator, batch_at, relay, weights


def double(batch):
    return replace(batch, **{f.name: getattr(batch, f.name).double() for f in fields(batch)})


def run(method, at=batch_at, steps=3, rate=1e-2, optimizers=None, **options):
    optimizers = optimizers or make_optimizers(method)
    return list(train(method, at, Schedule(steps, rate), optimizers=optimizers, **options))


def duel():
    torch.manual_seed(3)
    generator = SmallGenerator(nn.InstanceNorm2d(4))
    return pix2pix(generator, PatchDiscriminator(6, 2, layers=1))


def in_double(method):
    for network in method.networks.values():
        network.double()
    return method


@pytest.mark.parametrize("parts", [2, 4])
@pytest.mark.parametrize("make", [duel, relay, lambda: relay(every=2)])
def test_parts_of_a_batch_give_the_update_of_the_whole(make, parts):
    """Nearly to the bit, so that a pass with weights that had already moved would be seen."""
    whole, cut = in_double(make()), in_double(make())

    def trained(method, accumulate):
        # not Adam: where a gradient should be zero it makes whole steps of rounding
        plain = {name: torch.optim.SGD(n.parameters()) for name, n in method.networks.items()}
        at = lambda step: double(batch_at(step))  # noqa: E731
        return run(method, at, rate=0.1, optimizers=plain, accumulate=accumulate)

    losses, in_parts = trained(whole, 1), trained(cut, parts)
    assert weights(cut).keys() == weights(whole).keys()
    for got, want in zip(weights(cut).values(), weights(whole).values(), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-8)
    for got, want in zip(in_parts, losses, strict=True):
        assert got == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize("parts", [1, 2])
def test_held_out_images_move_weights_and_leave_statistics_alone(parts):
    method = relay(nn.BatchNorm2d(4))
    method = replace(method, updates=[replace(u, split="held_out") for u in method.updates])
    before = weights(method)
    run(method, held_out_at=batch_at, accumulate=parts)
    moved = {name for name, was in before.items() if not torch.equal(was, weights(method)[name])}
    assert "student/block.0.1.weight" in moved
    assert not any("running" in name for name in moved)


def test_parts_are_computed_one_at_a_time():
    sizes = []
    method = relay()

    def forward(batch):
        sizes.append(len(batch.source))
        return method.forward(batch)

    run(replace(method, forward=forward), steps=1)
    assert sizes == [4]  # both updates share one pass
    sizes.clear()
    run(replace(method, forward=forward), steps=1, accumulate=2)
    assert sizes == [2, 2, 2, 2]  # each makes its own


def test_batchnorm_sees_parts_only():
    """Documented, and the reason why parts are off by default."""
    whole, cut = relay(nn.BatchNorm2d(4)), relay(nn.BatchNorm2d(4))
    run(whole, steps=1)
    run(cut, steps=1, accumulate=4)
    name = "student/block.0.0.weight"
    assert not torch.allclose(weights(whole)[name], weights(cut)[name], rtol=1e-3)


def test_a_batch_that_cannot_be_cut_says_so():
    with pytest.raises(
        ValueError,
        match="a batch of 4 cannot be shared evenly by 1 processes in 3 parts each: "
        "make batch_size a multiple of 3",
    ):
        run(relay(), accumulate=3)


def test_in_bfloat16_a_network_is_seen_as_it_is_and_not_as_it_was():
    """Autocast keeps casts of weights; one that outlived an update would be out of date."""
    judge, student = nn.Conv2d(3, 1, 3), SmallGenerator()

    def score(outputs):
        return {"score": judge(outputs.student).float().mean()}

    method = Method(
        {"judge": judge, "student": student},
        lambda batch: Outputs(batch, batch.source, student(batch.source)),
        (
            Update("judge", lambda o: {"score": judge(o.student.detach()).float().mean()}),
            Update("student", score),
        ),
    )
    images = student(batch_at(1).source).detach()
    cast = in_bfloat16(method, torch.device("cpu"))
    optimizers = make_optimizers(method)
    (losses,) = train(cast, batch_at, Schedule(1, 0.5), optimizers=optimizers)
    with torch.autocast("cpu", torch.bfloat16):
        moved = judge(images).float().mean().item()
    assert losses["student/score"] == pytest.approx(moved, abs=0.05)
    assert abs(losses["student/score"] - losses["judge/score"]) > 0.5


def test_bfloat16_keeps_weights_and_losses_in_float32():
    method = relay()
    seen = []

    def forward(batch):
        outputs = method.forward(batch)
        seen.append(outputs.student.dtype)
        return outputs

    watched = replace(method, forward=forward)
    run(in_bfloat16(watched, torch.device("cpu")), steps=1)
    assert seen == [torch.bfloat16]
    assert {w.dtype for w in weights(method).values()} == {torch.float32}


def test_what_is_drawn_at_random_follows_from_seed_and_step():
    """Dropout has no state that a checkpoint could keep: so a step must not depend on the last."""
    at_once, in_two = relay(nn.Dropout(0.5)), relay(nn.Dropout(0.5))
    whole = run(at_once, steps=4, seed=5)
    optimizers = make_optimizers(in_two)
    schedule = Schedule(4, 1e-2)
    steps = train(in_two, batch_at, schedule, optimizers=optimizers, seed=5)
    first = [next(steps), next(steps)]
    torch.manual_seed(99)
    last = list(train(in_two, batch_at, schedule, optimizers=optimizers, seed=5, start=2))
    assert first + last == whole
    assert run(relay(nn.Dropout(0.5)), steps=4, seed=6) != whole


def test_the_name_of_the_loss_that_is_not_finite_is_found_among_many():
    method = relay()
    broken = replace(
        method.updates[1], objective=lambda o: {"a": o.student.mean(), "b": o.student.mean() / 0}
    )
    with pytest.raises(FloatingPointError, match=r"step 1: student/b is -?inf; lower"):
        run(replace(method, updates=(method.updates[0], broken)))


def test_fields_of_a_batch_that_are_none_stay_none():
    method = relay()
    seen = []
    updates = (replace(method.updates[1], objective=lambda o: {"x": o.student.mean()}),)

    def forward(batch):
        seen.append(batch.target)
        return method.forward(batch)

    run(
        replace(method, forward=forward, updates=updates),
        lambda step: Batch(batch_at(step).source),
        steps=1,
        accumulate=2,
    )
    assert seen == [None, None]
