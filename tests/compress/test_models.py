import pytest
import torch

from compress.checkpoints import build, load_network, save_network, specification
from compress.features import forward_with_features
from compress.macs import cost
from compress.models.discriminators import PatchDiscriminator
from compress.models.generators import (
    RESNET_TAPS,
    ResnetGenerator,
    ResnetWidths,
    initialize_as_identity,
)
from tests.compress.conftest import tiny_generator


def params(network):
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(("width", "expected"), [(64, 11_378_179), (16, 715_651)])
def test_resnet_has_the_published_parameters(width, expected):
    assert params(ResnetGenerator(ResnetWidths.uniform(width))) == expected


@pytest.mark.parametrize(
    ("channels", "norm", "expected"),
    [
        (3, "instance", 2_764_737),
        (3, "batch", 2_765_633),
        (6, "instance", 2_767_809),
        (6, "batch", 2_768_705),
    ],
)
def test_patchgan_has_the_published_parameters(channels, norm, expected):
    assert params(PatchDiscriminator(channels, 64, norm=norm)) == expected


def test_patchgan_shapes():
    discriminator = PatchDiscriminator(3, 4)
    with torch.inference_mode():
        assert discriminator(torch.zeros(1, 3, 256, 256)).shape == (1, 1, 30, 30)
        assert discriminator(torch.zeros(1, 3, 64, 64)).shape == (1, 1, 6, 6)
        assert discriminator.features(torch.zeros(1, 3, 64, 64)).shape == (1, 32, 7, 7)


def test_macs_in_both_conventions():
    """An eighth of the size on each side: 49.552 G and 56.80 G at 256 px, by 64."""
    counted = cost(ResnetGenerator(ResnetWidths.uniform(16)), 32)
    assert counted.macs * 64 == pytest.approx(3.328e9, rel=1e-3)
    assert counted.macs_published * 64 == pytest.approx(3.78e9, rel=1e-3)


def test_taps_are_a_quarter_in_size_and_four_times_as_wide():
    _, features = forward_with_features(tiny_generator(8), torch.zeros(1, 3, 64, 64), RESNET_TAPS)
    assert [(name, tuple(f.shape)) for name, f in features.items()] == [
        (name, (1, 32, 16, 16)) for name in RESNET_TAPS
    ]


def test_a_tap_that_is_not_there_raises():
    with pytest.raises(KeyError, match=r"no layers \['model.99'\]"):
        forward_with_features(tiny_generator(), torch.zeros(1, 3, 64, 64), ["model.9", "model.99"])


def test_a_tap_that_does_not_fire_raises():
    class Lazy(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = torch.nn.Identity(), torch.nn.Identity()

        def forward(self, x):
            return self.used(x)

    with pytest.raises(KeyError, match=r"did not run its layers \['unused'\]"):
        forward_with_features(Lazy(), torch.zeros(1), ["unused"])


def test_a_later_pass_does_not_overwrite_features():
    network = tiny_generator(4)
    image = torch.rand(1, 3, 32, 32)
    _, features = forward_with_features(network, image, ["model.9"])
    before = features["model.9"].clone()
    network(-image)
    assert torch.equal(features["model.9"], before)


@pytest.mark.parametrize(
    "network",
    [
        pytest.param(tiny_generator(4, norm="instance", blocks=6), id="resnet-6 instance"),
        pytest.param(
            ResnetGenerator(ResnetWidths(8, 16, 24, (8, 16), 8, 8), norm="batch"), id="pruned"
        ),
        pytest.param(PatchDiscriminator(6, 4), id="patchgan"),
    ],
)
def test_a_network_survives_the_disk(tmp_path, network):
    save_network(tmp_path / "n.safetensors", network)
    again = load_network(tmp_path / "n.safetensors")
    assert specification(again) == specification(network)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])


def test_half_precision_files_load_as_float(tmp_path):
    save_network(tmp_path / "n.safetensors", tiny_generator(4), half=True)
    again = load_network(tmp_path / "n.safetensors")
    assert {p.dtype for p in again.parameters()} == {torch.float32}


def test_bad_weight_files_are_named(tmp_path):
    path = tmp_path / "n.safetensors"
    with pytest.raises(ValueError, match=r"there is no weights file .*n\.safetensors"):
        load_network(path)
    path.write_bytes(b"not weights")
    with pytest.raises(ValueError, match=r"n\.safetensors is not a safetensors file"):
        load_network(path)


def test_an_unknown_family_lists_the_known():
    with pytest.raises(ValueError, match="unknown network family 'vae'; known: patchgan, resnet"):
        build({"family": "vae"})


def test_an_identity_start_nearly_returns_its_input():
    torch.manual_seed(0)
    network = initialize_as_identity(ResnetGenerator(ResnetWidths.uniform(16, 3), norm="batch"))
    coarse = torch.rand(1, 3, 16, 16) * 1.6 - 0.8
    image = torch.nn.functional.interpolate(coarse, scale_factor=4, mode="bicubic")
    with torch.inference_mode():
        error = (network.eval()(image) - image).abs()
    assert error.mean() < 0.08
    assert error.max() < 0.4


def test_an_identity_start_has_no_dead_layer():
    torch.manual_seed(0)
    network = initialize_as_identity(ResnetGenerator(ResnetWidths.uniform(16, 3), norm="batch"))
    network.eval()(torch.rand(1, 3, 32, 32)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


@pytest.mark.parametrize(
    ("widths", "norm", "message"),
    [
        (ResnetWidths.uniform(64, 1), "instance", "an identity needs norm = 'batch'"),
        (ResnetWidths(2, 12, 48, (8,), 12, 3), "batch", "ends of 3 and 12 channels"),
        (ResnetWidths.uniform(8, 1), "batch", "48 channels in the residual stream, got 32"),
    ],
)
def test_an_identity_that_cannot_be_says_why(widths, norm, message):
    with pytest.raises(ValueError, match=message):
        initialize_as_identity(ResnetGenerator(widths, norm=norm))
