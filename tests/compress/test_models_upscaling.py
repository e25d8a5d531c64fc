"""Layer names and arithmetic of the super-resolution families."""

import pytest
import torch
from torch import nn

from compress.features import forward_with_features
from compress.models.rrdb import RrdbNet, RrdbWidths
from compress.models.srgan import SrganGenerator, SrganWidths
from compress.models.srvgg import SrvggNet, SrvggWidths


def test_an_rrdb_of_zeros_is_what_its_sums_make_of_it():
    """Biases alone: each dense block adds a fifth, a block adds a fifth of what its three make."""
    network = RrdbNet(RrdbWidths.uniform(2, 2, 2))
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    for block in network.body:
        for dense in (block.rdb1, block.rdb2, block.rdb3):
            nn.init.ones_(dense.conv5.bias)
    nn.init.ones_(network.conv_first.bias)
    image = torch.zeros(1, 3, 4, 4)
    with torch.inference_mode():
        output, (first, last) = forward_with_features(network, image, network.taps)
    assert first.unique().tolist() == pytest.approx([1 + 0.2 * (1 + 0.6)])
    assert last.unique().tolist() == pytest.approx([1.32 + 0.2 * (1.32 + 0.6)])
    assert (output == -1).all()  # nothing comes out of the last layer: black, 0 in [0, 1]


def test_an_rrdb_for_twice_the_size_folds_the_image_first():
    network = RrdbNet(RrdbWidths.uniform(4, 1, 2), scale=2)
    assert network.conv_first.in_channels == 12
    assert (network.multiple, network.scale) == (2, 2)
    with torch.inference_mode():
        assert network(torch.zeros(1, 3, 6, 8)).shape == (1, 3, 12, 16)
    assert RrdbNet(RrdbWidths.uniform(4, 1, 2), scale=1).conv_first.in_channels == 48
    with pytest.raises(ValueError, match="upscales 1, 2 or 4 times, got 3"):
        RrdbNet(RrdbWidths.uniform(4, 1, 2), scale=3)


def test_rrdb_layer_names_are_basicsrs():
    names = {name for name, _ in RrdbNet(RrdbWidths.uniform(4, 2, 2)).named_parameters()}
    ends = ("conv_first", "conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last")
    dense = [
        f"body.{block}.rdb{k}.conv{j}" for block in (0, 1) for k in (1, 2, 3) for j in range(1, 6)
    ]
    assert names == {f"{n}.{kind}" for n in (*ends, *dense) for kind in ("weight", "bias")}


def test_an_srvgg_of_zeros_is_nearest_neighbour_upscaling():
    network = SrvggNet(SrvggWidths.uniform(4, 2), scale=3)
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    image = torch.rand(1, 3, 4, 5) * 2 - 1
    expected = image.repeat_interleave(3, 2).repeat_interleave(3, 3)
    with torch.inference_mode():
        assert torch.allclose(network(image), expected, atol=1e-6)
    assert network.scale == 3


def test_srvgg_layer_names_and_taps():
    network = SrvggNet(SrvggWidths.uniform(4))
    assert network.taps == ("body.9", "body.17", "body.25", "body.33")
    assert isinstance(network.body[33], nn.PReLU)
    assert isinstance(network.body[34], nn.Conv2d)
    assert len(network.body) == 35


def test_srgan_layers():
    network = SrganGenerator(SrganWidths.uniform(4))
    assert network.taps == tuple(f"residual_blocks.{block}" for block in (3, 7, 11, 15))
    assert network.scale == 4
    state = network.state_dict()
    assert state["subpixel_convolutional_blocks.1.conv.weight"].shape == (16, 4, 3, 3)
    assert state["residual_blocks.0.conv_block1.conv_block.2.weight"].shape == (4,)
    assert state["conv_block3.conv_block.0.weight"].shape == (3, 4, 9, 9)
    with torch.inference_mode():
        assert network(torch.zeros(1, 3, 5, 7)).shape == (1, 3, 20, 28)


def test_srgan_sees_zero_to_one_and_makes_minus_one_to_one():
    network = SrganGenerator(SrganWidths.uniform(4, 1)).eval()
    seen = []
    network.conv_block1.register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0]))
    image = torch.rand(1, 3, 8, 8) * 2 - 1
    nn.init.constant_(network.conv_block3.conv_block[0].bias, -100)
    with torch.inference_mode():
        assert (network(image) == -1).all()
    assert torch.allclose(seen[0], (image + 1) / 2)
