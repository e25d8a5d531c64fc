import pytest
import torch
from torch import nn

from compress import pretrained
from compress.models.discriminators import PatchDiscriminator
from compress.perceptual import (
    ARCHITECTURES,
    PUBLISHED_TAPS,
    Trunk,
    discriminator_features,
    load_perceptual,
)
from compress.pretrained import PretrainedError


def random_weights(name):
    """Weights of the right shapes; for tests of what is computed, never for a figure."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for i, (wide_in, wide_out, kernel, _, _) in enumerate(ARCHITECTURES[name].convolutions):
        shape = (wide_out, wide_in, kernel, kernel)
        scale = (2 / (wide_in * kernel * kernel)) ** 0.5
        weights[f"conv{i}.weight"] = scale * torch.randn(shape, generator=generator)
        weights[f"conv{i}.bias"] = 0.1 * torch.randn(wide_out, generator=generator)
    return weights


@pytest.fixture(scope="module")
def vgg_weights():
    return random_weights("vgg16")


@pytest.fixture
def images():
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1


def trunk(name, weights, scaling="unit"):
    return Trunk(name, weights, taps=PUBLISHED_TAPS[name], scaling=scaling)


def test_vgg16_gives_the_maps_that_the_papers_compare(vgg_weights, images):
    maps = trunk("vgg16", vgg_weights).features(images)
    assert [tuple(m.shape[1:]) for m in maps] == [
        (64, 64, 64),
        (128, 32, 32),
        (256, 16, 16),
        (512, 8, 8),
    ]
    assert all((m >= 0).all() for m in maps)  # after the ReLU


def test_alexnet_gives_the_maps_that_lpips_compares(images):
    maps = trunk("alexnet", random_weights("alexnet")).features(images)
    assert [tuple(m.shape[1:]) for m in maps] == [
        (64, 15, 15),
        (192, 7, 7),
        (384, 3, 3),
        (256, 3, 3),
        (256, 3, 3),
    ]


def test_vgg16_is_the_plain_stack_of_layers(vgg_weights, images):
    layers, index = [], 0
    for width in (64, 64, "pool", 128, 128, "pool", 256, 256, 256):
        if width == "pool":
            layers.append(nn.MaxPool2d(2))
            continue
        convolution = nn.Conv2d(vgg_weights[f"conv{index}.weight"].shape[1], width, 3, padding=1)
        convolution.weight.data = vgg_weights[f"conv{index}.weight"]
        convolution.bias.data = vgg_weights[f"conv{index}.bias"]
        layers += [convolution, nn.ReLU()]
        index += 1
    with torch.no_grad():
        expected = nn.Sequential(*layers)((images + 1) / 2)
    torch.testing.assert_close(trunk("vgg16", vgg_weights).features(images)[2], expected)


def test_the_scaling_is_what_it_is_called(vgg_weights, images):
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    deviation = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    normalised = ((images + 1) / 2 - mean) / deviation
    unit, imagenet = (trunk("vgg16", vgg_weights, scaling) for scaling in ("unit", "imagenet"))
    fed_by_hand = unit.features(2 * normalised - 1)[0]
    torch.testing.assert_close(imagenet.features(images)[0], fed_by_hand, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(unit.features(images)[0], fed_by_hand, atol=0.1)


def test_gradients_reach_the_images_and_nothing_else(vgg_weights, images):
    network = trunk("vgg16", vgg_weights)
    images.requires_grad_()
    sum(m.mean() for m in network.features(images)).backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    assert not network.training
    assert all(not p.requires_grad and p.grad is None for p in network.parameters())


@pytest.mark.parametrize("taps", [("relu9_9",), ("relu2_2", "relu1_2"), ()])
def test_taps_are_known_and_in_order(vgg_weights, taps):
    with pytest.raises(ValueError, match=r"taps of vgg16 must be some of relu1_2, .*; got "):
        Trunk("vgg16", vgg_weights, taps=taps, scaling="unit")


def test_no_network_takes_the_place_of_one_that_is_not_there(monkeypatch):
    def unreachable(weights):
        raise PretrainedError("no network")

    monkeypatch.setattr(pretrained, "fetch", unreachable)
    with pytest.raises(PretrainedError, match="no network"):
        load_perceptual("vgg16")
    with pytest.raises(ValueError, match=r"no perceptual network 'resnet50'.*alexnet, vgg16"):
        load_perceptual("resnet50")


def test_it_loads_the_weights_it_is_named_after(monkeypatch, vgg_weights, images):
    monkeypatch.setattr(pretrained, "tensors", {pretrained.VGG16: vgg_weights}.__getitem__)
    network = load_perceptual("vgg16")
    assert network.name == "vgg16"
    for ours, theirs in zip(
        network.features(images), trunk("vgg16", vgg_weights).features(images), strict=True
    ):
        assert torch.equal(ours, theirs)


@pytest.fixture(params=["batch", "instance"])
def discriminator(request):
    torch.manual_seed(0)
    return PatchDiscriminator(3, 4, norm=request.param).train()


def test_a_discriminator_has_features_too(discriminator, images):
    maps = discriminator_features(discriminator).features(images)
    assert [m.shape[1] for m in maps] == [4, 8, 16, 32]
    torch.testing.assert_close(maps[-1], discriminator.features(images))


def test_looking_through_a_discriminator_does_not_move_it(discriminator, images):
    before = {name: value.clone() for name, value in discriminator.state_dict().items()}
    images.requires_grad_()
    discriminator_features(discriminator).features(images)[-1].mean().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    assert all(p.grad is None and p.requires_grad for p in discriminator.parameters())
    assert all(torch.equal(before[k], v) for k, v in discriminator.state_dict().items())


def test_a_discriminator_that_learns_is_followed(discriminator, images):
    network = discriminator_features(discriminator)
    before = network.features(images)[0]
    with torch.no_grad():
        next(discriminator.parameters()).mul_(2)
    assert not torch.allclose(network.features(images)[0], before)


def test_a_network_without_leaky_relus_has_no_features():
    with pytest.raises(ValueError, match="Conv2d has no LeakyReLU"):
        discriminator_features(nn.Conv2d(3, 3, 1))
