"""Layer names, taps and arithmetic of single families."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from compress.features import forward_with_features
from compress.models.cartoon import CartoonGenerator, CartoonWidths
from compress.models.generators import RESNET_TAPS, ResnetGenerator, ResnetWidths
from compress.models.mobile import (
    DeepestMobileGenerator,
    DeepestWidths,
    MobileResnetGenerator,
    SeparableConv2d,
)
from compress.models.unet import DeepestUnetGenerator, DeepestUnetWidths, UnetGenerator, UnetWidths

GCC = [24, 48, 86, 72, 86, 47, 86, 44, 86, 43, 86, 43, 86, 29, 86, 30, 86, 37, 86, 36, 86, 48, 24]


def tap_shapes(network, size):
    """{name: (C, H, W)} of a network's own taps."""
    with torch.inference_mode():
        _, features = forward_with_features(
            network.eval(), torch.zeros(1, 3, size, size), network.taps
        )
    return {name: tuple(f.shape[1:]) for name, f in zip(network.taps, features, strict=True)}


@pytest.mark.parametrize("family", [ResnetGenerator, MobileResnetGenerator])
def test_resnet_taps(family):
    assert tap_shapes(family(ResnetWidths.uniform(2)), 256) == dict.fromkeys(
        RESNET_TAPS, (8, 64, 64)
    )


@pytest.mark.parametrize(
    ("blocks", "expected"), [(9, RESNET_TAPS), (6, RESNET_TAPS[:3]), (8, RESNET_TAPS[:3])]
)
def test_taps_stand_after_every_third_block(blocks, expected):
    assert ResnetGenerator(ResnetWidths.uniform(2, blocks)).taps == expected


def test_six_blocks_move_the_layers_behind_them_by_three():
    network = ResnetGenerator(ResnetWidths.uniform(4, 6), norm="affine_instance")
    names = set(network.state_dict())
    assert {"model.15.conv_block.5.bias", "model.16.weight", "model.23.bias"} <= names
    assert network.state_dict()["model.2.weight"].shape == (4,)


def test_mobile_layer_names_are_the_published_ones():
    state = MobileResnetGenerator(ResnetWidths.uniform(16)).state_dict()
    block = {name: tuple(t.shape) for name, t in state.items() if name.startswith("model.10.")}
    assert block == {
        f"model.10.conv_block.{layer}.conv.{name}": shape
        for layer in (1, 6)
        for name, shape in {
            "0.weight": (64, 1, 3, 3),
            "0.bias": (64,),
            "2.weight": (64, 64, 1, 1),
            "2.bias": (64,),
        }.items()
    }


def test_a_separable_convolution_normalises_between_whatever_the_network_does():
    network = MobileResnetGenerator(ResnetWidths.uniform(4, 1), norm="batch")
    (first, second) = (m for m in network.modules() if isinstance(m, SeparableConv2d))
    for separable in (first, second):
        norm = separable.conv[1]
        assert isinstance(norm, nn.InstanceNorm2d)
        assert not norm.affine
    assert isinstance(network.model[10].conv_block[2], nn.BatchNorm2d)


def test_sub_mobile_widths():
    widths = ResnetWidths.from_sub_mobile([32, 24, 48, 32, 40, 48, 16, 12])
    expected = ResnetWidths(32, 48, 192, (128,) * 3 + (160,) * 3 + (192,) * 3, 32, 12)
    assert widths == expected
    assert MobileResnetGenerator(widths).widths == expected
    with pytest.raises(ValueError, match=r"has 8 numbers, got 2: \[1, 2\]"):
        ResnetWidths.from_sub_mobile([1, 2])


def test_gcc_widths():
    network = MobileResnetGenerator(ResnetWidths.from_gcc(GCC))
    assert network.widths.inner == (72, 47, 44, 43, 43, 29, 30, 37, 36)
    assert (network.widths.stream, network.widths.head) == (86, 24)
    with torch.inference_mode():
        assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 3, 64, 64)


def test_gcc_leaves_empty_blocks_out():
    cfg = [*GCC[:5], 0, 86, *GCC[7:]]
    network = MobileResnetGenerator(ResnetWidths.from_gcc(cfg))
    assert network.widths.inner == (72, 44, 43, 43, 29, 30, 37, 36)
    assert "model.18.weight" in network.state_dict()  # the first transposed convolution, once 19


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        (GCC[:-1], "a GCC width list has 23 numbers, got 22"),
        ([*GCC[:4], 85, *GCC[5:]], r"return to the stream's 86 channels, got \[85\]"),
    ],
)
def test_gcc_widths_that_fit_no_network(cfg, message):
    with pytest.raises(ValueError, match=message):
        ResnetWidths.from_gcc(cfg)


def test_the_deeper_resnet():
    network = DeepestMobileGenerator(DeepestWidths.uniform(2))
    kinds = "".join(
        {
            "MobileResnetBlock": "m",
            "ExpansionBlock": "E",
            "Conv2d": "c",
            "ConvTranspose2d": "t",
        }.get(type(module).__name__, "")
        for module in network.model
    )
    assert kinds == "c" + "cEc" * 2 + "mmmmEEmmmmm" + "tEc" * 2 + "c"
    assert tap_shapes(network, 32) == {f"model.{index}": (8, 8, 8) for index in (17, 20, 23, 26)}


def test_unet_taps():
    network = UnetGenerator(UnetWidths.uniform(2))
    assert tap_shapes(network, 256) == {
        "model.model.1.model.3.model.0": (4, 64, 64),
        "model.model.1.model.3.model.3.model.3.model.0": (16, 16, 16),
        "model.model.1.model.3.model.3.model.4": (32, 16, 16),
        "model.model.1.model.4": (8, 64, 64),
    }


@pytest.mark.parametrize("levels", [4, 5, 7])
def test_taps_of_any_number_of_levels(levels):
    size = 2**levels
    for network in (
        UnetGenerator(UnetWidths.uniform(2, levels)),
        DeepestUnetGenerator(DeepestUnetWidths.uniform(2, levels)),
    ):
        assert network.multiple == size
        one, two, three, four = tap_shapes(network, 2 * size).values()
        assert one[1:] == four[1:] == (size // 2, size // 2)
        assert two[1:] == three[1:]
        # what goes up is joined with what came down
        assert (three[0], four[0]) == (2 * two[0], 2 * one[0])


def test_unet_layer_names_are_the_published_ones():
    state = UnetGenerator(UnetWidths.uniform(2)).state_dict()
    deepest = "model.model.1" + ".model.3" * 6 + ".model"
    assert {
        "model.model.0.weight",
        "model.model.3.bias",
        "model.model.1.model.1.weight",
        "model.model.1.model.2.running_var",
        "model.model.1.model.5.weight",
        "model.model.1.model.6.weight",
        f"{deepest}.1.weight",
        f"{deepest}.3.weight",
        f"{deepest}.4.weight",
    } <= set(state)
    assert [name for name in state if name.endswith("bias") and state[name].shape == (3,)] == [
        "model.model.3.bias"
    ]
    assert "model.model.0.bias" not in state


def test_a_unet_keeps_what_a_tap_saw():
    """The published one works in place, so that a tap on a norm holds activated numbers."""
    network = UnetGenerator(UnetWidths.uniform(2, 4))
    image = torch.rand(1, 3, 32, 32)
    _, (normed, entering) = forward_with_features(
        network.eval(), image, ["model.model.1.model.2", "model.model.1.model.3.model.0"]
    )
    assert torch.equal(F.leaky_relu(normed, 0.2), entering)
    assert (normed < -0.01).any()


def test_gccs_unet_filters():
    filters = [8, 16, 24, 32, 40, 0, 0, 0, 0, 0, 0, 36, 28, 20, 12]
    widths = UnetWidths.from_gcc(filters)
    assert widths == UnetWidths((8, 16, 24, 32, 40), (12, 20, 28, 36), hollow=True)
    assert UnetWidths.from_gcc([*filters, 3]) == widths
    network = UnetGenerator(widths)
    assert network.widths == widths
    innermost = "model.model.1" + ".model.3" * 3 + ".model"
    # the norm GCC leaves behind the convolution, and the transposed one on its place
    assert {f"{innermost}.2.weight", f"{innermost}.5.weight"} <= set(network.state_dict())
    with torch.inference_mode():
        assert network.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 3, 32, 32)


def test_gccs_whole_unet():
    filters = [2, 4, 8, 16, 16, 16, 16, 16, 16, 16, 16, 16, 8, 4, 2]
    assert UnetWidths.from_gcc(filters) == UnetWidths.uniform(2)


def test_a_unet_needs_levels():
    with pytest.raises(
        ValueError, match="4 levels down or more and one fewer up, got 3 down and 2"
    ):
        UnetWidths.uniform(8, 3)


def test_cartoon_turns_the_colours_inside():
    network = CartoonGenerator(CartoonWidths.uniform(4, 1))
    seen = []
    network.conv01_1.register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0]))
    for parameter in network.deconv03_1.parameters():
        nn.init.zeros_(parameter)
    with torch.no_grad():
        network.deconv03_1.bias[0] = 100  # the first channel inside is blue
        image = torch.rand(1, 3, 16, 16)
        red, green, blue = network(image)[0]
    assert (red == 0).all()
    assert (green == 0).all()
    assert (blue == 1).all()
    assert torch.equal(seen[0][:, :, 3:-3, 3:-3], image.flip(1))


def test_cartoon_taps_see_the_stream():
    network = CartoonGenerator(CartoonWidths.uniform(2))
    assert tap_shapes(network, 64) == dict.fromkeys(
        ("relu03_1", "sum06", "sum09", "sum11"), (8, 16, 16)
    )
    for name in ("in04_2", "in05_2", "in06_2"):
        norm = network.get_submodule(name)
        nn.init.zeros_(norm.weight)
        nn.init.ones_(norm.bias)
    image = torch.rand(1, 3, 64, 64)
    _, (before, after) = forward_with_features(network, image, ["relu03_1", "sum06"])
    assert torch.allclose(after, before + 3)


def test_the_trained_cartoon_generator_loads_and_draws(shared_data):
    network = CartoonGenerator(CartoonWidths.uniform()).eval()
    path = shared_data / "cartoongan_hayao" / "cartoongan_hayao_fp16.safetensors"
    weights = {name: tensor.float() for name, tensor in load_file(path).items()}
    network.load_state_dict(weights, strict=True)
    with Image.open(shared_data / "photos" / "Wine_by_Jakkub_Mede.jpg") as photo:
        photo.draft("RGB", (400, 400))
        pixels = np.asarray(photo.convert("RGB").resize((128, 192)), dtype=np.float32)
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.inference_mode():
        drawn = network(image)
    # the same scene in stronger colours: alike, and not the same
    assert drawn.abs().max() <= 1
    assert drawn.std() > image.std()
    likeness = torch.corrcoef(torch.stack([drawn.flatten(), image.flatten()]))[0, 1]
    assert 0.85 < likeness < 0.98
    by_colour = [
        torch.corrcoef(torch.stack([d.flatten(), i.flatten()]))[0, 1]
        for d, i in zip(drawn[0], image[0], strict=True)
    ]
    assert min(by_colour) > 0.8
