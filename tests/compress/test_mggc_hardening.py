import json
import logging

import pytest
import torch

from compress.checkpoints import load_network, save_network
from compress.macs import cost
from compress.models.blocks import initialize
from compress.models.discriminators import PatchDiscriminator
from compress.pruning.chain import chain
from compress.pruning.gating import Gated
from compress.pruning.hardening import (
    TOLERANCE,
    harden,
    nearest,
    pruned,
    require_reach,
    widths_for,
)
from compress.pruning.resources import Limit, macs_limit
from compress.pruning.structure import Coupling, Structure, structure
from compress.pruning.surrogate import MEASURED, fit_latency, latency_limit
from tests.compress.conftest import tiny_generator
from tests.compress.pruned import MAKE, image, network, structure_of

ONE = Structure((Coupling("one", 16, False, ()),))


def wanted(whole, seed=0):
    """What an agent may want: every layer in another measure, every channel as well."""
    draw = torch.Generator().manual_seed(seed)
    parts = [
        torch.randn((), generator=draw) + 2 * torch.randn(c.channels, generator=draw)
        for c in whole.couplings
    ]
    return torch.cat(parts)


def counting(goal):
    return Limit("macs", goal, lambda mask: mask.sum(), lambda mask: float(mask.sum()))


@pytest.mark.parametrize("name", MAKE)
def test_a_budget_is_met_and_the_network_is_one_of_its_family(name, tmp_path):
    net, whole = network(name), structure_of(name)
    limit = macs_limit(Gated.of(net, whole), 2.5, image_size=64)
    kept = harden(whole, wanted(whole), limit, channel_multiple=1)
    small = pruned(net, whole, kept)
    # of these tiny networks a single channel may be more than 2 %
    assert 0.9 * limit.goal <= cost(small, 64).macs <= limit.goal
    assert {n: len(channels) for n, channels in kept.items()} == structure(small).widths
    save_network(tmp_path / "small.safetensors", small)
    again = load_network(tmp_path / "small.safetensors").eval()
    with torch.no_grad():
        assert torch.equal(again(image(64)), small(image(64)))


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("reduction", "multiple"), [(9.0, 4), (21.0, 4), (4.0, 2)])
def test_widths_in_multiples_come_as_near(reduction, multiple, seed):
    net = tiny_generator(32, norm="instance")
    whole = structure(net)
    limit = macs_limit(Gated.of(net, whole), reduction, image_size=128)
    kept = harden(whole, wanted(whole, seed), limit, channel_multiple=multiple)
    assert all(len(channels) % multiple == 0 for channels in kept.values())
    reached = cost(pruned(net, whole, kept), 128).macs
    assert (1 - TOLERANCE) * limit.goal <= reached <= limit.goal


def test_a_discriminator_is_pruned_too():
    torch.manual_seed(0)
    net = initialize(PatchDiscriminator(6, 16))
    whole = chain(net)
    limit = macs_limit(Gated.of(net, whole), 2.0, image_size=96, channels=6)
    small = pruned(net, whole, harden(whole, wanted(whole), limit, channel_multiple=1))
    reached = cost(small, 96, channels=6).macs
    assert (1 - TOLERANCE) * limit.goal <= reached <= limit.goal
    assert small(torch.rand(1, 6, 96, 96)).shape == (1, 1, 10, 10)


def test_the_most_wanted_channels_stay_with_their_weights():
    net = network("resnet_batch")
    whole = structure_of("resnet_batch")
    logits = wanted(whole)
    limit = macs_limit(Gated.of(net, whole), 3.0, image_size=64)
    kept = harden(whole, logits, limit, channel_multiple=1)
    for coupling, scores in zip(
        whole.couplings, torch.split(logits, [c.channels for c in whole.couplings]), strict=True
    ):
        left = kept[coupling.name]
        gone = [c for c in range(coupling.channels) if c not in left]
        assert left == sorted(left)
        assert not gone or scores[left].min() >= scores[gone].max()
    small = pruned(net, whole, kept)
    assert torch.equal(small.model[1].weight, net.model[1].weight[kept["model.1"]])


def test_layers_lose_what_the_agent_wants_less_of():
    net = network("resnet_batch")
    whole = structure_of("resnet_batch")
    logits = torch.cat(
        [
            torch.linspace(0, 1, c.channels) + (4.0 if c.name == "model.10.conv_block.1" else 0.0)
            for c in whole.couplings
        ]
    )
    limit = macs_limit(Gated.of(net, whole), 3.0, image_size=64)
    kept = harden(whole, logits, limit, channel_multiple=1)
    assert len(kept["model.10.conv_block.1"]) > 60 > 50 > len(kept["model.11.conv_block.1"])


def test_a_coupling_narrower_than_the_multiple_keeps_all():
    assert widths_for(4, 8) == [4]
    assert widths_for(20, 8) == [8, 16, 20]
    assert [nearest([8, 16, 20], k) for k in (0, 12, 13, 18, 19)] == [8, 8, 16, 16, 20]


def test_a_budget_out_of_reach_says_what_is():
    net = tiny_generator(16, blocks=2)
    whole = structure(net)
    limit = macs_limit(Gated.of(net, whole), 500.0, image_size=64)
    with pytest.raises(
        ValueError, match=r"macs for the network is out of reach: 8 channels in every"
    ):
        harden(whole, wanted(whole), limit, channel_multiple=8)
    with pytest.raises(ValueError, match=r"ask less, or lower the profile's channel_multiple"):
        require_reach(whole, limit, channel_multiple=8)


def test_a_budget_that_no_width_comes_near_is_kept_and_said(caplog):
    with caplog.at_level(logging.WARNING):
        kept = harden(ONE, torch.arange(16.0), counting(15.0), channel_multiple=8)
    assert kept == {"one": list(range(8, 16))}
    assert "macs: 8 of 15 is used: no widths in multiples of 8 come nearer" in caplog.text


def test_what_is_measured_counts_and_not_what_was_expected():
    """A limit that expects half of what it takes, and not in proportion."""
    net = network("resnet_batch")
    whole = structure_of("resnet_batch")
    exact = macs_limit(Gated.of(net, whole), 3.0, image_size=64)
    asked = []

    def reached(mask):
        asked.append(mask)
        return 2 * exact.reached(mask) + 0.1 * exact.goal

    limit = Limit("latency_ms", exact.goal, exact.expected, reached)
    kept = harden(whole, wanted(whole), limit, channel_multiple=1)
    macs = cost(pruned(net, whole, kept), 64).macs
    assert (1 - TOLERANCE) * limit.goal <= 2 * macs + 0.1 * exact.goal <= limit.goal
    assert len(asked) <= 7


def test_what_was_found_can_be_written_down_and_is_only_for_its_network():
    net = network("srvgg")
    whole = structure_of("srvgg")
    limit = macs_limit(Gated.of(net, whole), 2.0, image_size=64)
    kept = harden(whole, wanted(whole), limit, channel_multiple=1)
    again = pruned(net, whole, json.loads(json.dumps(kept)))
    first = pruned(net, whole, kept)
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in first.state_dict().items())
    with pytest.raises(ValueError, match="these channels are not ResnetGenerator's"):
        pruned(network("resnet_batch"), structure_of("resnet_batch"), kept)


def stopwatch(asked):
    """A machine of 1 ms and 20 GMAC/s, that has no noise."""

    def latency(net):
        asked.append(net)
        return 1.0 + cost(net, 64).macs / 2e7

    return latency


@pytest.mark.parametrize("name", ["resnet_batch", "mobile"])
def test_milliseconds_are_fitted_and_a_budget_of_them_is_met(name):
    net, whole = network(name), structure_of(name)
    gated, asked = Gated.of(net, whole), []
    latency = stopwatch(asked)
    coefficients = fit_latency(gated, latency, image_size=64, channel_multiple=2, seed=0)
    assert len(asked) == MEASURED
    assert min(coefficients) >= 0
    goal = 1 + (latency(net) - 1) / 2
    limit = latency_limit(gated, goal, latency, coefficients, image_size=64)
    for share in (0.2, 0.5, 0.8):
        parts = torch.split(wanted(whole), [c.channels for c in whole.couplings])
        mask = torch.cat([(part >= part.quantile(1 - share)).float() for part in parts])
        assert float(limit.expected(mask)) == pytest.approx(limit.reached(mask), rel=0.02)
    mask.requires_grad_()
    limit.expected(mask).backward()
    assert float(mask.grad.min()) > 0
    kept = harden(whole, wanted(whole), limit, channel_multiple=1)
    assert (1 - TOLERANCE) * goal <= latency(pruned(net, whole, kept)) <= goal


def test_measurements_follow_from_the_seed():
    net, whole = network("resnet_batch"), structure_of("resnet_batch")
    widths = []
    for seed in (0, 0, 1):
        asked = []
        fit_latency(
            Gated.of(net, whole), stopwatch(asked), image_size=64, channel_multiple=4, seed=seed
        )
        widths.append([small.widths for small in asked])
    assert widths[0] == widths[1]
    assert widths[0] != widths[2]
    assert widths[0][0] == net.widths  # the whole network is one of them
    assert min(w.stream for w in widths[0]) <= 12
