"""GCC's first two stages: sparse training, and one threshold that meets a budget."""

import copy

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from compress.checkpoints import load_network, save_network
from compress.export import to_onnx
from compress.loop import Batch, Schedule, make_optimizers, train
from compress.macs import cost
from compress.methods.pix2pix import pix2pix
from compress.models.blocks import initialize
from compress.models.families import build
from compress.models.generators import ResnetGenerator, ResnetWidths
from compress.models.mobile import MobileResnetGenerator
from compress.models.unet import UnetGenerator, UnetWidths
from compress.pruning.bisection import NEAR, bisect, removable, slimmed
from compress.pruning.budget import macs_budget, params_budget
from compress.pruning.sparsity import sparse, standing
from compress.pruning.structure import structure
from compress.schema.gcc import Slimming
from compress.slimming import narrowed, sparse_method
from tests.compress.conftest import tiny_discriminator, tiny_generator
from tests.compress.pruned import image, network

INNER = "model.10.conv_block.1"  # of the first of two blocks
WAYS = ("forth", "back")


def batch_at(step):
    source = image(64, seed=step)
    return Batch(source, -source)


def spread(net, seed=0):
    """The network with scales (or weights) as different as sparse training leaves them."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d | nn.InstanceNorm2d) and module.affine:
            with torch.no_grad():
                module.weight.copy_(torch.rand(module.weight.shape, generator=generator))
    return net.eval()


def scales(net):
    return [m.weight for m in net.modules() if isinstance(m, nn.BatchNorm2d)]


# stage 1: sparse training


@pytest.mark.parametrize("kind", ["scales", "weights"])
def test_the_penalty_adds_lambda_times_the_sign_to_the_gradient(kind):
    generator = tiny_generator(4, blocks=2)
    plain = pix2pix(generator, tiny_discriminator())
    method = sparse(plain, "generator", generator, kind=kind, weight=0.25)
    pushed = scales(generator) if kind == "scales" else [generator.model[1].weight]
    with torch.no_grad():
        pushed[0].view(-1)[0] = -0.5
    outputs = plain.forward(batch_at(0))
    before, after = (
        torch.autograd.grad(
            torch.stack(list(m.updates[1].objective(outputs).values())).sum(),
            pushed,
            retain_graph=True,
        )
        for m in (plain, method)
    )
    for a, b, parameter in zip(before, after, pushed, strict=True):
        torch.testing.assert_close(b - a, 0.25 * parameter.detach().sign(), atol=1e-3, rtol=0)


def test_the_penalty_is_a_loss_of_its_network_alone():
    generator = tiny_generator(4, blocks=2)
    method = sparse(
        pix2pix(generator, tiny_discriminator()), "generator", generator, kind="scales", weight=0.1
    )
    (logged,) = train(method, batch_at, Schedule(1, 1e-3), optimizers=make_optimizers(method))
    want = 0.1 * sum(float(s.detach().abs().sum()) for s in scales(tiny_generator(4, blocks=2)))
    assert logged["generator/sparsity"] == pytest.approx(want, rel=1e-5)
    assert "discriminator/sparsity" not in logged


def test_sparse_training_makes_scales_small():
    left = {}
    for weight in (0.001, 100.0):
        generator = tiny_generator(4, blocks=2)
        torch.manual_seed(1)
        method = sparse(
            pix2pix(generator, tiny_discriminator()),
            "generator",
            generator,
            kind="scales",
            weight=weight,
        )
        schedule = Schedule(20, 1e-2, decay_from=1.0)
        for _ in train(method, batch_at, schedule, optimizers=make_optimizers(method)):
            pass
        left[weight] = float(torch.cat(scales(generator)).detach().abs().mean())
    assert left[100.0] < left[0.001] - 0.1


def test_a_network_without_scales_names_the_cure():
    net = tiny_generator(4, norm="instance")
    method = pix2pix(net, tiny_discriminator())
    with pytest.raises(ValueError, match=r"ResnetGenerator has no scales .* or by = 'weights'"):
        sparse(method, "generator", net, kind="scales", weight=0.1)
    with pytest.raises(ValueError, match="has no scales that could be pushed to zero"):
        standing(net, structure(net), "scales")


def test_a_network_that_the_method_does_not_train_is_refused():
    net = tiny_generator(4)
    with pytest.raises(ValueError, match=r"trains \['discriminator', 'generator'\], and no 'stud"):
        sparse(pix2pix(net, tiny_discriminator()), "student", net, kind="scales", weight=0.1)


def test_a_channel_of_the_stream_stays_if_any_layer_keeps_it():
    net = network("resnet_batch")
    with torch.no_grad():
        for norm in scales(net):
            norm.fill_(0.1)
        net.model[8].weight[3] = -5.0  # the norm behind the strided convolution into the stream
        net.model[11].conv_block[6].weight[7] = 4.0  # the last norm of the second block
    whole = structure(net)
    (stream,) = [
        s
        for c, s in zip(whole.couplings, standing(net, whole, "scales"), strict=True)
        if c.name == "model.7"
    ]
    assert stream[3] == 5.0
    assert stream[7] == 4.0
    assert float(stream[0]) == pytest.approx(0.1)


def test_a_filter_stands_by_the_mean_of_its_weights():
    net = network("resnet_instance")
    whole = structure(net)
    found = {
        c.name: s for c, s in zip(whole.couplings, standing(net, whole, "weights"), strict=True)
    }
    torch.testing.assert_close(found["model.1"], net.model[1].weight.detach().abs().mean((1, 2, 3)))
    up = net.model[12].weight.detach().abs().mean((0, 2, 3))
    torch.testing.assert_close(found["model.12"], up)


# stage 2: one threshold


def student_of(net, reduction, *, multiple=1, by="scales", size=64):
    whole = structure(net)
    strength = standing(net, whole, by)
    budget = macs_budget(net, reduction, image_size=size)
    widths = bisect(net, whole, strength, budget, channel_multiple=multiple)
    return slimmed(net, whole, strength, widths), budget


REAL = {
    "resnet": (lambda: ResnetGenerator(ResnetWidths.uniform(32, 9), norm="batch"), "scales"),
    "resnet_by_weights": (lambda: ResnetGenerator(ResnetWidths.uniform(32, 9)), "weights"),
    "mobile": (
        lambda: MobileResnetGenerator(ResnetWidths.uniform(24, 9), norm="affine_instance"),
        "scales",
    ),
    "unet": (lambda: UnetGenerator(UnetWidths.uniform(16, 8)), "scales"),
}


@pytest.mark.parametrize("multiple", [1, 8])
@pytest.mark.parametrize("name", REAL)
def test_the_budget_is_met_within_two_percent(name, multiple):
    make, by = REAL[name]
    torch.manual_seed(0)
    student, budget = student_of(
        spread(initialize(make())), 4.0, multiple=multiple, by=by, size=256
    )
    assert 4.0 <= budget.reached(student) <= 4.0 * (1 + NEAR)


@pytest.mark.parametrize(
    ("name", "by"),
    [
        ("resnet_batch", "scales"),
        ("resnet_instance", "weights"),
        ("resnet_affine_instance", "scales"),
        ("mobile", "weights"),
        ("unet", "scales"),
        ("unet_hollow", "scales"),
        ("deepest_unet", "scales"),
        ("srgan", "scales"),
        ("rrdb", "weights"),
        ("cartoon", "weights"),
    ],
)
def test_what_is_left_is_a_network_of_its_family(name, by, tmp_path):
    small, budget = student_of(spread(network(name)), 2.0, by=by)
    assert budget.reached(small) >= 2.0
    again = build(small.spec)
    again.load_state_dict(small.state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(again.eval()(image()), small.eval()(image()))
    save_network(tmp_path / "small.safetensors", small)
    assert load_network(tmp_path / "small.safetensors").spec == small.spec


def test_widths_are_multiples_of_what_the_device_wants():
    student, _ = student_of(spread(network("resnet_batch")), 2.5, multiple=8)
    w = student.widths
    assert all(n % 8 == 0 for n in (w.stem, w.down, w.stream, *w.inner, w.up, w.head))


def test_layers_lose_different_shares():
    net = spread(network("resnet_batch"))
    with torch.no_grad():
        net.model[11].conv_block[2].weight += 1.0  # between the convolutions of the second block
    student, _ = student_of(net, 2.0)
    first, second = student.widths.inner
    assert second == 64 > first


def test_the_network_stays_as_it_was():
    net = spread(network("unet"))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    student_of(net, 2.0)
    after = net.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_a_block_of_which_nothing_is_left_goes_as_a_whole():
    net = network("resnet_batch")
    whole = structure(net)
    student = slimmed(net, whole, standing(net, whole, "scales"), whole.widths | {INNER: 0})
    assert student.widths.inner == (64,)
    without = copy.deepcopy(net)
    without.model[10] = nn.Identity()
    with torch.no_grad():
        assert torch.equal(student(image()), without(image()))
    again = build(student.spec)
    again.load_state_dict(student.state_dict(), strict=True)


def test_the_threshold_takes_whole_blocks():
    net = spread(network("resnet_batch"))
    with torch.no_grad():
        net.model[10].conv_block[2].weight.mul_(1e-6)
    student, _ = student_of(net, 1.5)
    assert len(student.widths.inner) == 1


class Silenced(nn.Module):
    """A level of a U-Net that joins what it is given with nothing."""

    def __init__(self, up):
        super().__init__()
        self.up = up

    def forward(self, x):
        return torch.cat([x, x.new_zeros(len(x), self.up, *x.shape[2:])], 1)


def levels_of(net, whole):
    parts = removable(net, whole)
    return sorted(set(parts.values()), key=len), parts


def deep_unet():
    torch.manual_seed(0)
    return spread(initialize(UnetGenerator(UnetWidths.uniform(8, 7))))


def test_the_innermost_levels_of_a_unet_go_with_what_is_inside_of_them(tmp_path):
    net = deep_unet()
    whole = structure(net)
    (outer, inner), parts = levels_of(net, whole)
    assert inner.startswith(f"{outer}.")
    widths = {name: 0 if name in parts else left for name, left in whole.widths.items()}
    student = slimmed(net, whole, standing(net, whole, "scales"), widths)
    assert student.widths.hollow
    assert len(student.widths.down) == 5
    assert student.multiple == 32
    silent = copy.deepcopy(net)
    around, _, index = outer.rpartition(".")
    silent.get_submodule(around)[int(index)] = Silenced(net.widths.up[4])
    with torch.no_grad():
        torch.testing.assert_close(student(image(128)), silent(image(128)))
    again = build(student.spec)
    again.load_state_dict(student.state_dict(), strict=True)
    to_onnx(student, tmp_path / "student.onnx")


def test_the_threshold_takes_levels_from_the_inside():
    net = deep_unet()
    whole = structure(net)
    (outer, _), _ = levels_of(net, whole)
    with torch.no_grad():
        for name, module in net.named_modules():
            if isinstance(module, nn.BatchNorm2d) and name.startswith(f"{outer}."):
                module.weight.mul_(1e-6)
    student, budget = student_of(net, 1.3, size=128)
    assert budget.reached(student) >= 1.3
    assert len(student.widths.down) == 5


def test_five_levels_of_a_unet_stay():
    assert removable(network("unet"), structure(network("unet"))) == {}


def test_what_has_no_scale_keeps_the_share_of_the_others():
    net = spread(network("unet"))
    student, _ = student_of(net, 4.0)
    before, after = net.widths.down, student.widths.down
    scored = sum(after[1:-1] + student.widths.up) / sum(before[1:-1] + net.widths.up)
    assert after[0] / before[0] == pytest.approx(scored, abs=0.15)
    assert after[0] < before[0]


def test_a_network_within_its_budget_keeps_every_channel():
    net = spread(network("resnet_batch"))
    whole = structure(net)
    teacher = ResnetGenerator(ResnetWidths.uniform(64, 2), norm="batch")
    budget = macs_budget(teacher, 2.0, image_size=64)
    strength = standing(net, whole, "scales")
    assert bisect(net, whole, strength, budget, channel_multiple=8) == whole.widths


def test_a_budget_out_of_reach_says_what_is():
    net = spread(network("resnet_batch"))
    with pytest.raises(ValueError, match=r"macs_reduction 900 is out of reach: 8 channels in ever"):
        student_of(net, 900.0, multiple=8)


def test_parameters_can_be_the_budget():
    net = spread(network("resnet_batch"))
    whole = structure(net)
    strength = standing(net, whole, "scales")
    budget = params_budget(net, 3.0)
    widths = bisect(net, whole, strength, budget, channel_multiple=1)
    small = slimmed(net, whole, strength, widths)
    assert 3.0 <= cost(net, 64).params / cost(small, 64).params <= 3.0 * (1 + NEAR)


# both, from a recipe


def slimming(**options):
    said = {"macs_reduction": 2.0, "steps": 1, "by": "scales", "penalty": 0.1}
    return Slimming(**{**said, "weights": "inherit", "discriminator_width": 4} | options)


def test_a_budget_is_counted_from_the_teacher(cpu):
    net, teacher = spread(network("resnet_batch")), tiny_generator(32, blocks=2)
    student = narrowed(slimming(macs_reduction=8.0), net, teacher, cpu, image_size=64)
    reached = cost(teacher, 64).macs / cost(student, 64).macs
    assert reached >= 8.0
    assert student.widths.stream % cpu.channel_multiple == 0


PAIRED = {"adversarial", "reconstruction"}
UNPAIRED = {f"{loss}_{way}" for loss in ("adversarial", "cycle", "identity") for way in WAYS}


@pytest.mark.parametrize(
    ("task", "channels", "names"), [("paired", 6, PAIRED), ("unpaired", 3, UNPAIRED)]
)
def test_sparse_training_is_the_ordinary_training_of_the_task(task, channels, names):
    net = tiny_generator(4, blocks=2)
    method = sparse_method(slimming(), net, task=task, crop=64)
    (update,) = [u for u in method.updates if u.network == "generator"]
    assert set(update.objective(method.forward(batch_at(0)))) == names | {"sparsity"}
    judge = method.networks["discriminator"]
    first = next(m for m in judge.modules() if isinstance(m, nn.Conv2d))
    assert first.in_channels == channels


def test_sparse_training_needs_a_truth():
    with pytest.raises(ValueError, match=r"photos have none: take \[pruning\]"):
        sparse_method(slimming(), tiny_generator(4), task="teacher_only", crop=64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"macs_reduction": None}, "give macs_reduction or params_reduction, got none"),
        ({"params_reduction": 2.0}, "got macs_reduction and params_reduction"),
        ({"macs_reduction": 1.0}, "greater than 1"),
        ({"penalty": 0.0}, "greater than 0"),
    ],
)
def test_a_recipe_that_says_too_much_or_too_little_is_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        slimming(**options)
