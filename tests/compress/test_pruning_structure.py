import random
import warnings

import pytest
import torch
from torch import nn

from compress.checkpoints import load_network, save_network
from compress.macs import cost
from compress.models.blocks import initialize
from compress.models.families import build
from compress.models.generators import ResnetGenerator, ResnetWidths
from compress.models.rrdb import RrdbNet, RrdbWidths
from compress.pruning.budget import macs_budget, plan
from compress.pruning.importance import magnitude
from compress.pruning.prune import prune
from compress.pruning.structure import structure, without
from tests.compress.pruned import MAKE, image, network, structure_of


def some_gone(whole, seed=3):
    chooser = random.Random(seed)
    return [
        sorted(chooser.sample(range(c.channels), c.channels // 4 + chooser.randrange(2)))
        for c in whole.couplings
    ]


def silenced(net, whole, gone, images):
    """What the network makes of images when nobody reads the channels that are to go."""
    handles = []
    for coupling, positions in zip(whole.couplings, gone, strict=True):
        for member in coupling.members:
            if member.side != "in":
                continue
            pairs = zip(member.positions, member.channels, strict=True)
            mute = [channel for position, channel in pairs if position in positions]

            def hook(_module, inputs, mute=mute):
                heard = inputs[0].clone()
                heard[:, mute] = 0
                return heard

            handles.append(net.get_submodule(member.layer).register_forward_pre_hook(hook))
    with torch.no_grad():
        made = net(images)
    for handle in handles:
        handle.remove()
    return made


@pytest.mark.parametrize("name", MAKE)
def test_removing_channels_is_not_reading_them(name):
    net = network(name)
    whole = structure_of(name)
    gone = some_gone(whole)
    with torch.no_grad():
        made = without(net, whole, gone)(image())
    torch.testing.assert_close(made, silenced(net, whole, gone, image()), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "multiple"),
    [*((name, 4) for name in MAKE), *((name, 8) for name in MAKE if "deepest" not in name)],
)
def test_a_pruned_network_is_one_of_its_family(name, multiple, tmp_path):
    net = network(name)
    widths = plan(net, macs_budget(net, 1.7, image_size=64), channel_multiple=multiple)[-1]
    small = prune(net, widths, magnitude)
    assert cost(net, 64).macs / cost(small, 64).macs >= 1.7
    assert structure(small).widths == widths
    assert all(left % multiple == 0 for left in widths.values())
    again = build(small.spec)
    again.load_state_dict(small.state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(again.eval()(image()), small(image()))
    save_network(tmp_path / "small.safetensors", small)
    assert load_network(tmp_path / "small.safetensors").spec == small.spec


@pytest.mark.parametrize("name", MAKE)
def test_every_layer_but_the_last_can_be_narrowed(name):
    net = network(name)
    whole = structure_of(name)
    small = without(net, whole, [range(1, c.channels) for c in whole.couplings])
    convolutions = [m for m in small.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    wide = [c for c in convolutions if c.out_channels not in (1, 2, 3, 4)]
    # before the last pixel shuffle of the compact network stand the image's own channels
    assert [c.out_channels for c in wide] == ([48] if name == "srvgg" else [])


def test_a_norm_without_weights_counts_its_channels():
    net = network("resnet_instance")
    whole = structure(net)
    small = without(net, whole, [range(c.channels // 2) for c in whole.couplings])
    convolution = None
    for module in small.modules():
        if isinstance(module, nn.InstanceNorm2d):
            assert module.num_features == convolution.out_channels
        elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            convolution = module


def test_a_channel_before_a_pixel_shuffle_is_four():
    net = network("srgan")
    whole = structure(net)
    (up,) = (c for c in whole.couplings if c.name == "subpixel_convolutional_blocks.0.conv")
    gone = [[1, 5] if c is up else [] for c in whole.couplings]
    small = without(net, whole, gone)
    before = net.subpixel_convolutional_blocks[0].conv.weight
    after = small.subpixel_convolutional_blocks[0].conv.weight
    kept = [c for c in range(64) if c // 4 not in (1, 5)]
    assert torch.equal(after, before[kept])
    assert small.subpixel_convolutional_blocks[0].prelu.num_parameters == 14


def test_what_is_concatenated_into_a_stream_is_two_couplings():
    whole = structure_of("deepest_unet")
    joined = [
        c
        for c in whole.couplings
        if any(m.layer == "model.model.5.conv_block.12" for m in c.members if m.side == "out")
    ]
    assert [(c.channels, c.inner) for c in joined] == [(8, False), (8, False)]


@pytest.mark.parametrize(
    ("name", "inner"),
    [
        ("resnet_batch", {"model.10.conv_block.1", "model.11.conv_block.1"}),
        ("mobile", {"model.10.conv_block.1.conv.2", "model.11.conv_block.1.conv.2"}),
        ("cartoon", {"conv04_1", "conv05_1"}),
        ("unet", set()),
        ("srvgg", set()),
        (
            "srgan",
            {f"residual_blocks.{n}.conv_block1.conv_block.0" for n in (0, 1)},
        ),
        ("rrdb", {f"body.0.rdb{n}.conv{k}" for n in (1, 2, 3) for k in (1, 2, 3, 4)}),
    ],
)
def test_what_is_inside_residual_blocks(name, inner):
    assert {c.name for c in structure_of(name).couplings if c.inner} == inner


def test_nothing_is_left_of_the_network_it_looked_at():
    net = network("resnet_batch").requires_grad_(False).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    structure(net)
    assert net.training
    assert not any(p.requires_grad for p in net.parameters())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert not any(m._forward_hooks for m in net.modules())


def test_the_last_channel_stays():
    net = network("srvgg")
    whole = structure(net)
    gone = [range(c.channels) for c in whole.couplings]
    with pytest.raises(ValueError, match=r"all 16 channels of body\.\d would go"):
        without(net, whole, gone)


def test_a_layer_that_cannot_lose_channels_is_named():
    net = initialize(ResnetGenerator(ResnetWidths.uniform(8, 1), norm="batch"))
    net.model[2] = nn.GroupNorm(2, 8)
    with pytest.raises(ValueError, match=r"model\.2 is a GroupNorm.* cannot lose channels"):
        structure(net)


@pytest.mark.slow
def test_a_network_of_23_dense_blocks_is_not_too_deep():
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # "Maximum recursive depth reached!"
        whole = structure(RrdbNet(RrdbWidths.uniform(64, 23)))
    assert len(whole.couplings) == 4 * 69 + 4
    assert len(next(c for c in whole.couplings if c.name == "conv_first").members) == 418
