"""Parameters and MACs against the figures that papers and their codes print."""

import pytest

from compress.macs import cost
from compress.models.cartoon import CartoonGenerator, CartoonWidths
from compress.models.discriminators import PatchDiscriminator
from compress.models.gates import GatedPatchDiscriminator
from compress.models.generators import ResnetGenerator, ResnetWidths
from compress.models.mobile import DeepestMobileGenerator, DeepestWidths, MobileResnetGenerator
from compress.models.rrdb import RrdbNet, RrdbWidths
from compress.models.srgan import SrganDiscriminator, SrganGenerator, SrganWidths
from compress.models.srvgg import SrvggNet, SrvggWidths
from compress.models.unet import DeepestUnetGenerator, DeepestUnetWidths, UnetGenerator, UnetWidths

GCC_A_TO_B = [24, 48, 86, 72, 86, 47, 86, 44, 86, 43, 86, 43, 86, 29, 86, 30, 86, 37, 86, 36, 86]
GCC_B_TO_A = [24, 48, 96, 91, 96, 73, 96, 62, 96, 61, 96, 74, 96, 54, 96, 51, 96, 58, 96, 81, 96]


def resnet(width):
    return ResnetGenerator(ResnetWidths.uniform(width))


def mobile(width):
    return MobileResnetGenerator(ResnetWidths.uniform(width))


def unet(width):
    return UnetGenerator(UnetWidths.uniform(width))


def gcc(cfg):
    return MobileResnetGenerator(ResnetWidths.from_gcc([*cfg, 48, 24]))


@pytest.mark.parametrize(
    ("make", "width", "published_g", "true_g", "params_m"),
    [
        (resnet, 64, 56.80, 49.55, 11.378),
        (resnet, 48, 32.18, 28.10, 6.405),
        (resnet, 32, 14.51, 12.70, 2.851),
        (resnet, 24, 8.28, 7.26, 1.606),
        (resnet, 16, 3.78, 3.33, 0.716),
        (mobile, 96, 40.16, 23.85, 4.418),
        (mobile, 64, 18.31, 11.07, 1.987),
        (mobile, 48, 10.57, 6.49, 1.131),
        (mobile, 32, 4.93, 3.12, 0.514),
        (mobile, 24, 2.904, 1.885, 0.296),
        (mobile, 16, 1.408, 0.955, 0.1373),
        (mobile, 12, 0.858, 0.603, 0.0805),
        (mobile, 8, 0.440, 0.326, 0.0387),
        (unet, 64, 18.14, 6.05, 54.414),
        (unet, 32, 4.648, 1.550, 13.61),
        (unet, 24, 2.657, 0.886, 7.66),
        (unet, 16, 1.219, 0.406, 3.405),
        (unet, 12, 0.707, 0.236, 1.916),
        (unet, 8, 0.333, 0.111, 0.852),
    ],
)
def test_the_table_of_published_figures(make, width, published_g, true_g, params_m):
    counted = cost(make(width), 256)
    assert counted.macs_published / 1e9 == pytest.approx(published_g, rel=2e-3)
    assert counted.macs / 1e9 == pytest.approx(true_g, rel=2e-3)
    assert counted.params / 1e6 == pytest.approx(params_m, rel=2e-3)


@pytest.mark.parametrize(
    ("network", "size", "expected"),
    [
        pytest.param(resnet(64), 256, 11_378_179, id="resnet 64"),
        pytest.param(resnet(16), 256, 715_651, id="resnet 16"),
        pytest.param(mobile(64), 256, 1_987_075, id="mobile 64"),
        pytest.param(mobile(16), 256, 137_347, id="mobile 16"),
        pytest.param(mobile(12), 256, 80_547, id="mobile 12"),
        pytest.param(mobile(8), 256, 38_723, id="mobile 8"),
        pytest.param(unet(64), 256, 54_413_955, id="unet 64"),
        pytest.param(unet(32), 256, 13_608_259, id="unet 32"),
        pytest.param(unet(16), 256, 3_404_451, id="unet 16"),
        pytest.param(gcc(GCC_A_TO_B), 256, 180_566, id="gcc, horses to zebras"),
        pytest.param(gcc(GCC_B_TO_A), 256, 243_298, id="gcc, zebras to horses"),
        pytest.param(CartoonGenerator(CartoonWidths.uniform()), 256, 11_129_667, id="cartoon"),
        pytest.param(RrdbNet(RrdbWidths.uniform()), 64, 16_697_987, id="rrdb"),
        pytest.param(RrdbNet(RrdbWidths.uniform(blocks=6)), 64, 4_467_779, id="rrdb, drawings"),
        pytest.param(SrvggNet(SrvggWidths.uniform()), 64, 621_424, id="srvgg"),
        pytest.param(SrganGenerator(SrganWidths.uniform()), 64, 1_550_659, id="srgan"),
        pytest.param(SrganDiscriminator(), 96, 23_565_505, id="srgan's discriminator"),
    ],
)
def test_parameters_are_exact(network, size, expected):
    assert cost(network, size).params == expected


def test_the_deeper_teachers_of_omgd():
    by_width = {16: (18.24, 2.547), 12: (10.32, 1.437), 24: (40.77, 5.716)}
    for width, (published_g, params_m) in by_width.items():
        counted = cost(DeepestMobileGenerator(DeepestWidths.uniform(width)), 256)
        assert counted.macs_published / 1e9 == pytest.approx(published_g, rel=1e-3)
        assert counted.params / 1e6 == pytest.approx(params_m, rel=1e-3)
    # nobody publishes this one: what two blocks a level add to the plain U-Net, by hand
    plain, deep = unet(16), DeepestUnetGenerator(DeepestUnetWidths.uniform(16))
    streams = [16, 32, 64, 128, 128, 128, 128, 32, 16, 32, 64, 128, 128, 128]
    block = [
        # 1x1 to four times, 3x3 there, 1x1 back, 3x3; a scale and a shift for every channel out
        (4 + 9 * 16 + 4 + 9) * d * d + 2 * (4 + 4 + 1 + 1) * d
        for d in streams
    ]
    assert cost(deep, 256).params - cost(plain, 256).params == 2 * sum(block)


def test_the_macs_that_gan_compressions_tutorial_prints():
    config = [32, 32, 48, 32, 48, 48, 16, 16]
    network = MobileResnetGenerator(ResnetWidths.from_sub_mobile(config))
    assert cost(network, 256).macs_torchprofile == 4_993_843_200


def test_macs_are_exact_in_both_conventions():
    counted = cost(mobile(16), 256)
    assert (counted.macs, counted.macs_published) == (954_728_448, 1_407_713_280)
    assert counted.instance_norm == 12_845_056
    counted = cost(unet(16), 256)
    assert (counted.macs, counted.macs_published) == (406_323_200, 1_218_707_456)
    assert counted.instance_norm == 0


@pytest.mark.parametrize(
    ("cfg", "published_g", "true_g", "budget_g"),
    [(GCC_A_TO_B, 2.384, 1.418, 2.4), (GCC_B_TO_A, 2.691, 1.672, 2.7)],
)
def test_gccs_widths_meet_its_budget(cfg, published_g, true_g, budget_g):
    counted = cost(gcc(cfg), 256)
    assert counted.macs_published / 1e9 == pytest.approx(published_g, abs=1e-3)
    assert counted.macs / 1e9 == pytest.approx(true_g, abs=1e-3)
    assert abs(counted.macs_published / 1e9 - budget_g) < 0.05


@pytest.mark.parametrize(
    ("channels", "width", "norm", "params", "macs_g"),
    [
        (3, 64, "instance", 2_764_737, 3.147),
        (3, 64, "batch", 2_765_633, 3.147),
        (6, 64, "instance", 2_767_809, 3.197),
        (6, 64, "batch", 2_768_705, 3.197),
        (6, 96, "instance", 6_216_097, 7.11),
        (6, 128, "instance", 11_040_641, 12.57),
        (6, 128, "batch", 11_042_433, 12.57),
    ],
)
def test_patchgan(channels, width, norm, params, macs_g):
    counted = cost(PatchDiscriminator(channels, width, norm=norm), 256, channels=channels)
    assert counted.params == params
    assert counted.macs == counted.macs_published
    assert counted.macs / 1e9 == pytest.approx(macs_g, rel=1e-3)


def test_gates_add_a_number_for_each_channel():
    plain = cost(PatchDiscriminator(6, 16, norm="batch"), 256, channels=6)
    gated = cost(GatedPatchDiscriminator(6, 16), 256, channels=6)
    assert gated.params - plain.params == 16 + 32 + 64 + 128
    assert gated.macs == plain.macs


@pytest.mark.parametrize(("size", "macs_g"), [(64, 73.43), (128, 293.7)])
def test_an_upscaler_is_counted_by_its_input(size, macs_g):
    counted = cost(RrdbNet(RrdbWidths.uniform()), size)
    assert counted.macs / 1e9 == pytest.approx(macs_g, rel=1e-3)
    assert counted.macs == counted.macs_published


def test_height_and_width_may_differ():
    network = mobile(8)
    assert cost(network, (128, 256)).macs * 2 == cost(network, 256).macs


def test_counting_leaves_the_network_as_it_was():
    network = unet(8).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    cost(network, 256)
    assert network.training
    assert all((network.state_dict()[name] == tensor).all() for name, tensor in before.items())
    assert not any(module._forward_hooks for module in network.modules())
