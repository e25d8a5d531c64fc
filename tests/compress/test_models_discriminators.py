import pytest
import torch

from compress.models.blocks import initialize
from compress.models.discriminators import (
    FEATURE_LAYER,
    PatchDiscriminator,
    PixelDiscriminator,
    SharedPatchDiscriminator,
)
from compress.models.gates import Gate, GatedPatchDiscriminator
from compress.models.srgan import SrganDiscriminator


def names(network):
    return [name for name, _ in network.named_parameters()]


def test_patchgan_shapes_at_both_sizes_of_the_papers():
    discriminator = PatchDiscriminator(3, 4)
    for size, features, scores in ((256, 31, 30), (64, 7, 6)):
        image = torch.zeros(1, 3, size, size)
        with torch.inference_mode():
            assert discriminator.features(image).shape == (1, 32, features, features)
            assert discriminator(image).shape == (1, 1, scores, scores)


def test_the_feature_layer_is_the_published_one():
    discriminator = PatchDiscriminator(3, 4)
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        through = discriminator.model[: FEATURE_LAYER + 1](image)
        assert torch.equal(discriminator.features(image), through)
        assert torch.equal(discriminator(image), discriminator.model[FEATURE_LAYER + 1](through))


@pytest.mark.parametrize(
    ("layers", "widest", "scores"), [(1, 8, 62), (2, 16, 30), (3, 32, 14), (4, 32, 6), (5, 32, 2)]
)
def test_any_number_of_layers(layers, widest, scores):
    """Widths stop doubling at eight times; every layer halves the scores' number."""
    discriminator = PatchDiscriminator(3, 4, layers=layers)
    with torch.inference_mode():
        assert discriminator.features(torch.zeros(1, 3, 128, 128)).shape[1] == widest
        assert discriminator(torch.zeros(1, 3, 128, 128)).shape == (1, 1, scores, scores)


def test_a_file_of_version_01_has_three_layers():
    spec = {"family": "patchgan", "norm": "batch", "channels": 6, "width": 4}
    assert PatchDiscriminator.from_spec(spec).layers == 3


def test_pixelgan_judges_every_pixel_by_itself():
    discriminator = PixelDiscriminator(3, 4, norm="batch").eval()
    image = torch.rand(1, 3, 8, 8)
    changed = image.clone()
    changed[..., 2, 3] = 0
    with torch.inference_mode():
        difference = (discriminator(image) - discriminator(changed))[0, 0]
    assert difference.shape == (8, 8)
    assert difference.nonzero().tolist() == [[2, 3]]
    assert names(discriminator)[0] == "net.0.weight"


def test_pixelgan_features():
    assert PixelDiscriminator(3, 4).features(torch.zeros(1, 3, 8, 8)).shape == (1, 8, 8, 8)


@pytest.mark.parametrize("shared", [0, 3, 5])
def test_heads_share_what_they_are_told_to(shared):
    discriminator = SharedPatchDiscriminator(3, 4, shared=shared)
    for index in range(5):
        branches = discriminator.get_submodule(f"block{index + 1}s")
        assert len(branches) == (1 if index < shared else 2)
    discriminator(torch.rand(1, 3, 64, 64), head=1).sum().backward()
    moved = {n for n, p in discriminator.named_parameters() if p.grad is not None}
    other = {n for n in names(discriminator) if n.split(".")[1] == "0" and int(n[5]) > shared}
    assert moved == set(names(discriminator)) - other


def test_heads_judge_differently_and_one_head_is_a_patchgan():
    torch.manual_seed(0)
    discriminator = SharedPatchDiscriminator(3, 4, norm="batch", shared=3, heads=3)
    image = torch.rand(1, 3, 64, 64)
    plain = PatchDiscriminator(3, 4, norm="batch")
    own = discriminator.state_dict()
    keys = [key for key in own if key.split(".")[1] == "0"]
    # blocks of conv and activation, then three of conv, norm and activation
    starts = {1: 0, 2: 2, 3: 5, 4: 8, 5: 11}
    renamed = {}
    for key in keys:
        block, _, _, layer, last = key.split(".")
        renamed[f"model.{starts[int(block[5])] + int(layer)}.{last}"] = own[key]
    plain.load_state_dict(renamed, strict=True)
    with torch.inference_mode():
        scores = [discriminator(image, head) for head in range(3)]
        assert torch.allclose(scores[0], plain(image), atol=1e-6)
    assert scores[0].shape == (1, 1, 6, 6)
    assert not torch.equal(scores[0], scores[1])
    assert not torch.equal(scores[1], scores[2])


@pytest.mark.parametrize("head", [-1, 2])
def test_a_head_that_is_not_there(head):
    discriminator = SharedPatchDiscriminator(3, 4, shared=3)
    with pytest.raises(ValueError, match=f"there are heads 0 to 1, got {head}"):
        discriminator(torch.zeros(1, 3, 64, 64), head)


def test_more_shared_blocks_than_there_are():
    with pytest.raises(ValueError, match="0 to 5 blocks can be shared, got 6"):
        SharedPatchDiscriminator(3, 4, shared=6)


def test_open_gates_change_nothing():
    gate = Gate(4)
    image = torch.randn(2, 4, 3, 3)
    assert torch.equal(gate(image), image)
    with torch.no_grad():
        gate.alpha.uniform_(0.5, 1)  # a sum of floats would not give exactly one here
    assert torch.equal(gate(image), image)


def test_a_gate_at_the_threshold_is_open():
    """The sign function of the released code gives a half here."""
    gate = Gate(1, threshold=0.5)
    torch.nn.init.constant_(gate.alpha, 0.5)
    assert torch.equal(gate(torch.ones(1, 1, 2, 2)), torch.ones(1, 1, 2, 2))


def test_a_closed_gate_lets_nothing_through_and_still_learns():
    gate = Gate(2)
    with torch.no_grad():
        gate.alpha.copy_(torch.tensor([0.4, 0.9]))
    image = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]], requires_grad=True)
    output = gate(image)
    assert output[0, 0].tolist() == [[0, 0]]
    assert torch.equal(output[0, 1], image[0, 1])
    output.sum().backward()
    # straight through: what the mask would get, the sum of what it multiplies
    assert gate.alpha.grad.tolist() == [3, 7]
    assert image.grad[0, 0].tolist() == [[0, 0]]
    assert image.grad[0, 1].tolist() == [[1, 1]]


def test_clipping_brings_gates_back_to_between_zero_and_one():
    gate = Gate(3)
    with torch.no_grad():
        gate.alpha.copy_(torch.tensor([-0.2, 0.3, 1.7]))
    gate.clip()
    assert gate.alpha.tolist() == pytest.approx([0, 0.3, 1])
    assert gate.alpha.requires_grad


def test_gates_stand_where_gcc_puts_them():
    discriminator = GatedPatchDiscriminator(6, 4)
    kinds = {
        kind: [i for i, m in enumerate(discriminator.model) if isinstance(m, kind)]
        for kind in (torch.nn.Conv2d, torch.nn.BatchNorm2d, Gate)
    }
    assert list(kinds.values()) == [[0, 3, 7, 11, 15], [4, 8, 12], [2, 5, 9, 13]]
    assert len(discriminator.gates) == 4
    assert discriminator.features(torch.zeros(2, 6, 64, 64)).shape == (2, 32, 7, 7)


def test_with_all_gates_open_it_is_the_plain_discriminator():
    gated = initialize(GatedPatchDiscriminator(3, 4))
    plain = PatchDiscriminator(3, 4, norm="batch")
    weights = [v for k, v in gated.state_dict().items() if not k.endswith("alpha")]
    plain.load_state_dict(dict(zip(plain.state_dict(), weights, strict=True)), strict=True)
    image = torch.rand(2, 3, 64, 64)
    assert torch.equal(gated.eval()(image), plain.eval()(image))
    with torch.no_grad():
        gated.gates[1].alpha[:4] = 0.1
    assert not torch.equal(gated(image), plain(image))


def test_srgans_discriminator_gives_one_logit_an_image():
    discriminator = SrganDiscriminator(2, hidden=8)
    assert discriminator(torch.zeros(3, 3, 96, 96)).shape == (3, 1)
    assert discriminator.features(torch.zeros(3, 3, 64, 32)).shape == (3, 16, 4, 2)
    with pytest.raises(ValueError, match="judges images of 96 x 96, got 128 x 96; crop them"):
        discriminator(torch.zeros(1, 3, 96, 128))


def test_srgans_discriminator_pads_behind_as_keras_does():
    """A stride of two with the kernel's centre alone picks every pixel at odd positions."""
    block = SrganDiscriminator(1, hidden=2).conv_blocks[1]
    convolution = block.conv_block[0]
    torch.nn.init.zeros_(convolution.weight)
    torch.nn.init.zeros_(convolution.bias)
    with torch.no_grad():
        convolution.weight[0, 0, 1, 1] = 1
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    block.conv_block[1] = block.conv_block[2] = torch.nn.Identity()
    assert torch.equal(block(image), image[..., 1::2, 1::2])
