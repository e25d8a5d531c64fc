import copy

import pytest
import torch
from torch import nn

from compress.loop import Batch
from compress.models.blocks import initialize
from compress.models.discriminators import PatchDiscriminator
from compress.models.generators import ResnetGenerator, ResnetWidths
from compress.pruning.importance import by_effect, magnitude, make_ranking, scale
from compress.pruning.structure import structure, without
from tests.compress.pruned import MAKE, image, network, structure_of

BATCHES = [Batch(image(32, count=2, seed=seed)) for seed in range(3)]
HEAD = "model.15"  # of a ResNet of two blocks: what the last convolution reads


def rankings(net, importance, **options):
    whole = structure(net)
    scores = make_ranking(importance, **options)(net, whole)
    return {c.name: s for c, s in zip(whole.couplings, scores, strict=True)}


def judge(channels=6):
    torch.manual_seed(5)
    return initialize(PatchDiscriminator(channels, 8))


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("importance", ["taylor", "discriminator"])
def test_every_channel_of_every_family_has_a_score(name, importance):
    net = network(name).train()
    upscales = net.scale > 1
    whole = structure_of(name)
    ranking = make_ranking(
        importance, batches=BATCHES[:1], discriminator=judge(3 if upscales else 6)
    )
    scores = ranking(net, whole)
    assert [len(s) for s in scores] == [c.channels for c in whole.couplings]
    assert all(torch.isfinite(s).all() and (s >= 0).all() for s in scores)
    assert all(s.max() > 0 for s in scores)
    assert net.training
    assert not any(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("importance", ["taylor", "discriminator"])
def test_what_nobody_reads_does_not_matter(importance):
    net = network("resnet_batch")
    with torch.no_grad():
        net.model[19].weight[:, 3] = 0  # the last convolution
    scores = rankings(net, importance, batches=BATCHES, discriminator=judge())[HEAD]
    assert scores[3] == 0
    assert scores.sort().values[1] > 0


def test_the_score_is_the_squared_change_of_the_image():
    net = network("resnet_batch")
    with torch.no_grad():
        net.model[19].weight.mul_(0.02)  # tanh is a straight line, and a channel's share small
        net.model[19].bias.zero_()
    whole = structure(net)
    images = image(16, count=8)
    (index,) = (i for i, c in enumerate(whole.couplings) if c.name == HEAD)
    scores = by_effect(lambda _batch, made: made, [Batch(images)] * 40, seed=0)(net, whole)[index]
    real = []
    with torch.no_grad():
        full = net(images)
        for channel in range(16):
            gone = [[channel] if i == index else [] for i in range(len(whole.couplings))]
            real.append((without(net, whole, gone)(images) - full).square().sum())
    # 320 random projections: a relative error of sqrt(2 / 320) = 8 %
    torch.testing.assert_close(scores / 40, torch.stack(real), rtol=0.25, atol=0)


def test_a_discriminator_that_is_blind_to_a_colour_does_not_miss_it():
    net, blind = network("resnet_batch"), judge()
    with torch.no_grad():
        net.model[19].weight[:2, 7] = 0  # channel 7 makes only blue
        blind.model[0].weight[:, 5] = 0  # of the image, after three channels of the source
    seen = rankings(net, "discriminator", batches=BATCHES, discriminator=blind)[HEAD]
    made = rankings(net, "taylor", batches=BATCHES)[HEAD]
    assert seen[7] == 0
    assert made[7] > 0


def test_a_discriminator_is_asked_and_stays_as_it_is():
    net = network("resnet_batch")
    norm = initialize(PatchDiscriminator(6, 8, norm="batch")).train()
    before = copy.deepcopy(norm.state_dict())
    rankings(net, "discriminator", batches=BATCHES, discriminator=norm)
    assert all(torch.equal(v, before[k]) for k, v in norm.state_dict().items())
    assert all(p.requires_grad for p in norm.parameters())


def test_scores_follow_from_the_seed():
    net = network("mobile")
    one, same, other = (
        rankings(net, "taylor", batches=BATCHES, seed=seed)["model.1"] for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_magnitude_counts_every_layer_a_channel_is_in():
    net = network("resnet_batch")
    scores = rankings(net, "magnitude")
    stem, norm, reader = net.model[1].weight, net.model[2].weight, net.model[4].weight
    mean = (stem.square().sum((1, 2, 3)) + norm.square() + reader.square().sum((0, 2, 3))) / 3
    torch.testing.assert_close(scores["model.1"], mean.detach())
    up, norm, reader = net.model[12].weight, net.model[13].weight, net.model[15].weight
    mean = (up.square().sum((0, 2, 3)) + norm.square() + reader.square().sum((1, 2, 3))) / 3
    torch.testing.assert_close(scores["model.12"], mean.detach())


@pytest.mark.parametrize("name", ["resnet_batch", "resnet_affine_instance"])
def test_scale_ranks_by_the_norms_a_channel_goes_through(name):
    net = network(name)
    scores = rankings(net, "scale")
    torch.testing.assert_close(scores["model.1"], net.model[2].weight.abs().detach())
    stream = [net.model[8], *(net.model[i].conv_block[6] for i in (10, 11))]
    mean = torch.stack([norm.weight for norm in stream]).abs().mean(0).detach()
    torch.testing.assert_close(scores["model.7"], mean)


def test_scale_falls_back_to_magnitude_where_a_coupling_has_no_norm():
    net = network("unet")
    assert torch.equal(
        rankings(net, "scale")["model.model.0"], rankings(net, "magnitude")["model.model.0"]
    )


@pytest.mark.parametrize("name", ["resnet_instance", "rrdb", "srvgg", "mobile"])
def test_scale_needs_scales(name):
    net = network(name)
    with pytest.raises(ValueError, match=r"has no norm with any: take magnitude, taylor or discr"):
        scale(net, structure(net))


def test_scores_of_twins_are_equal():
    net = ResnetGenerator(ResnetWidths.uniform(8, 1), norm="instance")
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.constant_(module.weight, 0.1)
    for score in magnitude(net, structure(net)):
        torch.testing.assert_close(score, score[:1].expand_as(score))


@pytest.mark.parametrize(
    ("importance", "options", "message"),
    [
        ("taylor", {}, "importance = 'taylor' looks at images: give it batches"),
        ("discriminator", {}, "importance = 'discriminator' looks at images"),
        ("discriminator", {"batches": BATCHES}, "there is none with one head"),
    ],
)
def test_a_ranking_says_what_it_lacks(importance, options, message):
    with pytest.raises(ValueError, match=message):
        make_ranking(importance, **options)
