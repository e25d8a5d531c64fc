import random

import pytest
import torch
from torch import nn

from compress.macs import cost
from compress.models.blocks import initialize
from compress.models.discriminators import (
    PatchDiscriminator,
    PixelDiscriminator,
    SharedPatchDiscriminator,
)
from compress.models.gates import GatedPatchDiscriminator
from compress.models.srgan import SrganDiscriminator
from compress.pruning.agents import HIDDEN, PruningAgent, draw_mask, resource_loss
from compress.pruning.chain import chain
from compress.pruning.gating import Gated, switched_off
from compress.pruning.hardening import harden
from compress.pruning.resources import Limit, everything, layers_of, macs, macs_limit
from compress.pruning.structure import Coupling, Structure, without
from tests.compress.pruned import MAKE, image, network, structure_of

DEAF = torch.zeros(2 * HIDDEN)

JUDGES = {
    "patchgan": (lambda: PatchDiscriminator(6, 8), 6, 64),
    "patchgan_batch": (lambda: PatchDiscriminator(3, 8, norm="batch"), 3, 64),
    "pixelgan": (lambda: PixelDiscriminator(6, 8), 6, 16),
    "srgan": (lambda: SrganDiscriminator(4, hidden=8), 3, 96),
}


def some_gone(whole, seed=3):
    chooser = random.Random(seed)
    return [
        sorted(chooser.sample(range(c.channels), c.channels // 4 + chooser.randrange(2)))
        for c in whole.couplings
    ]


def mask_of(whole, gone):
    parts = [torch.ones(c.channels) for c in whole.couplings]
    for part, channels in zip(parts, gone, strict=True):
        part[channels] = 0
    return torch.cat(parts)


def judge(name):
    torch.manual_seed(4)
    make, channels, size = JUDGES[name]
    net = make()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    seen = torch.rand(1, channels, size, size) * 2 - 1
    return net.eval(), chain(net), seen


@pytest.mark.parametrize("name", MAKE)
def test_a_mask_does_what_removing_channels_does(name):
    net, whole = network(name), structure_of(name)
    gone = some_gone(whole)
    mask, gated = mask_of(whole, gone), Gated.of(net, whole)
    assert switched_off(whole, mask) == gone
    with torch.no_grad():
        made = gated(image(), mask)
        assert torch.equal(gated(image()), net(image()))
        torch.testing.assert_close(gated(image(), everything(gated)), net(image()))
        small = without(net, whole, gone)
        torch.testing.assert_close(made, small(image()), atol=2e-5, rtol=1e-4)
    # and it costs what that costs
    layers = layers_of(gated, image_size=64)
    assert float(macs(layers, mask)) == cost(small, 64).macs
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in net.modules())


@pytest.mark.parametrize("name", JUDGES)
def test_the_same_of_discriminators(name):
    net, whole, seen = judge(name)
    gone = some_gone(whole)
    mask, gated = mask_of(whole, gone), Gated.of(net, whole)
    small = without(net, whole, gone)
    with torch.no_grad():
        torch.testing.assert_close(gated(seen, mask), small(seen), atol=2e-5, rtol=1e-4)
    _, channels, size, _ = seen.shape
    layers = layers_of(gated, image_size=size, channels=channels)
    assert float(macs(layers, mask)) == cost(small, size, channels=channels).macs


def test_what_makes_the_scores_of_a_chain_stays():
    whole = chain(PatchDiscriminator(6, 8))
    assert whole.widths == {"model.0": 8, "model.2": 16, "model.5": 32, "model.8": 64}
    assert [m.layer for m in whole.couplings[1].members] == ["model.2", "model.3", "model.5"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GatedPatchDiscriminator(6, 8), r"model\.2 is a Gate, which cannot lose channels"),
        (lambda: SharedPatchDiscriminator(6, 8, shared=2), "no chain of convolutions"),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()), "no two convolutions in a row"),
        (
            lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, groups=4)),
            "cannot lose channels in a chain",
        ),
    ],
)
def test_what_is_no_chain_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        chain(make())


def test_a_mask_has_a_gradient_and_the_network_keeps_its_statistics():
    net = initialize(PatchDiscriminator(3, 8, norm="batch")).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    gated = Gated.of(net, chain(net))
    mask = everything(gated).requires_grad_()
    gated(image(64, count=2), mask).square().mean().backward()
    assert int((mask.grad != 0).sum()) > 100  # of 120; a channel behind a dead unit has none
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert net.training


def test_a_budget_of_macs_is_a_share_of_the_whole():
    net = network("resnet_batch")
    gated = Gated.of(net, structure_of("resnet_batch"))
    limit = macs_limit(gated, 4.0, image_size=64)
    assert limit.goal == cost(net, 64).macs / 4
    mask = everything(gated).requires_grad_()
    limit.expected(mask).backward()
    assert bool((mask.grad > 0).all())  # no channel is for nothing


def test_masks_are_hard_forwards_and_soft_backwards():
    torch.manual_seed(0)
    logits = torch.linspace(-2, 2, 40, requires_grad=True)
    mask = draw_mask(logits, [20, 20], temperature=0.4)
    assert set(mask.tolist()) == {0.0, 1.0}
    mask.sum().backward()
    assert bool((logits.grad >= 0).all())
    assert int((logits.grad > 0).sum()) > 30  # where a draw is beyond doubt, float32 says 0
    assert float(logits.grad.max()) <= 0.25 / 0.4 + 1e-6  # the steepest place of a sigmoid


def test_masks_are_drawn_as_often_as_the_logits_say():
    torch.manual_seed(0)
    for logit in (-1.0, 0.0, 3.0):
        mask = draw_mask(torch.full((20000,), logit), [20000], temperature=0.4)
        probability = float(torch.sigmoid(torch.tensor(logit)))
        assert float(mask.mean()) == pytest.approx(probability, abs=0.015)


def test_the_most_wanted_channel_of_a_coupling_always_stays():
    torch.manual_seed(0)
    logits = torch.full((12,), -50.0)
    logits[5], logits[8] = -40.0, -40.0
    mask = draw_mask(logits, [6, 6], temperature=0.4)
    assert mask.nonzero().flatten().tolist() == [5, 8]


def test_masks_follow_from_the_seed_of_the_step():
    logits = torch.zeros(64)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(draw_mask(logits, [64], temperature=0.4))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_a_resource_counts_only_beyond_its_goal():
    costs = torch.tensor([50.0, 100.0, 200.0], requires_grad=True)
    losses = [resource_loss(cost, 100.0) for cost in costs]
    assert [x.item() for x in losses] == pytest.approx([0.0, 0.0, 0.6931472])
    losses[2].backward()
    assert costs.grad.tolist() == pytest.approx([0.0, 0.0, 1 / 200])


def test_an_agent_starts_with_nearly_all_channels():
    torch.manual_seed(0)
    agent = PruningAgent([8, 16, 4])
    decision = agent(DEAF)
    assert decision.logits.shape == (28,)
    assert decision.state.shape == DEAF.shape
    assert bool((decision.logits > 0).all())
    assert torch.sigmoid(decision.logits).mean().item() > 0.9
    torch.testing.assert_close(agent.codes @ agent.codes.T, torch.eye(3), atol=1e-5, rtol=0)


def test_an_agent_can_have_more_couplings_than_codes_have_numbers():
    torch.manual_seed(0)
    assert PruningAgent([2] * 100)(DEAF).logits.shape == (200,)


def test_what_an_agent_says_depends_on_how_wide_its_network_is():
    torch.manual_seed(0)
    agent = PruningAgent([8, 8])
    wide = agent(DEAF).state
    with torch.no_grad():
        agent.norm.weight.zero_()
        agent.norm.bias.fill_(-1.0)  # nothing is left but the offset ...
    same = agent(DEAF).state
    torch.testing.assert_close(same, wide, rtol=0.2, atol=0.01)
    with torch.no_grad():
        agent.norm.bias.fill_(1.0)
        for head in agent.heads:
            head.parametrizations.weight.original0.fill_(8.0)
            head.parametrizations.weight.original1.fill_(-1.0)  # ... and now much less
    narrow = agent(DEAF).state
    assert narrow.norm().item() < 0.01 * wide.norm().item()


def test_an_agent_hears_and_remembers():
    torch.manual_seed(0)
    agent, peer = PruningAgent([8, 8]), PruningAgent([4])
    assert not agent.said.any()
    agent.remember(DEAF)
    assert torch.equal(agent.said, agent(DEAF).state)
    assert not agent.said.requires_grad
    assert not torch.equal(peer(agent.said).logits, peer(DEAF).logits)
    again = PruningAgent([8, 8])
    again.load_state_dict(agent.state_dict())
    assert torch.equal(again.said, agent.said)
    assert torch.equal(again(DEAF).logits, agent(DEAF).logits)


HALVES = Structure((Coupling("one", 8, False, ()), Coupling("other", 8, False, ())))
BUDGET = Limit("macs", 9.0, lambda mask: mask.sum(), lambda mask: float(mask.sum()))
ROOM = 9.5
"""What the agent is held to: at the budget itself nothing should push."""
BEST = ({"one": 8, "other": 1}, {"one": 1, "other": 8})
"""The widest that the budget allows of the half that counts; the other keeps what it must."""


def taught(agent, objective, *, steps, heard):
    """Train an agent: what it hears, and what counts, follow from the step."""
    optimizer = torch.optim.Adam(agent.parameters(), lr=2e-3)
    for step in range(steps):
        torch.manual_seed(step)
        logits = agent(heard(step)).logits
        halves = torch.split(draw_mask(logits, agent.channels, temperature=0.4), 8)
        optimizer.zero_grad()
        objective(step, halves).backward()
        optimizer.step()
    return agent


def peer_for(half):
    """What a peer says that has learned to attend to one half of its own network."""
    torch.manual_seed(10 + half)
    agent = taught(
        PruningAgent([8, 8]),
        lambda _step, halves: halves[1 - half].mean() - halves[half].mean(),
        steps=80,
        heard=lambda _step: DEAF,
    )
    agent.remember(DEAF)
    return agent.said


def found_widths(peers, *, feedback):
    """The widths an agent finds for each of its peers, of which now one plays and now the other."""

    def heard(half):
        return peers[half] if feedback else DEAF

    torch.manual_seed(1)
    agent = taught(
        PruningAgent([8, 8]),
        # only that half matters which the peer attends to
        lambda step, halves: (
            4 * resource_loss(sum(h.sum() for h in halves), ROOM) - halves[step % 2].mean()
        ),
        steps=600,
        heard=lambda step: heard(step % 2),
    )
    found = []
    for half in (0, 1):
        kept = harden(HALVES, agent(heard(half)).logits, BUDGET, channel_multiple=1)
        found.append({name: len(channels) for name, channels in kept.items()})
    return tuple(found)


def test_an_agent_that_hears_its_peer_finds_the_best_widths_and_a_deaf_one_does_not():
    peers = peer_for(0), peer_for(1)
    assert found_widths(peers, feedback=True) == BEST
    deaf = found_widths(peers, feedback=False)
    assert deaf[0] == deaf[1]
    assert deaf != BEST
