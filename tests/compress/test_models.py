import pytest
import torch

from compress.checkpoints import load_network, save_network
from compress.features import forward_with_features
from compress.models.generators import ResnetGenerator, ResnetWidths, initialize_as_identity
from tests.compress.conftest import tiny_generator


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
    _, (feature,) = forward_with_features(network, image, ["model.9"])
    before = feature.clone()
    network(-image)
    assert torch.equal(feature, before)


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
