"""What holds for every family: it comes back from a file, pruned too, and leaves as ONNX."""

import json

import numpy as np
import onnxruntime
import pytest
import torch
import torch_pruning
from torch import nn

from compress.checkpoints import build, load_network, save_network, specification
from compress.export import to_onnx
from compress.features import forward_with_features
from compress.models.blocks import evenly_spaced, initialize
from compress.models.cartoon import CartoonGenerator, CartoonWidths
from compress.models.discriminators import (
    PatchDiscriminator,
    PixelDiscriminator,
    SharedPatchDiscriminator,
)
from compress.models.families import FAMILIES, Generator
from compress.models.gates import GatedPatchDiscriminator
from compress.models.generators import ResnetGenerator, ResnetWidths
from compress.models.mobile import DeepestMobileGenerator, DeepestWidths, MobileResnetGenerator
from compress.models.rrdb import RrdbNet, RrdbWidths
from compress.models.srgan import SrganDiscriminator, SrganGenerator, SrganWidths, SubPixelBlock
from compress.models.srvgg import SrvggNet, SrvggWidths
from compress.models.unet import DeepestUnetGenerator, DeepestUnetWidths, UnetGenerator, UnetWidths

GENERATORS = {
    "cartoon": lambda: CartoonGenerator(CartoonWidths.uniform(4, 1)),
    "deepest_mobile": lambda: DeepestMobileGenerator(DeepestWidths.uniform(2), norm="batch"),
    "deepest_unet": lambda: DeepestUnetGenerator(DeepestUnetWidths.uniform(2, 4)),
    "mobile": lambda: MobileResnetGenerator(ResnetWidths.uniform(4, 1)),
    "resnet": lambda: ResnetGenerator(ResnetWidths.uniform(4, 1), norm="affine_instance"),
    "rrdb": lambda: RrdbNet(RrdbWidths.uniform(4, 1, 2)),
    "rrdb x2": lambda: RrdbNet(RrdbWidths.uniform(4, 1, 2), scale=2),
    "srgan": lambda: SrganGenerator(SrganWidths.uniform(8, 1)),
    "srvgg": lambda: SrvggNet(SrvggWidths.uniform(4, 2)),
    "unet": lambda: UnetGenerator(UnetWidths.uniform(4, 4)),
    "unet of 7 levels": lambda: UnetGenerator(UnetWidths.uniform(2, 7), norm="instance"),
    "unet, hollow": lambda: UnetGenerator(UnetWidths((4, 8, 8, 6), (4, 6, 8), hollow=True)),
}
QUICKLY_EXPORTED = ("mobile", "rrdb", "srgan", "srvgg", "unet")
DISCRIMINATORS = {
    "gated_patchgan": lambda: GatedPatchDiscriminator(6, 4, threshold=0.1),
    "patchgan": lambda: PatchDiscriminator(6, 4, norm="affine_instance", layers=4),
    "pixelgan": lambda: PixelDiscriminator(6, 4, norm="batch"),
    "shared_patchgan": lambda: SharedPatchDiscriminator(3, 4, shared=3, heads=3),
    "srgan_discriminator": lambda: SrganDiscriminator(2, hidden=8),
}


def lively(network):
    """Weights that keep a signal alive through any depth, and norms that have seen images."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight, a=0.2)
        elif isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
        for parameter in module.parameters(recurse=False):
            if parameter.ndim == 1:
                nn.init.uniform_(parameter, 0.1, 0.9)
    return network.eval()


def photo(network, height=32, width=48):
    torch.manual_seed(1)
    m = network.multiple
    return torch.rand(1, 3, -(-height // m) * m, -(-width // m) * m) * 2 - 1


def test_every_family_is_tested_here():
    tested = {
        build(specification(make()))._get_name() for make in (GENERATORS | DISCRIMINATORS).values()
    }
    named = {specification(make())["family"] for make in (GENERATORS | DISCRIMINATORS).values()}
    assert named == set(FAMILIES)
    assert len(tested) == len(FAMILIES)


@pytest.mark.parametrize(
    "make", (GENERATORS | DISCRIMINATORS).values(), ids=GENERATORS | DISCRIMINATORS
)
def test_a_network_comes_back_from_its_file(tmp_path, make):
    network = initialize(make())
    save_network(tmp_path / "n.safetensors", network)
    again = load_network(tmp_path / "n.safetensors")
    assert type(again) is type(network)
    assert specification(again) == specification(network)
    assert specification(network) == json.loads(json.dumps(specification(network)))
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])


@pytest.mark.parametrize("make", GENERATORS.values(), ids=GENERATORS)
def test_a_generator_says_what_it_takes_and_gives(make):
    network = lively(make())
    assert isinstance(network, Generator)
    image = photo(network)
    with torch.inference_mode():
        output, features = forward_with_features(network, image, network.taps)
    assert output.shape == (1, 3, network.scale * image.shape[2], network.scale * image.shape[3])
    assert len(features) == len(network.taps) >= 1
    assert output.std() > 0.01


@pytest.mark.parametrize("make", GENERATORS.values(), ids=GENERATORS)
def test_a_pruned_generator_still_knows_its_widths(make):
    """Channels are cut out of the layers themselves, as Torch-Pruning does it."""
    network = lively(make())
    image = photo(network)
    graph = torch_pruning.DependencyGraph().build_dependency(network, example_inputs=image)
    whole = specification(network)
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    # what makes pixels keeps its channels; Torch-Pruning does not see that of a pixel shuffle
    fixed = {layers[-1], *(m.conv for m in network.modules() if isinstance(m, SubPixelBlock))}
    cut = 0
    for layer in layers:
        if layer in fixed or layer.groups > 1:
            continue
        group = graph.get_pruning_group(layer, torch_pruning.prune_conv_out_channels, idxs=[0])
        if graph.check_pruning_group(group):
            group.prune()
            cut += 1
    assert cut > len(layers) / 3
    pruned = specification(network)
    assert pruned != whole
    again = build(json.loads(json.dumps(pruned)))
    again.load_state_dict(network.state_dict(), strict=True)
    with torch.inference_mode():
        assert torch.equal(again.eval()(image), network(image))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *QUICKLY_EXPORTED,
        *(
            pytest.param(slow, marks=pytest.mark.slow)
            for slow in GENERATORS
            # a hollow U-Net is a U-Net to the exporter
            if slow not in (*QUICKLY_EXPORTED, "unet, hollow")
        ),
    ],
)
def test_an_exported_generator_agrees_with_itself_at_another_size(tmp_path, name):
    network = lively(GENERATORS[name]())
    to_onnx(network, tmp_path / "n.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "n.onnx", providers=["CPUExecutionProvider"])
    image = photo(network, 80, 48)
    with torch.inference_mode():
        expected = network(image).numpy()
    (output,) = session.run(None, {"image": image.numpy()})
    assert output.shape == expected.shape
    assert np.abs(output - expected).max() < 1e-4
    assert expected.std() > 0.01


@pytest.mark.parametrize(
    "make", (GENERATORS | DISCRIMINATORS).values(), ids=GENERATORS | DISCRIMINATORS
)
def test_fresh_weights_are_drawn_for_every_layer(make):
    torch.manual_seed(0)
    one, two = make(), make()
    for network in (one, two):
        for parameter in network.parameters():
            nn.init.constant_(parameter, 7.0)
        initialize(network)
    for (name, a), b in zip(one.named_parameters(), two.parameters(), strict=True):
        untouched = name.endswith("alpha")  # gates are all open at first: their class says so
        assert untouched or not (a == 7).any(), name
        assert a.ndim == 1 or not torch.equal(a, b), name


def test_the_weights_of_the_papers():
    network = initialize(UnetGenerator(UnetWidths.uniform(8, 5)))
    weight, norm = network.model.model[1].model[1].weight, network.model.model[1].model[2]
    assert weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert abs(weight.mean()) < 0.002
    assert norm.weight.mean().item() == pytest.approx(1, abs=0.02)
    assert (norm.bias == 0).all()


@pytest.mark.parametrize(
    "make",
    [GENERATORS[name] for name in ("rrdb", "srgan", "srvgg")],
    ids=["rrdb", "srgan", "srvgg"],
)
def test_an_untrained_upscaler_neither_dies_nor_explodes(make):
    torch.manual_seed(0)
    network = initialize(make())
    output = network(photo(network))
    assert 0.01 < output.std() < 1.5
    output.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [(16, (3, 7, 11, 15)), (23, (5, 11, 17, 22)), (6, (1, 2, 4, 5)), (2, (0, 1)), (0, ())],
)
def test_evenly_spaced_blocks(blocks, expected):
    assert evenly_spaced(blocks) == expected


def test_an_unknown_family_lists_the_known():
    with pytest.raises(ValueError, match=r"unknown network family 'vae'; known: cartoon, .*, unet"):
        build({"family": "vae"})


@pytest.mark.parametrize(
    "spec",
    [
        {"family": "resnet", "norm": "batch"},
        {"family": "mobile", "norm": "batch", "widths": {"stem": 8}},
        {"family": "unet", "norm": "batch", "widths": 8},
    ],
)
def test_a_specification_that_is_none_is_shown(spec):
    with pytest.raises(ValueError, match=f"no specification of a {spec['family']} network.*norm"):
        build(spec)


def test_a_stranger_cannot_be_saved():
    with pytest.raises(ValueError, match="Linear belongs to no family that can be saved"):
        specification(nn.Linear(1, 1))
