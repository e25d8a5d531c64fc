import pytest
import torch

from compress.loop import Batch, Schedule, apply_update, make_optimizers, train
from compress.methods.likeness import Likeness
from compress.methods.manifold import pooled_pixels
from compress.methods.mggc import Player, Weights, decide, mggc
from compress.methods.rivals import rivals
from compress.models.blocks import initialize
from compress.models.discriminators import PatchDiscriminator
from compress.pruning.agents import PruningAgent
from compress.pruning.chain import chain
from compress.pruning.gating import Gated
from compress.pruning.hardening import harden
from compress.pruning.resources import macs_limit
from compress.pruning.structure import structure
from tests.compress.conftest import tiny_discriminator, tiny_generator
from tests.compress.small import SmallGenerator


def player(network, couplings, reduction, *, channels=3, seed=0):
    gated = Gated.of(network, couplings)
    torch.manual_seed(seed)
    agent = PruningAgent([c.channels for c in couplings.couplings])
    return Player(gated, agent, macs_limit(gated, reduction, image_size=32, channels=channels))


def players(generator=None, *, reduction=3.0):
    generator = generator or tiny_generator(8, norm="instance", blocks=2).eval()
    judge = tiny_discriminator()
    return (
        player(generator, structure(generator), reduction, seed=1),
        player(judge, chain(judge), 2.0, channels=6, seed=2),
    )


def method(pair, **options):
    weights = Weights(kernel_density=1.0, imitation=10.0)
    return mggc(*pair, **{"weights": weights, "embed": pooled_pixels} | options)


def neighbourhood(step, images=4, size=32):
    generator = torch.Generator().manual_seed(step)
    centre = torch.rand(1, 3, size, size, generator=generator) * 2 - 1
    source = 0.8 * centre + 0.2 * torch.rand(images, 3, size, size, generator=generator)
    return Batch(source, -source)


def run(made, steps, rate=1e-3):
    return list(train(made, neighbourhood, Schedule(steps, rate), optimizers=make_optimizers(made)))


def states(*networks):
    return [{k: v.clone() for k, v in network.state_dict().items()} for network in networks]


def equal(one, other):
    return all(torch.equal(value, other[key]) for key, value in one.items())


def test_agents_learn_and_the_networks_stay_as_they_are():
    pair = players()
    networks = [p.gated.network for p in pair]
    agents = [p.agent for p in pair]
    before, learning = states(*networks), states(*agents)
    logged = run(method(pair), steps=2)
    assert set(logged[0]) == {
        "discriminator/adversarial",
        "discriminator/resource",
        "student/adversarial",
        "student/kernel_density",
        "student/imitation",
        "student/resource",
    }
    assert all(equal(*two) for two in zip(before, states(*networks), strict=True))
    assert not any(equal(*two) for two in zip(learning, states(*agents), strict=True))
    assert not any(p.grad is not None for network in networks for p in network.parameters())


def test_the_paper_needs_no_explicit_density():
    logged = run(mggc(*players()), steps=1)
    assert set(logged[0]) == {
        "discriminator/adversarial",
        "discriminator/resource",
        "student/adversarial",
        "student/resource",
    }


def test_an_explicit_density_needs_an_embedding():
    with pytest.raises(ValueError, match="give one, or kernel_density = 0"):
        mggc(*players(), weights=Weights(kernel_density=1.0))


def test_an_update_moves_its_agent_and_not_the_other():
    pair = players()
    made = method(pair)
    for update, moved, still in ((made.updates[0], 1, 0), (made.updates[1], 0, 1)):
        before = states(*(p.agent for p in pair))
        parameters = list(made.networks[update.network].parameters())
        outputs = made.forward(neighbourhood(0))
        apply_update(update, outputs, torch.optim.SGD(parameters, lr=0.1))
        after = states(*(p.agent for p in pair))
        assert not equal(before[moved], after[moved])
        assert equal(before[still], after[still])


def test_the_student_is_the_teacher_without_some_channels():
    pair = players()
    made = method(pair)
    torch.manual_seed(0)
    outputs = made.forward(neighbourhood(0))
    with torch.no_grad():
        assert torch.equal(outputs.teacher, pair[0].gated.network(neighbourhood(0).source))
    assert not outputs.teacher.requires_grad
    assert outputs.student.requires_grad
    assert not torch.equal(outputs.student, outputs.teacher)


def test_agents_come_down_to_their_budgets():
    pair = players()
    logged = run(method(pair), steps=80, rate=5e-3)
    for name, one in zip(("student", "discriminator"), pair, strict=True):
        assert logged[0][f"{name}/resource"] > 1.0
        last = [row[f"{name}/resource"] for row in logged[-10:]]
        assert sum(last) / len(last) < 0.2 * logged[0][f"{name}/resource"]
        logits = decide(one, pair[0] if one is pair[1] else pair[1]).logits
        kept = harden(one.gated.structure, logits, one.limit, channel_multiple=1)
        mask = torch.cat(
            [
                torch.zeros(c.channels).index_fill(0, torch.tensor(kept[c.name]), 1.0)
                for c in one.gated.structure.couplings
            ]
        )
        assert 0.95 * one.limit.goal <= one.limit.reached(mask) <= one.limit.goal


def test_agents_find_the_channels_that_make_the_image():
    generator = SmallGenerator(width=8)
    with torch.no_grad():
        generator.block[1][0].weight[:, 1::2] = 0  # what odd channels hold goes nowhere
        generator.block[1][0].weight[:, ::2] *= 4
    pair = players(generator, reduction=1.9)
    run(method(pair, weights=Weights(imitation=50.0)), steps=150, rate=5e-3)
    one, peer = pair
    logits = decide(one, peer).logits
    kept = harden(one.gated.structure, logits, one.limit, channel_multiple=1)
    assert kept == {"block.0.0": [0, 2, 4, 6]}


def test_agents_hear_each_other_and_go_on_hearing_after_a_kill():
    pair = players()
    made = method(pair)
    run(made, steps=2)
    painter, critic = pair
    assert painter.agent.said.any()
    assert critic.agent.said.any()
    # the generator's agent spoke last, having heard the discriminator's
    torch.testing.assert_close(painter.agent.said, decide(painter, critic).state)
    with torch.no_grad():
        critic.agent.said.neg_()
    assert not torch.equal(decide(painter, critic).state, painter.agent.said)
    assert {"said", "codes"} <= made.networks["student"].state_dict().keys()


def test_a_deaf_agent_does_not_hear():
    pair = players()
    run(method(pair, feedback=False), steps=2)
    painter, critic = pair
    assert not painter.agent.said.any()
    alone = decide(painter, critic, feedback=False).logits
    with torch.no_grad():
        critic.agent.said.fill_(1.0)
    assert torch.equal(decide(painter, critic, feedback=False).logits, alone)
    assert not torch.equal(decide(painter, critic).logits, alone)


def test_feedback_changes_what_is_found():
    found = []
    for feedback in (True, False):
        pair = players()
        run(method(pair, feedback=feedback), steps=20, rate=5e-3)
        one, peer = pair
        logits = decide(one, peer, feedback=feedback).logits
        found.append(harden(one.gated.structure, logits, one.limit, channel_multiple=1))
    assert found[0] != found[1]


def tuning(**options):
    teacher, student = tiny_generator(8, blocks=2), tiny_generator(4, blocks=2, seed=1)
    torch.manual_seed(5)
    judge = initialize(PatchDiscriminator(6, 4))
    return rivals(student, judge, teacher=teacher.eval(), **options), judge


def test_fine_tuning_is_pix2pix_of_the_pruned_pair():
    made, judge = tuning()
    outputs = made.forward(neighbourhood(0, images=2))
    of_judge, of_student = (update.objective(outputs) for update in made.updates)
    batch = outputs.batch
    with torch.no_grad():
        real = judge(torch.cat([batch.source, batch.target], 1))
        fake = judge(torch.cat([batch.source, outputs.student], 1))
        distance = (outputs.student - batch.target).abs().mean()
    want = 0.5 * ((real - 1).square().mean() + fake.square().mean())
    torch.testing.assert_close(of_judge["adversarial"], want)
    torch.testing.assert_close(of_student["adversarial"], (fake - 1).square().mean())
    torch.testing.assert_close(of_student["reconstruction"], 100 * distance)
    assert set(of_student) == {"adversarial", "reconstruction"}


def test_fine_tuning_without_a_truth_takes_the_teachers_images_for_it():
    made, judge = tuning(real="teacher", likeness=Likeness(imitation=10.0))
    batch = Batch(neighbourhood(0, images=2).source)
    outputs = made.forward(batch)
    losses = made.updates[0].objective(outputs)
    with torch.no_grad():
        real = judge(torch.cat([batch.source, outputs.teacher], 1))
        fake = judge(torch.cat([batch.source, outputs.student], 1))
    want = 0.5 * ((real - 1).square().mean() + fake.square().mean())
    torch.testing.assert_close(losses["adversarial"], want)
    with pytest.raises(ValueError, match="needs paired batches"):
        tuning()[0].updates[0].objective(outputs)


def test_every_loss_of_fine_tuning_moves_its_network_and_no_other():
    made, _ = tuning(likeness=Likeness(reconstruction=10.0, imitation=1.0))
    for update in made.updates:
        for name in update.objective(made.forward(neighbourhood(0, images=2))):
            loss = update.objective(made.forward(neighbourhood(0, images=2)))[name]
            for network, module in made.networks.items():
                found = torch.autograd.grad(
                    loss, list(module.parameters()), allow_unused=True, retain_graph=True
                )
                size = sum(float(g.abs().sum()) for g in found if g is not None)
                if network == update.network:
                    assert size > 0, f"{network}/{name} moves nothing"
                elif update.network == "discriminator":
                    assert size == 0, f"discriminator/{name} moves the {network}"
