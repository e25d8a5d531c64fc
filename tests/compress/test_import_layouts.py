"""Networks of every family, under every name they were published with, come back as they were."""

import copy
import functools
import re

import pytest
import torch
from torch import nn

from compress.importing.recognise import (
    LAYOUTS,
    attempt,
    candidates,
    clean,
    network_of,
    recognise,
)
from compress.models.blocks import initialize
from compress.models.cartoon import CartoonGenerator, CartoonWidths
from compress.models.discriminators import (
    PatchDiscriminator,
    PixelDiscriminator,
    SharedPatchDiscriminator,
)
from compress.models.families import FAMILIES
from compress.models.gates import GatedPatchDiscriminator
from compress.models.generators import ResnetGenerator, ResnetWidths
from compress.models.mobile import DeepestMobileGenerator, DeepestWidths, MobileResnetGenerator
from compress.models.rrdb import RrdbNet, RrdbWidths
from compress.models.srgan import SrganDiscriminator, SrganGenerator, SrganWidths
from compress.models.srvgg import SrvggNet, SrvggWidths
from compress.models.unet import DeepestUnetGenerator, DeepestUnetWidths, UnetGenerator, UnetWidths

ODD = ResnetWidths(5, 7, 9, (4, 6), 8, 3)
GCC_CFG = [2, 4, 6, *(3, 6), *(0, 6), *(5, 6) * 7, 4, 2]

NETWORKS = {
    "resnet instance": lambda: ResnetGenerator(ODD),
    "resnet batch": lambda: ResnetGenerator(ODD, norm="batch"),
    "resnet affine": lambda: ResnetGenerator(ODD, norm="affine_instance"),
    "resnet-6": lambda: ResnetGenerator(ResnetWidths.uniform(4, 6)),
    "mobile": lambda: MobileResnetGenerator(ResnetWidths.uniform(4, 9)),
    "mobile batch": lambda: MobileResnetGenerator(ODD, norm="batch"),
    "sub-mobile": lambda: MobileResnetGenerator(
        ResnetWidths.from_sub_mobile([3, 2, 3, 1, 2, 3, 2, 4])
    ),
    "mobile gcc": lambda: MobileResnetGenerator(ResnetWidths.from_gcc(GCC_CFG)),
    "deepest mobile": lambda: DeepestMobileGenerator(DeepestWidths.uniform(2)),
    "unet": lambda: UnetGenerator(UnetWidths.uniform(2)),
    "unet-128 instance": lambda: UnetGenerator(UnetWidths.uniform(2, 7), norm="instance"),
    "unet gcc": lambda: UnetGenerator(
        UnetWidths.from_gcc([2, 3, 4, 5, 6, 0, 0, 0, 0, 0, 0, 7, 6, 5, 4, 3])
    ),
    "deepest unet": lambda: DeepestUnetGenerator(DeepestUnetWidths.uniform(2, 5)),
    "cartoon": lambda: CartoonGenerator(CartoonWidths(3, (4, 5), 6, 7, (2, 8), (5, 6), (4, 3))),
    "rrdb x4": lambda: RrdbNet(RrdbWidths(4, ((2, 3, 2, 3),) * 6, (5, 6), 7)),
    "rrdb x2": lambda: RrdbNet(RrdbWidths.uniform(4, 1, 2), scale=2),
    "srvgg x4": lambda: SrvggNet(SrvggWidths((4, 5, 6))),
    "srvgg x2": lambda: SrvggNet(SrvggWidths.uniform(4, 2), scale=2),
    "srgan": lambda: SrganGenerator(SrganWidths(4, (3, 5), (6, 7))),
    "srgan discriminator": lambda: SrganDiscriminator(2, hidden=5),
    "patchgan instance": lambda: PatchDiscriminator(3, 4),
    "patchgan batch, pairs": lambda: PatchDiscriminator(6, 4, norm="batch"),
    "patchgan of two layers": lambda: PatchDiscriminator(3, 4, layers=2),
    "pixelgan": lambda: PixelDiscriminator(3, 4, norm="batch"),
    "gated": lambda: GatedPatchDiscriminator(3, 4),
    "shared": lambda: SharedPatchDiscriminator(3, 4, shared=2),
}


@functools.cache
def made(name):
    """A network whose norms have statistics, and whose weights are not those of a fresh one."""
    torch.manual_seed(0)
    network = initialize(NETWORKS[name]())
    for tensor in network.state_dict().values():
        if tensor.is_floating_point() and tensor.ndim == 1:
            tensor.copy_(0.5 + torch.rand_like(tensor))
    return network.eval()


def answers(network):
    """What a network makes of an image, as one tensor."""
    channels = getattr(network, "channels", 3)
    size = 96 if isinstance(network, SrganDiscriminator) else getattr(network, "multiple", 32)
    size = max(size, 32)
    image = torch.rand(2, channels, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.inference_mode():
        if isinstance(network, SharedPatchDiscriminator):
            return torch.stack([network.eval()(image, head) for head in range(network.heads)])
        return network.eval()(image)


def imported(state_dict, format="torch", **said):
    cleaned = clean(state_dict)
    return network_of(recognise(cleaned.tensors, format, said))


def assert_same(network, other):
    assert other.spec == network.spec
    torch.testing.assert_close(answers(other), answers(network), rtol=0, atol=1e-6)


def test_every_family_is_tried_here():
    assert {made(name).spec["family"] for name in NETWORKS} == set(FAMILIES)
    assert {layout.family for layout in LAYOUTS} == set(FAMILIES)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_told_from_its_tensors_alone(name):
    assert_same(made(name), imported(made(name).state_dict()))


@pytest.mark.parametrize("name", NETWORKS)
def test_only_one_layout_claims_a_network(name):
    tensors = clean(made(name).state_dict()).tensors
    tried = [attempt(layout, tensors, {}) for layout in candidates("torch", {})]
    assert [one.layout.family for one in tried if one.fits] == [made(name).spec["family"]]


@pytest.mark.parametrize("name", NETWORKS)
def test_data_parallel_halves_and_old_files(name):
    """Prefixes go, halves become floats, missing batch counts are filled, thop's counts dropped."""
    network = copy.deepcopy(made(name)).half().float()
    published = {
        f"module.{key}": tensor.half() if tensor.is_floating_point() else tensor
        for key, tensor in network.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    thop = {"module.total_ops": torch.zeros(1), "module.model.total_params": torch.zeros(1)}
    assert_same(network, imported(published | thop))
    dropped = clean(published | thop).dropped
    assert dropped == dict.fromkeys(thop, "a count that thop left behind")


# ---- names of others ----


def substituted(state_dict, *pairs):
    """Keys renamed by the first pattern that is found in them."""

    def rename(key):
        for pattern, template in pairs:
            if re.search(pattern, key):
                return re.sub(pattern, template, key)
        return key

    return {rename(key): tensor for key, tensor in state_dict.items()}


def with_dropout(state_dict):
    return substituted(
        state_dict, (r"conv_block\.6\.", "conv_block.7."), (r"conv_block\.5\.", "conv_block.6.")
    )


def without_dropout(state_dict):
    return substituted(
        state_dict, (r"conv_block\.6\.", "conv_block.5."), (r"conv_block\.7\.", "conv_block.6.")
    )


@pytest.mark.parametrize("name", ["resnet instance", "resnet batch", "resnet affine"])
def test_a_resnet_with_dropout(name):
    published = with_dropout(made(name).state_dict())
    assert "model.10.conv_block.6.weight" in published
    assert_same(made(name), imported(published))


@pytest.mark.parametrize("name", ["mobile", "mobile batch"])
def test_a_mobile_resnet_without_dropout(name):
    published = without_dropout(made(name).state_dict())
    assert "model.10.conv_block.5.conv.0.weight" in published
    assert_same(made(name), imported(published))


@pytest.mark.parametrize("name", ["rrdb x4", "rrdb x2"])
def test_esrgan_names(name):
    published = substituted(
        made(name).state_dict(),
        (r"^body\.(\d+)\.rdb", r"RRDB_trunk.\1.RDB"),
        (r"^conv_body", "trunk_conv"),
        (r"^conv_up", "upconv"),
        (r"^conv_hr", "HRconv"),
    )
    assert "RRDB_trunk.0.RDB1.conv5.bias" in published
    assert_same(made(name), imported(published))


def test_the_first_esrgan_names():
    network = made("rrdb x4")
    published = substituted(
        network.state_dict(),
        (r"^conv_first", "model.0"),
        (r"^body\.(\d+)\.rdb(\d)\.conv(\d)", r"model.1.sub.\1.RDB\2.conv\3.0"),
        (r"^conv_body", f"model.1.sub.{len(network.body)}"),
        (r"^conv_up1", "model.3"),
        (r"^conv_up2", "model.6"),
        (r"^conv_hr", "model.8"),
        (r"^conv_last", "model.10"),
    )
    assert "model.1.sub.2.weight" in published
    assert_same(network, imported(published))


def test_cartoongan_names_its_norms_scale_and_shift():
    published = substituted(
        made("cartoon").state_dict(),
        (r"^(in\d\d_\d)\.weight", r"\1.scale"),
        (r"^(in\d\d_\d)\.bias", r"\1.shift"),
    )
    assert "in04_1.shift" in published
    assert_same(made("cartoon"), imported(published))


def test_one_slope_a_layer_and_the_epsilon_of_torch():
    """As GCC's code has it; a plain torch block with that epsilon and slope is the reference."""
    state = made("srgan").state_dict()
    block = "residual_blocks.0.conv_block1.conv_block"
    slopes = [key for key in state if key.endswith("prelu.weight") or key == f"{block}.2.weight"]
    slopes += [
        "conv_block1.conv_block.1.weight",
        "residual_blocks.1.conv_block1.conv_block.2.weight",
    ]
    published = state | {key: state[key][:1] for key in slopes}
    network = imported(published).eval()

    reference = nn.Sequential(nn.Conv2d(4, 3, 3, padding=1), nn.BatchNorm2d(3), nn.PReLU()).eval()
    ours = network.residual_blocks[0].conv_block1.conv_block
    tensors = {k.removeprefix(f"{block}."): t for k, t in published.items() if k.startswith(block)}
    reference.load_state_dict(tensors)
    images = torch.rand(1, 4, 8, 8)
    torch.testing.assert_close(ours(images), reference(images), rtol=0, atol=1e-6)
    assert network.subpixel_convolutional_blocks[1].prelu.weight.shape == (7,)


def two_copies(network, *, equal):
    """What OMGD saves: every block twice, shared or not."""
    published = {}
    for key, tensor in network.state_dict().items():
        block, branch, rest = key.split(".", 2)
        published[key] = tensor
        if branch == "0" and f"{block}.1.{rest}" not in network.state_dict():
            published[key] = tensor if equal else tensor + 1
            published[f"{block}.1.{rest}"] = tensor
    return published


def test_a_shared_discriminator_with_equal_copies():
    network = made("shared")
    assert_same(network, imported(two_copies(network, equal=True)))


def test_copies_that_differ_are_heads_until_the_user_says_they_are_shared():
    network = made("shared")
    published = two_copies(network, equal=False)
    assert imported(published).spec["shared"] == 0
    assert_same(network, imported(published, shared=2))


def test_biases_that_a_batch_norm_cancels_go_into_its_mean():
    torch.manual_seed(0)
    published = made("patchgan batch, pairs")
    layers = [
        copy.deepcopy(layer)
        if not isinstance(layer, nn.Conv2d) or layer.bias is not None
        else nn.Conv2d(layer.in_channels, layer.out_channels, 4, layer.stride, 1)
        for layer in published.model
    ]
    reference = nn.Module()
    reference.model = nn.Sequential(*layers)
    reference.eval()
    network = imported(reference.state_dict())
    assert network.norm == "batch"
    images = torch.rand(2, 6, 64, 64)
    for training in (False, True):
        network.train(training)
        reference.train(training)
        torch.testing.assert_close(network(images), reference.model(images), rtol=0, atol=1e-5)


# ---- layouts rebuilt independently ----


class PublishedBlock(nn.Module):
    """junyanz's ResnetBlock with use_dropout, of an old torch: norms that keep statistics."""

    def __init__(self, channels, norm):
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            norm(channels),
            nn.ReLU(True),
            nn.Dropout(0.5),
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            norm(channels),
        )

    def forward(self, x):
        return x + self.conv_block(x)


class PublishedResnet(nn.Module):
    def __init__(self, c, blocks, norm):
        super().__init__()
        self.model = nn.Sequential(
            nn.ReflectionPad2d(3),
            nn.Conv2d(3, c, 7),
            norm(c),
            nn.ReLU(True),
            nn.Conv2d(c, 2 * c, 3, 2, 1),
            norm(2 * c),
            nn.ReLU(True),
            nn.Conv2d(2 * c, 4 * c, 3, 2, 1),
            norm(4 * c),
            nn.ReLU(True),
            *(PublishedBlock(4 * c, norm) for _ in range(blocks)),
            nn.ConvTranspose2d(4 * c, 2 * c, 3, 2, 1, 1),
            norm(2 * c),
            nn.ReLU(True),
            nn.ConvTranspose2d(2 * c, c, 3, 2, 1, 1),
            norm(c),
            nn.ReLU(True),
            nn.ReflectionPad2d(3),
            nn.Conv2d(c, 3, 7),
            nn.Tanh(),
        )

    def forward(self, x):
        return self.model(x)


def test_a_published_resnet_with_dropout_and_statistics():
    """Section 19 of the methods: conv_block.6 and running_mean, outputs equal to 1e-6."""
    torch.manual_seed(0)
    old_norm = functools.partial(nn.InstanceNorm2d, track_running_stats=True)
    reference = PublishedResnet(4, 3, old_norm)
    reference(torch.rand(1, 3, 32, 32))  # so that the statistics are not fresh
    published = reference.state_dict()
    assert "model.10.conv_block.6.weight" in published
    assert "model.2.running_mean" in published
    network = imported(published)
    assert network.spec["norm"] == "instance"
    assert set(clean(published).dropped.values()) == {
        "statistics of an old instance norm, which uses each image's own"
    }
    for module in reference.modules():
        if isinstance(module, nn.InstanceNorm2d):
            module.train()  # each image's own statistics, as when it was trained
        if isinstance(module, nn.Dropout):
            module.eval()
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    torch.testing.assert_close(network(images), reference(images), rtol=0, atol=1e-6)


# ---- refusals and overrides ----


def test_a_network_that_is_not_known_names_the_nearest_and_its_first_keys():
    state = dict(made("mobile").state_dict())
    del state["model.10.conv_block.6.conv.2.bias"]
    state["model.10.attention.weight"] = torch.zeros(1)
    with pytest.raises(ValueError, match="the nearest is mobile") as refused:
        imported(state)
    said = str(refused.value)
    assert f"{len(state) - 1} of {len(state)} match" in said
    assert "it has no place for model.10.attention.weight" in said
    assert "the file lacks model.10.conv_block.6.conv.2.bias" in said
    assert "--architecture" in said


def test_long_lists_are_cut_in_an_error():
    state = dict(made("mobile").state_dict()) | {f"head.{n}": torch.zeros(1) for n in range(9)}
    with pytest.raises(ValueError, match=r"head\.0, .*head\.4 and 4 more"):
        imported(state)


def test_tensors_of_something_else():
    with pytest.raises(ValueError, match=r"no network we know: encoder\.weight, decoder\.bias"):
        imported({"encoder.weight": torch.zeros(3, 3), "decoder.bias": torch.zeros(3)})


def test_a_wrong_shape_is_told():
    state = dict(made("resnet instance").state_dict())
    state["model.1.weight"] = torch.zeros(5, 1, 7, 7)
    with pytest.raises(
        ValueError,
        match=r"model\.1\.weight is \(5, 1, 7, 7\) in the file, \(5, 3, 7, 7\) in the network",
    ):
        imported(state)


def test_a_family_that_the_user_insists_on_is_compared_with():
    with pytest.raises(ValueError, match=r"not those of a unet network .* - it has no model"):
        imported(made("mobile").state_dict(), family="unet")


def test_what_the_user_says_wins():
    network = imported(made("gated").state_dict(), threshold=0.1)
    assert network.spec == made("gated").spec | {"threshold": 0.1}


def test_what_the_user_says_must_fit():
    with pytest.raises(ValueError, match=r"(?s)the nearest is resnet.*model\.2\.weight"):
        imported(made("resnet instance").state_dict(), norm="affine_instance")


def test_a_format_that_no_such_network_was_published_in():
    with pytest.raises(ValueError, match=r"no ncnn files of unet networks .*: rrdb, srvgg"):
        imported(made("unet").state_dict(), "ncnn", family="unet")
