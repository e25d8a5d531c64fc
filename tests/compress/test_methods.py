"""What every method promises, whatever the paper."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchmetrics.functional.image import structural_similarity_index_measure

from compress.features import forward_with_features, tap_channels
from compress.loop import Batch, Schedule, apply_update, make_optimizers, train
from compress.losses import (
    discriminator_loss,
    generator_loss,
    gram,
    ssim_loss,
    total_variation,
)
from compress.methods import METHODS
from compress.methods.crd import crd
from compress.methods.cyclegan import BestSoFar, Four, ImagePool, cyclegan, cyclegan_teaching
from compress.methods.dcd import DiscriminatorFeatureLoss, dcd
from compress.methods.gcc import gcc
from compress.methods.l1 import l1
from compress.methods.likeness import Likeness
from compress.methods.omgd import omgd, wider_and_deeper
from compress.methods.pix2pix import see
from compress.methods.teaching import frozen, judged
from compress.models.blocks import initialize
from compress.models.discriminators import PatchDiscriminator, SharedPatchDiscriminator
from compress.models.gates import GatedPatchDiscriminator
from compress.models.srvgg import SrvggNet, SrvggWidths
from tests.compress.conftest import tiny_discriminator, tiny_generator
from tests.compress.test_data_free import BATCHES, PAPERS_OF_DATA_FREE, data_free_case
from tests.compress.test_dgl import dgl_case
from tests.compress.test_mggc import method as agents
from tests.compress.test_mggc import players, tuning

GOLDEN = Path(__file__).parent.parent / "golden"


PAPERS = ["crd", "dcd", "ghost", "l1", "omgd"]
TASKS = ["paired", "super_resolution", "teacher_only", "unpaired"]
LIKENESS = Likeness(imitation=1.0, ssim=1.0, style=1e3, feature=1.0, total_variation=1e-5)


def look(batch, image):
    """Stands in for VGG: fixed filters, named as what they are."""
    fixed = torch.Generator().manual_seed(11)
    first = torch.relu(F.conv2d(image, torch.randn(4, 3, 3, 3, generator=fixed)))
    return first, torch.relu(F.conv2d(first, torch.randn(4, 4, 3, 3, generator=fixed), stride=2))


def tiny_upscaler(seed=0, width=4):
    torch.manual_seed(seed)
    return initialize(SrvggNet(SrvggWidths.uniform(width, 4), scale=2))


def judge(channels):
    torch.manual_seed(5)
    return initialize(PatchDiscriminator(channels, 4))


def tiny_four(forth):
    return Four(forth, tiny_generator(4, seed=3), judge(3), judge(3))


def make_teaching(task, teacher, *, online):
    if task == "unpaired" and online:
        return cyclegan_teaching(
            tiny_four(teacher),
            teacher.taps,
            image_shape=(3, 96, 96),
            score=lambda generator: float(generator.model[1].weight.sum()),
            consider_every=1,
            pool=2,
            every=1,
        )
    return judged(
        teacher,
        judge(6 if task in ("paired", "teacher_only") else 3),
        teacher.taps,
        online=online,
        adversary="teacher" if task == "teacher_only" else "truth",
    )


def build(name, task="paired", *, online=False, **options):
    """A method with tiny networks, as a recipe of that task would put it together."""
    if task == "super_resolution":
        teacher, student = tiny_upscaler(), tiny_upscaler(1, width=3)
    else:
        teacher, student = tiny_generator(8), tiny_generator(4, seed=1)
    torch.manual_seed(2)
    if name == "pix2pix":
        return METHODS[name](student, tiny_discriminator(), **options)
    if name == "cyclegan":
        return cyclegan(tiny_four(student), image_shape=(3, 96, 96), pool=2)
    options = {"likeness": LIKENESS, "look": look} | options
    if name == "l1":
        return l1(frozen(teacher), student, **options)
    teaching = make_teaching(task, teacher, online=online)
    if name == "omgd" and not online:
        deeper = tiny_upscaler(7) if task == "super_resolution" else tiny_generator(4, seed=7)
        teaching = frozen(teacher, teacher.taps, deeper=deeper)
    torch.manual_seed(2)
    if name == "crd":
        return crd(teaching, student, units=16, **options)
    if name == "gcc":
        gated = initialize(GatedPatchDiscriminator(6 if task == "paired" else 3, 4))
        return gcc(teaching, teacher, student, gated, steps=2, **options)
    return METHODS[name](teaching, teacher, student, **options)


def two_teachers():
    """OMGD as the paper has it for pairs: a wider and a deeper teacher learn, too."""
    wider, deeper, student = tiny_generator(8), tiny_generator(4, seed=7), tiny_generator(4, seed=1)
    torch.manual_seed(2)
    shared = initialize(SharedPatchDiscriminator(6, 4, shared=2))
    teaching = wider_and_deeper(wider, deeper, shared, wider.taps)
    return omgd(teaching, wider, student, likeness=LIKENESS, look=look)


CASES = {
    "pix2pix": lambda: build("pix2pix"),
    "cyclegan": lambda: build("cyclegan"),
    "omgd-two-teachers": two_teachers,
    **{f"{n}-{t}": partial(build, n, t) for n in PAPERS for t in TASKS},
    **{
        f"{n}-{t}-online": partial(build, n, t, online=True)
        for n in PAPERS
        for t in ("paired", "super_resolution", "unpaired")
        if n != "l1"
    },
    # without a truth the teacher plays no game that gcc could coordinate with
    **{f"gcc-{t}": partial(build, "gcc", t) for t in TASKS if t != "teacher_only"},
    **{
        f"gcc-{t}-online": partial(build, "gcc", t, online=True)
        for t in TASKS
        if t != "teacher_only"
    },
    **{f"dgl-{t}": partial(dgl_case, t) for t in TASKS},
    **{
        f"data_free-{n}": partial(data_free_case, **options)
        for n, options in PAPERS_OF_DATA_FREE.items()
    },
    "mggc-agents": lambda: agents(players()),
    "mggc-fine-tuning": lambda: tuning()[0],
}


def batches_for(case):
    """Batches of a task: 64 pixels doubled for super-resolution, no truth for the teacher only."""
    if "data_free" in case:
        return BATCHES

    def at(step):
        generator = torch.Generator().manual_seed(step)
        size = 64 if "super_resolution" in case else 96
        source = torch.rand(1, 3, size, size, generator=generator) * 2 - 1
        if "teacher_only" in case:
            return Batch(source)
        target = F.interpolate(-source, scale_factor=2) if size == 64 else -source
        return Batch(source, target)

    return at


batch_at = batches_for("paired")


def run(method, steps=2, at=batch_at, **schedule):
    return list(
        train(
            method,
            at,
            Schedule(steps, **schedule),
            optimizers=make_optimizers(method),
            held_out_at=lambda step: at(step + 1000),
        )
    )


@pytest.fixture(params=CASES)
def case(request):
    return request.param


def snapshot(method):
    return {n: [p.detach().clone() for p in m.parameters()] for n, m in method.networks.items()}


def test_an_update_moves_its_network_and_no_other(case):
    method, at = CASES[case](), batches_for(case)
    outputs = method.forward(at(0))
    for update in method.updates:
        before = snapshot(method)
        parameters = [p for p in method.networks[update.network].parameters() if p.requires_grad]
        # without `after`: the best teacher so far may be renewed there
        alone = replace(update, after=None)
        apply_update(alone, outputs, torch.optim.SGD(parameters, lr=0.1))
        moved = {
            name
            for name, tensors in snapshot(method).items()
            if any(not torch.equal(a, b) for a, b in zip(before[name], tensors, strict=True))
        }
        assert moved == {update.network}
        # the network that made these outputs has just moved: make them again
        outputs = method.forward(at(0))


def test_every_loss_gives_its_own_network_a_gradient(case):
    method, at = CASES[case](), batches_for(case)
    for update in method.updates:
        names = update.objective(method.forward(at(0)))
        for loss_name in names:
            loss = update.objective(method.forward(at(0)))[loss_name]
            own = [p for p in method.networks[update.network].parameters() if p.requires_grad]
            gradients = torch.autograd.grad(loss, own, allow_unused=True)
            size = sum(float(g.abs().sum()) for g in gradients if g is not None)
            assert size > 0, f"{update.network}/{loss_name} moves nothing"


@pytest.mark.parametrize("case", [case for case in CASES if case not in METHODS])
def test_what_the_student_minimises_leaves_the_teacher_without_a_gradient(case):
    method, at = CASES[case](), batches_for(case)
    (update,) = [u for u in method.updates if u.network == "student"]
    losses = update.objective(method.forward(at(0)))
    judges = {"discriminator", "student_discriminator", "gates"}
    for name in set(method.networks) - {"student", *judges}:
        theirs = [p for p in method.networks[name].parameters() if p.requires_grad]
        if theirs:
            total = torch.stack(list(losses.values())).sum()
            gradients = torch.autograd.grad(total, theirs, allow_unused=True, retain_graph=True)
            assert all(g is None for g in gradients), name


def test_training_is_deterministic(case):
    at = batches_for(case)
    assert run(CASES[case](), at=at) == run(CASES[case](), at=at)


GOLDENS = {
    **{name: f"{name}-paired" for name in ("gcc", "dgl", *PAPERS)},
    "pix2pix": "pix2pix",
    "cyclegan": "cyclegan",
    "data_free": "data_free-all",
    "mggc": "mggc-agents",
}


def test_every_method_has_golden_losses():
    assert GOLDENS.keys() == METHODS.keys()


@pytest.mark.parametrize("name", GOLDENS)
def test_losses_are_the_golden_ones(name):
    """Change these only with a reason: they pin every term to its weight and its formula."""
    golden, case = json.loads((GOLDEN / f"{name}.json").read_text()), GOLDENS[name]
    for got, want in zip(run(CASES[case](), at=batches_for(case)), golden, strict=True):
        assert got == pytest.approx(want, rel=1e-4)


def test_student_approaches_a_teacher_that_holds_still():
    method = build("l1", likeness=Likeness(imitation=100.0))
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
        list(
            train(
                replace(method, updates=updates),
                batch_at,
                Schedule(1),
                optimizers=make_optimizers(method),
            )
        )


def test_a_paired_method_without_truth_says_so():
    method = build("pix2pix")
    outputs = method.forward(Batch(batch_at(0).source))
    with pytest.raises(ValueError, match="needs paired batches"):
        method.updates[0].objective(outputs)


@pytest.mark.parametrize("name", ["dcd", "omgd"])
def test_a_student_that_lost_a_block_can_follow(name):
    teacher, student = tiny_generator(8), tiny_generator(4, blocks=8, seed=1)
    method = METHODS[name](
        judged(teacher, judge(6), teacher.taps),
        teacher,
        student,
        likeness=Likeness(imitation=1.0),
    )
    assert run(method, steps=1)[0][{"dcd": "student/dcd", "omgd": "student/channel"}[name]] > 0


def test_updates_run_every_nth_step():
    teacher, student = tiny_generator(8), tiny_generator(4, seed=1)
    teaching = judged(teacher, judge(6), teacher.taps, every=2)
    method = dcd(teaching, teacher, student, likeness=Likeness(imitation=1.0))
    moved = ["discriminator/adversarial" in losses for losses in run(method, steps=4)]
    assert moved == [False, True, False, True]


def test_learning_rate_holds_and_then_falls_to_zero():
    schedule = Schedule(steps=10, learning_rate=1.0, decay_from=0.5)
    assert [schedule.rate(step) for step in (1, 5)] == [1.0, 1.0]
    assert schedule.rate(6) == pytest.approx(5 / 6)
    assert schedule.rate(10) == pytest.approx(1 / 6)


def test_the_learning_rate_is_that_of_the_papers():
    # 100 epochs constant and 100 linear, as their schedulers count them from 0
    schedule = Schedule(steps=200, learning_rate=1.0, decay_from=0.5)
    assert schedule.rate(100) == 1.0
    assert schedule.rate(101) == pytest.approx(1 - 1 / 101)
    assert schedule.rate(200) == pytest.approx(1 - 100 / 101)


def test_dcd_of_equal_features_and_connectors_is_zero():
    loss = DiscriminatorFeatureLoss([(5, 5)], tiny_discriminator().features, 6).eval()
    with torch.no_grad():
        loss.student[0][0].weight.copy_(loss.teacher[0].weight)
    features = [torch.rand(1, 5, 24, 24)]
    # the student's BatchNorm is fresh: it divides by sqrt(1 + 1e-5)
    assert loss(features, features).item() == pytest.approx(0.0, abs=1e-4)


def test_dcd_teacher_connectors_are_fixed():
    loss = DiscriminatorFeatureLoss([(5, 3)], tiny_discriminator().features, 6)
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


def test_gram_grows_with_the_square_and_variation_of_a_constant_is_zero():
    x = torch.rand(2, 3, 8, 8)
    assert torch.allclose(gram(3 * x), 9 * gram(x))
    assert float(total_variation(torch.full((1, 3, 8, 8), 0.3))) == 0.0


def test_an_image_is_like_itself():
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    assert float(ssim_loss(x, x)) == pytest.approx(0.0, abs=1e-6)
    assert 0.5 < float(ssim_loss(x, -x)) <= 2.0


def test_ssim_is_that_of_torchmetrics_inside_the_border():
    a, b = torch.rand(1, 3, 64, 64), torch.rand(1, 3, 64, 64)
    b = 0.8 * a + 0.2 * b
    reference = structural_similarity_index_measure(a, b, data_range=1.0)
    # its border is mirrored and cut off, ours is black: the whole image differs a little
    assert 1 - float(ssim_loss(a * 2 - 1, b * 2 - 1)) == pytest.approx(float(reference), abs=0.01)


def test_a_pool_gives_back_what_it_gets_until_it_is_full():
    pool = ImagePool(50, (3, 4, 4))
    images = [torch.rand(1, 3, 4, 4) for _ in range(200)]
    back = [pool(image) for image in images]
    assert all(torch.equal(a, b) for a, b in zip(images[:50], back[:50], strict=True))
    same = [torch.equal(a, b) for a, b in zip(images[50:], back[50:], strict=True)]
    assert 0.3 < sum(same) / len(same) < 0.7
    older = [b for b, kept in zip(back[50:], same, strict=True) if not kept]
    assert all(any(torch.equal(b, a) for a in images) for b in older)


def test_a_pool_of_none_is_the_identity():
    image = torch.rand(2, 3, 4, 4)
    assert torch.equal(ImagePool(0, (3, 4, 4))(image), image)


def test_a_resumed_pool_draws_what_it_would_have_drawn():
    one, two = ImagePool(3, (3, 4, 4)), ImagePool(3, (3, 4, 4))
    images = [torch.rand(1, 3, 4, 4) for _ in range(20)]
    for image in images[:10]:
        one(image)
    two.load_state_dict(one.state_dict())
    assert all(torch.equal(one(image), two(image)) for image in images[10:])


def test_only_a_better_teacher_is_followed():
    learner = tiny_generator(4)
    scores = iter([3.0, 5.0, 1.0])
    best = BestSoFar(learner, lambda _: next(scores), consider_every=2)
    kept = []
    for _ in range(6):
        with torch.no_grad():
            learner.model[1].weight.add_(1.0)
        best.consider()
        ours, followed = (g.model[1].weight.detach().mean() for g in (learner, best.best))
        kept.append(float(followed - ours))
    # looked at after every second call; the second look was worse and kept the first one's
    assert kept == pytest.approx([-1.0, 0.0, -1.0, -2.0, -3.0, 0.0], abs=1e-4)


def test_a_discriminator_of_pairs_and_another_size_make_no_pair():
    batch = Batch(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="make no pair"):
        see(judge(6), batch, torch.zeros(1, 3, 16, 16))
    with pytest.raises(ValueError, match="4 channels fits neither"):
        see(judge(4), batch, torch.zeros(1, 3, 8, 8))


def test_a_teacher_cannot_learn_from_its_own_images():
    with pytest.raises(ValueError, match="an online teacher learns from a truth"):
        judged(tiny_generator(4), judge(6), online=True, adversary="teacher")


def test_perceptual_terms_without_a_network_say_so():
    method = l1(frozen(tiny_generator(4)), tiny_generator(4), likeness=Likeness(style=1.0))
    with pytest.raises(ValueError, match="set perceptual to vgg16, alexnet or discriminator"):
        run(method)


def test_a_paired_term_without_truth_says_so():
    method = build("l1", likeness=Likeness(reconstruction=1.0))
    with pytest.raises(ValueError, match="or reconstruction = 0"):
        run(method, at=batches_for("teacher_only"))


def test_networks_whose_feature_maps_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="feature maps do not fit"):
        tap_channels(tiny_generator(4), tiny_generator(4), ("model.1", "model.2"))


def test_a_tap_that_does_not_fire_raises():
    network = nn.Sequential(nn.Conv2d(3, 3, 1))
    network.unused = nn.ReLU()
    network.forward = lambda x: network[0](x)
    with pytest.raises(KeyError, match="did not run its layers"):
        forward_with_features(network, torch.zeros(1, 3, 4, 4), ["0", "unused"])
    with pytest.raises(KeyError, match="has no layers"):
        forward_with_features(network, torch.zeros(1, 3, 4, 4), ["model.9"])
